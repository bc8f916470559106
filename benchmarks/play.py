"""Speed and memory of `diamond-gym play`: `python -m benchmarks.play`, on Linux.

Starts the server and talks to it as the page does: frames a second of each bundled world (as fast as the server goes,
60 wanted), the time from a key to the first frame that it decided, the time to fetch the page, and the server's memory
while tabs are opened and closed and while one plays on. `--minutes 20 --tabs 50` is what docs/play.md quotes.
"""

import argparse
import json
import re
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from websockets.sync.client import ClientConnection, connect

HEADER = struct.Struct("<BBHIHHII")


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    address: str

    def fetch(self, path: str) -> bytes:
        with urllib.request.urlopen(self.address.replace("/?", f"{path}?")) as answer:
            content: bytes = answer.read()
        return content

    @contextmanager
    def tab(self) -> Iterator[ClientConnection]:
        address = self.address.replace("http", "ws", 1).replace("/?", "/ws?")
        with connect(address, max_size=1 << 24) as socket:
            yield socket

    def megabytes(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """Runs `diamond-gym play` with further options."""
    command = [sys.executable, "-m", "diamond_gym", "play", "--no-open", "--device", "cpu", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Server(process, next(word for line in process.stdout for word in line.split() if word.startswith("http")))
    finally:
        process.terminate()
        process.wait()


def send(socket: ClientConnection, kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def receive(socket: ClientConnection) -> dict[str, Any]:
    """The next message; frames are acknowledged at once."""
    message = socket.recv(timeout=120)
    if isinstance(message, str):
        content: dict[str, Any] = json.loads(message)
        return content
    _, kind, _, step, _, _, sequence, _ = HEADER.unpack_from(message)
    send(socket, "ack", sequence=sequence)
    return {"type": "frame", "kind": kind, "step": step}


def start(socket: ClientConnection, world: str, **fields: Any) -> None:
    send(socket, "start", world=world, **fields)
    while (message := receive(socket))["type"] != "started":
        assert message["type"] not in ("busy", "error"), message
    frames(socket, 1)


def frames(socket: ClientConnection, count: int) -> float:
    """Waits for so many frames of the dream; seconds."""
    began, seen = time.perf_counter(), 0
    while seen < count:
        message = receive(socket)
        seen += message["type"] == "frame" and message["kind"] == 0
    return time.perf_counter() - began


def steps_per_second(server: Server, world: str, agent: bool, steps: int = 150) -> float:
    """Steps a second by the step numbers of the states, as fast as the server goes."""
    with server.tab() as socket:
        start(socket, world, seed=1, agent=agent, fps=60)
        frames(socket, 10)
        first = last = 0
        began = now = time.perf_counter()
        while last - first < steps:
            message = receive(socket)
            if message["type"] == "state":
                now = time.perf_counter()
                if not first:
                    first, began = message["step"], now
                last = message["step"]
        send(socket, "close")
    return (last - first) / (now - began)


def key_to_frame(server: Server, world: str, times: int = 40) -> list[float]:
    """Seconds from sending a key to the frame of the first step that took it."""
    taken = []
    with server.tab() as socket:
        start(socket, world, seed=1, agent=False, fps=15)
        down = False
        for _ in range(times):
            frames(socket, 3 + len(taken) % 3)
            down = not down
            before, began, step = None, time.perf_counter(), None
            send(socket, "keys", down=["space"] if down else [])
            while True:
                message = receive(socket)
                if message["type"] == "state" and step is None and message["action"] is not None:
                    before = message["action"] if before is None else before
                    pressed = message["action"] == 1  # FIRE in the bundled games that have it
                    step = message["step"] if pressed == down else None
                elif message["type"] == "frame" and message["kind"] == 0 and step is not None:
                    break
            taken.append(time.perf_counter() - began)
        send(socket, "close")
    return taken


def page(server: Server) -> tuple[float, int]:
    """Seconds to fetch the page with all its files, one after the other, and their bytes."""
    began = time.perf_counter()
    html = server.fetch("/")
    names, total, seen = re.findall(r'(?:src|href)="(/?static/[^"?]+)', html.decode()), len(html), set[str]()
    while names:
        name = "/" + names.pop().lstrip("/")
        if name in seen:
            continue
        seen.add(name)
        content = server.fetch(name)
        total += len(content)
        if name.endswith(".js"):
            names += [f"static/{module}" for module in re.findall(r'from "\./([^"]+)"', content.decode())]
    server.fetch("/api/worlds")
    return time.perf_counter() - began, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="of play while memory is watched")
    parser.add_argument("--tabs", type=int, default=10, help="opened and closed")
    parser.add_argument("--worlds", nargs="*", default=["Boxing", "Breakout", "Freeway", "MsPacman", "Pong"])
    options = parser.parse_args()
    with serving("--max-sessions", "4") as server:
        seconds, size = page(server)
        print(f"page and its files\t{seconds:.2f} s, {size / 1000:.0f} kB")
        for world in options.worlds:
            rates = [steps_per_second(server, world, agent) for agent in (False, True)]
            print(f"{world}\t{rates[0]:.1f} steps/s, with an agent looking on {rates[1]:.1f}", flush=True)
        taken = key_to_frame(server, "Breakout")
        print(
            f"key to frame, Breakout at 15 steps/s\tmedian {1000 * median(taken):.0f} ms, most {1000 * max(taken):.0f}"
        )
        print(f"memory\t{server.megabytes():.0f} MB", flush=True)
        for _ in range(options.tabs):
            with server.tab() as socket:
                start(socket, "Breakout", fps=60)
                frames(socket, 5)
                send(socket, "close")
        print(f"after {options.tabs} tabs opened and closed\t{server.megabytes():.0f} MB", flush=True)
        with server.tab() as socket:
            start(socket, "Breakout", fps=15)
            for minute in range(int(options.minutes)):
                frames(socket, 15 * 60)
                print(f"after {minute + 1} minutes of play\t{server.megabytes():.0f} MB", flush=True)


if __name__ == "__main__":
    main()
