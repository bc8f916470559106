"""Whom the play server refuses, and what malformed messages and requests do to it: nothing."""

import json
import random
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest

pytest.importorskip("starlette", reason="the extra play is not installed")
pytest.importorskip("uvicorn", reason="the extra play is not installed")
pytest.importorskip("websockets", reason="the extra play is not installed")

from play_client import WAIT, Client, House
from test_play_protocol import EXAMPLES
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from diamond_gym.play.worlds import Worlds

pytestmark = pytest.mark.usefixtures("no_error_is_logged")


def test_only_who_knows_the_token(house: House) -> None:
    for path in ("/", "/api/worlds", "/api/preview/Breakout.png", "/api/recordings/x.mp4", "/nowhere"):
        for query in (
            "",
            "?token=",
            "?token=wrong",
            f"?token={house.token[:-1]}",
            f"?token={house.token}x",
            "?token=%ff",
        ):
            assert house.get(path + query)[0] == 403, path + query
    assert house.get(f"/?token={house.token}")[0] == 200
    assert house.get("/static/play.js")[0] == 200
    listing = json.loads(house.get(f"/api/worlds?token={house.token}")[1])
    assert listing["worlds"][0]["name"] == "Breakout"
    assert listing["worlds"][0]["models"][0]["name"] == "tiny"
    assert house.get(f"/api/preview/Pong.png?token={house.token}")[1][:4] == b"\x89PNG"
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{house.port}/ws?token=wrong", open_timeout=WAIT)


@pytest.mark.parametrize("path", ["/", "/static/play.js", "/api/worlds"])
def test_foreign_sites_are_refused(house: House, path: str) -> None:
    here, query = f"127.0.0.1:{house.port}", f"?token={house.token}"
    for host in (
        "evil.example",
        f"evil.example:{house.port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "[",
        "a@127.0.0.1:1@b",
    ):
        assert house.get(path + query, Host=host)[0] in (400, 403), host
    for host in (here, f"localhost:{house.port}", "localhost", "[::1]:8000", "127.0.0.1"):
        assert house.get(path + query, Host=host)[0] == 200, host
    for origin in (
        "http://evil.example",
        "null",
        f"http://localhost:{house.port}",
        "http://127.0.0.1:1",
        "file://",
        "http://[",
        "",
    ):
        assert house.get(path + query, Origin=origin)[0] == 403, origin
    assert house.get(path + query, Origin=f"http://{here}")[0] == 200


def test_foreign_sites_open_no_websocket(house: House) -> None:
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        with pytest.raises(InvalidStatus, match="403"):
            Client(house, Origin=origin)
    with Client(house, Origin=f"http://127.0.0.1:{house.port}") as client:
        assert client.hello["version"] == 1


def test_the_page_lets_nobody_else_in(house: House) -> None:
    with urllib.request.urlopen(f"{house.address}/?token={house.token}", timeout=WAIT) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"


def malformed(seed: int) -> str | bytes:
    """Something that is no message, or one that cannot be done."""
    rng = random.Random(seed)
    text = json.dumps(rng.choice(EXAMPLES))
    way = rng.randrange(7)
    if way == 0:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(64)))
    if way == 1:
        return text[: rng.randrange(len(text))]
    if way == 2:
        at = rng.randrange(len(text))
        return text[:at] + rng.choice('{}[]",:\\\0\ud7ff\U0001f3ae9-') + text[at:]
    if way == 3:
        return "".join(chr(rng.randrange(32, 0x2FF)) for _ in range(rng.randrange(200)))
    if way == 4:
        return rng.choice(["[", '{"type":', '{"a":[']) * rng.randrange(1, 500)
    wrong = rng.choice(
        [None, -1, 2**70, 1e300, float("nan"), "x" * 999, [[1]], {"a": 1}, ["w"] * 40, "../../etc/passwd"]
    )
    if way == 5:
        message = json.loads(text)
        return json.dumps({**message, rng.choice([*message, "__class__", "more"]): wrong})
    return json.dumps(
        {"type": rng.choice(["start", "seek", "choose", "quality", "action"]), "world": "a", "step": 2**31 - 1}
    )


def test_malformed_messages_harm_nobody(house: House, worlds: Worlds) -> None:
    """600 of them, while another player's dream goes on as if alone."""
    with Client(house).paused() as alone:
        wanted = [alone.step(action).copy() for action in (1, 2, 3, 0, 1, 2)]
        alone.send("close")
    sent, answered = 0, 0
    with Client(house).paused() as other:
        for part, action in enumerate((1, 2, 3, 0, 1, 2)):
            with Client(house) as client:
                if part % 2:
                    client.paused()
                for number in range(100):
                    message = malformed(1000 * part + number)
                    if '"close"' in str(message):
                        continue
                    client.socket.send(message)
                    sent += 1
                client.send("speed", fps=9) if part % 2 else client.send("start", world="?")
                while True:
                    got = client.receive()
                    answered += got is not None and got["type"] == "error"
                    if got is not None and (got.get("target_fps") == 9 or got.get("code") == "unknown_world"):
                        break
            assert (other.step(action) == wanted[part]).all()
    assert sent > 500
    assert answered > 400
    assert house.get(f"/?token={house.token}")[0] == 200


def requests(token: str) -> Iterator[bytes]:
    """More than 200 requests that are none, or ask for what there is not."""
    rng = random.Random(7)
    paths = [
        "/../../etc/passwd", "/static/../server.py", "/static/..%2fserver.py", "/static/%2e%2e/session.py", "/static/",
        "/static/%00", "//etc/passwd", "/api/preview/../../x.png", "/api/preview/%2e%2e%2f%2e%2e%2fx.png",
        "/api/recordings/../../etc/passwd", "/api/recordings/%2fetc%2fpasswd", "/ws", "/api/worlds/", "/%ff%fe", "*",
        "http://evil.example/", "/?token=" + "x" * 5000, "/?" + "a=b&" * 500, "/api/preview/" + "a" * 900 + ".png",
    ]  # fmt: skip
    for path in paths:
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW"):
            query = ("&" if "?" in path else "?") + f"token={token}"
            yield f"{method} {path}{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    heads = [
        b"", b"\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", b"\0" * 100,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"GET /ws?token=" + token.encode() + b" HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n",
        b"GET /ws?token=" + token.encode() + b" HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 99\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ]  # fmt: skip
    yield from heads
    for _ in range(60):
        yield bytes(rng.randrange(256) for _ in range(rng.randrange(1, 300)))


def test_malformed_requests_harm_nobody(house: House) -> None:
    statuses = []
    with Client(house).paused() as other:
        for request in requests(house.token):
            with socket.create_connection(("127.0.0.1", house.port), timeout=WAIT) as raw:
                raw.sendall(request)
                with suppress(OSError):
                    raw.shutdown(socket.SHUT_WR)
                    answer = b""
                    while chunk := raw.recv(65536):
                        answer += chunk
            statuses.append(int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0)
            assert b"Traceback" not in answer
            assert b"root:" not in answer
            assert b"import " not in answer
        other.step(1)
    assert len(statuses) > 200
    assert not [status for status in statuses if status >= 500]
    assert house.get(f"/?token={house.token}")[0] == 200


def test_too_much_is_refused(house: House) -> None:
    with Client(house) as client:
        with suppress(ConnectionClosed):
            for _ in range(3000):
                client.send("ack", sequence=0)
        assert client.closed() == 1008
    with Client(house) as client:
        client.send("keys", down=["w" * 5000])
        assert client.closed() == 1009
