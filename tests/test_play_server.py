"""The play server over real sockets: its frames, its limits, and whom it refuses."""

import asyncio
import gc
import io
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra play is not installed")
pytest.importorskip("uvicorn", reason="the extra play is not installed")
pytest.importorskip("websockets", reason="the extra play is not installed")

from PIL import Image
from stubs import ACTIONS, save_tiny_model
from test_play_protocol import EXAMPLES
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from diamond_gym.play import channel, server
from diamond_gym.play.player import Player
from diamond_gym.play.protocol import Kind, unpack
from diamond_gym.play.recording import ActionLog
from diamond_gym.play.server import Server
from diamond_gym.play.serving import Running, listen
from diamond_gym.play.settings import Begin, Settings
from diamond_gym.play.worlds import Worlds
from diamond_gym.registry import resolve

WAIT = 30  # seconds that anything may take on a busy machine


class Client:
    """A player who draws every frame at once, unless told otherwise."""

    def __init__(self, running: "House", resume: str = "", draws: bool = True, **headers: str) -> None:
        address = f"ws://127.0.0.1:{running.port}/ws?token={running.token}"
        self._stack = ExitStack()
        opening = connect(
            address + (f"&resume={resume}" if resume else ""), additional_headers=headers, open_timeout=WAIT,
            max_size=None,
        )  # fmt: skip
        self.socket = self._stack.enter_context(opening)
        self.draws, self.kinds, self.frames = draws, dict[Kind, int](), dict[int, np.ndarray]()
        self.state: dict = {}
        self.hello = self.until("hello")

    def send(self, type: str, **fields: object) -> None:
        self.socket.send(json.dumps({"type": type, **fields}))

    def receive(self, timeout: float = WAIT) -> dict | None:
        """The next message; None for a frame, which is kept."""
        got = self.socket.recv(timeout)
        if isinstance(got, str):
            message = json.loads(got)
            if message["type"] == "state":
                self.state = message
            return message
        kind, index, step, sequence, picture = unpack(got)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        pixels = np.asarray(Image.open(io.BytesIO(picture)))
        if kind is Kind.DREAM:
            self.frames[step] = pixels
            if self.draws:
                self.send("ack", sequence=sequence)
        elif kind is Kind.BRANCH:
            self.frames[-1000 * (index + 1) - step] = pixels
        return None

    def until(self, type: str, **fields: object) -> dict:
        """The next message of a type with these fields."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            message = self.receive()
            if message is not None and message["type"] == type and fields.items() <= message.items():
                return message
            assert message is None or message["type"] != "error", message
        raise TimeoutError(type)

    def start(self, **fields: object) -> "Client":
        self.send("start", **{"world": "Breakout", "seed": 5, **fields})
        self.until("started")
        self.until("state")
        return self

    def paused(self, **fields: object) -> "Client":
        """In a dream at its first frame."""
        self.start(**fields)
        self.send("pause", on=True)
        self.until("state", paused=True)
        self.send("reset")
        self.until("state", episode_step=0)
        self.first = self.state["step"]
        while self.first not in self.frames:
            self.receive()
        return self

    def step(self, action: int) -> np.ndarray:
        """The frame after an action."""
        step = self.state["step"] + 1
        self.send("action", action=action)
        self.send("step")
        while step not in self.frames:
            self.receive()
        return self.frames[step]

    def alive(self) -> int:
        """Plays on until the game has not just ended; the step then."""
        while self.state["terminated"] or not self.state["episode_step"]:
            self.step(1)
        return self.state["step"]

    def closed(self) -> int | None:
        """The code with which the server closes the connection."""
        with suppress(ConnectionClosed):
            for _ in range(10_000):
                self.socket.recv(WAIT)
        return self.socket.close_code

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class House:
    """A server that runs in a thread."""

    def __init__(self, worlds: Worlds, **settings: object) -> None:
        self.server = Server(worlds, Settings(**settings))
        listening = listen("127.0.0.1", 0)
        self.port, self.token = listening.getsockname()[1], self.server.token
        self.address, ready = f"http://127.0.0.1:{self.port}", threading.Event()
        self.running = Running(self.server, ready.set)
        self.thread = threading.Thread(target=self.running.run, kwargs={"sockets": [listening]})
        self.thread.start()
        assert ready.wait(WAIT)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(self.address + path, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=WAIT) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def stop(self) -> None:
        self.running.should_exit = True
        self.thread.join(WAIT)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """The tiny model before the bundled ones."""
    before, folder = os.environ["DIAMOND_GYM_HOME"], str(tmp_path_factory.mktemp("play"))
    os.environ["DIAMOND_GYM_HOME"] = folder
    try:
        save_tiny_model()
        return Worlds("cpu", "float32", first=resolve("tiny"))
    finally:
        os.environ["DIAMOND_GYM_HOME"] = before


@contextmanager
def serving(worlds: Worlds, **settings: object) -> Iterator[House]:
    house = House(worlds, **{"fps": 30, "max_sessions": 3, **settings})
    try:
        yield house
    finally:
        house.stop()


@pytest.fixture(scope="module")
def house(worlds: Worlds) -> Iterator[House]:
    with serving(worlds) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_went_wrong(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test may leave a traceback or any other error in the log."""
    caplog.set_level(logging.WARNING)
    yield
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
    assert not errors


def gone(reference: weakref.ref, wait: float = WAIT) -> bool:
    end = time.monotonic() + wait
    while time.monotonic() < end:
        gc.collect()
        if reference() is None:
            return True
        time.sleep(0.05)
    return False


def test_frames_are_those_of_the_environment(house: House, worlds: Worlds) -> None:
    env = gym.make(
        "DiamondDream-v0", model=worlds.first.folder, device="cpu", precision="float32", max_episode_steps=-1
    )
    obs, _ = env.reset(seed=5)
    with Client(house).paused() as client:
        assert (client.frames[client.first] == obs).all()
        for action in np.random.default_rng(0).integers(0, ACTIONS, 12).tolist():
            frame = client.step(action)
            if client.state["episode_step"] == 0:
                obs, _ = env.reset()
            else:
                obs, reward, terminated, _, _ = env.step(action)
                assert (client.state["reward"], client.state["terminated"]) == (reward, terminated)
            assert (frame == obs).all()


def test_the_dream_runs_by_itself_while_it_is_seen(house: House) -> None:
    with Client(house).start() as client:
        for _ in range(200):
            client.receive()
            if client.state["step"] > 5:
                break
        assert client.state["step"] > 5
        assert client.state["target_fps"] == 30
        client.send("visible", on=False)
        client.until("state", hidden=True)
        time.sleep(0.3)
        client.send("speed", fps=7)
        still = client.until("state", target_fps=7)["step"]
        client.send("visible", on=True)
        client.until("state", hidden=False)
        while client.state["step"] < still + 3:
            client.receive()


def test_keys_become_actions(house: House) -> None:
    with Client(house).paused() as client:
        for keys, action in (["space"], 1), (["w"], 2), (["w", "space"], 3), ([], 0), (["nonsense"], 0):
            client.send("keys", down=keys)
            step = client.state["step"] + 1
            client.send("step")
            client.until("state", step=step)
            assert client.state["action"] == action or client.state["episode_step"] == 0


def test_going_back_and_on_over_the_wire(house: House) -> None:
    with Client(house).paused() as client:
        first = client.first
        frames = [client.step(action) for action in (1, 2, 3, 1, 2, 3, 0, 1, 2, 3)]
        client.send("seek", step=first + 4)
        assert client.until("state", seek=first + 4)["timeline"]["last"] == first + 10
        client.send("thumbnails", count=5)
        client.send("resume_from", step=first + 4)
        client.until("state", seek=None)
        client.send("pause", on=True)
        client.send("seek", step=first + 4)
        client.send("resume_from", step=first + 4)
        client.send("pause", on=True)
        client.until("state", paused=True, step=first + 4)
        assert client.kinds[Kind.THUMBNAIL] == 5
        before = dict(client.frames)
        client.frames.clear()
        client.state["step"] = first + 4
        assert (client.step(2) == frames[4]).all()
        assert (before[first + 4] == frames[3]).all()


def test_a_branch_is_chosen_as_it_was_shown(house: House) -> None:
    with Client(house).paused() as client:
        client.step(1)
        at = client.alive()
        client.send("branch", kind="actions", steps=3)
        shown = client.until("branches", done=True)
        assert shown["labels"] == ["NOOP", "FIRE", "UP", "UPFIRE"]
        client.send("choose", index=2)
        client.until("state", branching=False)
        steps = min(3, client.state["step"] - at)
        client.send("seek", step=at + steps)
        client.until("state", branching=False)
        last = client.state["step"]
        while last not in client.frames:
            client.receive()
        assert (client.frames[last] == client.frames[-3000 - steps]).all()
        client.alive()
        client.send("branch", kind="dice", steps=2, count=3)
        client.until("branches")
        client.send("cancel_branch")
        client.until("state", branching=False)


def test_denoising_is_shown(house: House) -> None:
    with Client(house).paused() as client:
        client.send("denoise", on=True)
        client.until("state", denoise=True)
        client.step(1)
        while Kind.SPREAD not in client.kinds:
            client.receive()
        assert client.kinds[Kind.DENOISING] >= 3  # two steps of the tiny model's, and the noise


def test_a_slow_client_loses_frames_and_no_steps(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_PATIENCE", 0.5)
    with Client(house, draws=False).start() as client:
        while client.state["step"] < 40:
            client.receive()
        assert len(client.frames) < client.state["step"] / 2
        assert client.state["timeline"]["last"] == client.state["step"]


def test_what_cannot_be_done_is_said(house: House) -> None:
    with Client(house) as client:
        for message, code in [
            ({"type": "step"}, "not_started"), ({"type": "start", "world": "Nowhere"}, "unknown_world"),
            ({"type": "start", "world": "Breakout", "model": "../tiny"}, "unknown_world"),
            ({"type": "start", "world": "Breakout", "quality": "best"}, "unavailable"),
        ]:  # fmt: skip
            client.send(**message)
            assert client.until("error")["code"] == code
        client.paused()
        for message in [
            {"type": "seek", "step": 10**6}, {"type": "choose", "index": 0}, {"type": "control", "by": "agent"},
            {"type": "quality", "name": "quality"}, {"type": "action", "action": ACTIONS},
            {"type": "action", "action": [1]}, {"type": "export", "format": "gif"},
        ]:  # fmt: skip
            client.send(**message)
            assert client.until("error")["code"] == "unavailable"
        client.step(1)


def test_a_recording_is_fetched(house: House, tmp_path: Path) -> None:
    with Client(house).paused() as client:
        client.send("export", format="gif")
        assert client.until("error")["code"] == "unavailable"
        client.send("record", on=True)
        frames = [client.step(action) for action in (1, 2, 3)]
        steps = client.state["recording"]
        assert 1 <= steps <= 3, "a dream that has ended begins anew instead"
        client.send("record", on=False)
        recorded = client.until("recorded")
        assert (recorded["formats"], recorded["steps"]) == (["mp4", "gif", "log"], steps)
        for kind in ("gif", "log", "mp4"):
            client.send("export", format=kind)
            exported = client.until("exported")
            status, content = house.get(exported["url"] + f"?token={house.token}")
            assert (status, len(content)) == (200, exported["bytes"])
            (tmp_path / kind).write_bytes(content)
        assert house.get(exported["url"])[0] == 403
    assert b"ftyp" in content[:16]
    with Image.open(tmp_path / "gif") as film:
        assert film.n_frames == 4
        film.seek(3)
        error = np.abs(np.asarray(film.convert("RGB"))[::20, ::20].astype(int) - frames[-1])
        assert error.mean() < 20, "the last frame, in a GIF's 256 colours"
    log = ActionLog.read(tmp_path / "log")
    assert sum(name == "act" for name, _ in log.operations[-3:]) == steps
    for operation, action in zip(log.operations[-3:], (1, 2, 3), strict=True):
        assert operation in (["act", action], ["reset", None])


class VirtualTime(asyncio.SelectorEventLoop):
    """A loop on which waiting takes no time, and the clock tells what it would have taken."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._selector.select = self.skip

    def skip(self, timeout: float | None) -> list:
        self.now += timeout or 0
        return []

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("compute", "seconds", "steps"),
    [
        (lambda step: 0.001, 20, 400), (lambda step: 0.01 + step * 7 % 35 / 1000, 20, 400),  # 45 of 50 ms at most
        (lambda step: 0.1, 20, 200),  # too slow: as fast as it can
        (lambda step: 0.2 if step == 10 else 0.01, 20, 400),  # a short delay is caught up with
        (lambda step: 5.01 if step == 10 else 0.01, 20, 300),  # a long one is not: no burst of steps after it
    ],
)  # fmt: skip
def test_the_pace_follows_the_clock(compute, seconds: int, steps: int) -> None:
    played = []

    class Paced:
        notices = ()
        view = staticmethod(lambda: None)

        def advance(self) -> SimpleNamespace:
            played.append(loop.time())
            return SimpleNamespace(ended=False)

    class Works:
        async def work(self, function, *args):
            await asyncio.sleep(compute(len(played)))
            return function(*args)

    async def run() -> None:
        player, game = Player(Works()), Paced()
        player.game, player.fps, player.channel._socket = game, 20, object()
        player.changed()
        task = asyncio.create_task(player._pace(game))
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.wait([task])

    loop = VirtualTime()
    loop.run_until_complete(run())
    loop.close()
    assert abs(len(played) - steps) <= 2
    assert min(np.diff(played)) > 0.005, "two steps in one frame"


# Who may come in


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


# Sessions


def test_busy_until_somebody_leaves(house: House) -> None:
    clients = [Client(house).start() for _ in range(3)]
    with Client(house) as late:
        late.send("start", world="Breakout")
        assert late.until("busy")["limit"] == 3
        clients[0].start(seed=9)  # who plays already may begin anew
        clients[0].send("close")
        assert clients[0].closed() == 1000
        late.start()
    for client in clients[1:]:
        client.send("close")
        client.closed()


def test_each_has_a_dream_of_its_own(house: House) -> None:
    with (
        Client(house).paused(seed=1) as one,
        Client(house).paused(seed=2) as other,
        Client(house).paused(seed=1) as third,
    ):
        for action in (1, 2, 3):
            frames = [client.step(action) for client in (one, other, third)]
        assert (frames[0] == frames[2]).all()
        assert (frames[0] != frames[1]).any()


def test_a_lost_connection_goes_on(house: House) -> None:
    client = Client(house).paused()
    frame = client.step(2)
    step, identity = client.state["step"], client.hello["session"]
    client.socket.socket.shutdown(socket.SHUT_RDWR)
    with Client(house, resume=identity) as again:
        assert again.hello == {"type": "hello", "version": 1, "session": identity, "resumed": True}
        assert again.until("started")["seed"] == 5
        again.until("state", step=step, paused=True)
        while step not in again.frames:
            again.receive()
        assert (again.frames[step] == frame).all()
        with Client(house, resume=identity) as third:  # as another tab may take it
            assert third.hello["resumed"]
            assert again.closed() == 4001
            third.until("state")
            third.step(1)
            third.send("close")
    with Client(house, resume=identity) as late:
        assert not late.hello["resumed"]
        assert late.hello["session"] != identity


def test_a_session_that_is_not_resumed_ends(house: House, worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(house).start() as client:
        game = weakref.ref(house.server.players[client.hello["session"]].game)
        assert game() is not None
    assert not gone(game, 1.5)
    monkeypatch.setattr(server, "LINGER", 0.1)
    assert gone(game)
    assert client.hello["session"] not in house.server.players


def test_a_lost_session_makes_room(house: House) -> None:
    lost = [Client(house).start() for _ in range(3)]
    for client in lost:
        client.socket.socket.shutdown(socket.SHUT_RDWR)
    end = time.monotonic() + WAIT
    while any(player.channel.attached for player in house.server.players.values()) and time.monotonic() < end:
        time.sleep(0.02)
    with Client(house) as late:
        late.start()
        late.send("close")
        late.closed()


def test_closing_frees_the_memory(house: House, worlds: Worlds) -> None:
    with Client(house).start() as client:
        player = house.server.players[client.hello["session"]]
        references = [weakref.ref(player), weakref.ref(player.game), weakref.ref(player.game.session)]
        del player
        client.send("close")
        assert client.closed() == 1000
    assert all(gone(reference) for reference in references)
    assert client.hello["session"] not in house.server.players


def test_the_end_of_the_server_is_said(worlds: Worlds) -> None:
    with serving(worlds) as house:
        client = Client(house).start()
        house.running.should_exit = True
        assert client.until("closed")["reason"] == "the server has ended"
        assert client.closed() == 1001


def test_what_the_command_was_asked_for_is_what_begins(worlds: Worlds) -> None:
    asked = {"begin": Begin(quality="fast", horizon=3), "seed": 8, "world": "Breakout", "fps": 12}
    with serving(worlds, **asked) as house, Client(house) as client:
        client.send("start", world="Breakout")
        started = client.until("started")
        assert (started["seed"], started["horizon"]) == (8, 3)
        assert client.until("state")["quality"] == "fast"
        assert client.state["target_fps"] == 12


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_the_command_prints_its_address_and_ends_quietly(root: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(root), "SSH_CONNECTION": "10.0.0.9 1 10.0.0.5 22", "USER": "ada"}
    words = [sys.executable, "-m", "diamond_gym", "play", "--no-open"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as command:
        assert command.stdout is not None
        printed = [command.stdout.readline().strip() for _ in range(3)]
        address = printed[0].removeprefix("play at").strip()
        port = urlsplit(address).port
        with urllib.request.urlopen(address, timeout=WAIT) as answer:
            assert b"<title" in answer.read()
        assert printed[1].endswith(f"ssh -N -L {port}:localhost:{port} ada@10.0.0.5")
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=WAIT)
    assert (command.returncode, out, err) == (0, "", "")
