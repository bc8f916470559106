"""A player over a real socket, and a play server that runs in a thread, for the tests of the server."""

import gc
import io
import json
import os
import struct
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
from PIL import Image
from stubs import save_tiny_model
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from diamond_gym.play.protocol import VERSION, Kind
from diamond_gym.play.server import Server
from diamond_gym.play.serving import Running, listen
from diamond_gym.play.settings import Settings
from diamond_gym.play.worlds import Worlds
from diamond_gym.registry import resolve

WAIT = 30  # seconds that anything may take on a busy machine


def unpack(message: bytes) -> tuple[Kind, int, int, int, bytes]:
    """A binary frame's kind, index, step, sequence and picture."""
    version, kind, index, step, _, _, sequence, _ = struct.unpack_from("<BBHIHHII", message)
    assert version == VERSION
    return Kind(kind), index, step, sequence, message[20:]


class Client:
    """A player who draws every frame at once, unless asked otherwise."""

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
                with suppress(ConnectionClosed):  # what the server sent before it closed is still to be read
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
        self.started = self.until("started")
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

    def step(self, action: int | list) -> np.ndarray:
        """The frame after an action."""
        step = self.state["step"] + 1
        self.send("action", action=action)
        self.send("step")
        while step not in self.frames:
            self.receive()
        return self.frames[step]

    def alive(self, action: int | list = 1) -> int:
        """Plays on until the game has not just ended; the step then."""
        while self.state["terminated"] or not self.state["episode_step"]:
            self.step(action)
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


def tiny_worlds(folder: str) -> Worlds:
    """The tiny model, in a home of its own, before the bundled ones."""
    before = os.environ["DIAMOND_GYM_HOME"]
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


def gone(reference: weakref.ref, wait: float = WAIT) -> bool:
    end = time.monotonic() + wait
    while time.monotonic() < end:
        gc.collect()
        if reference() is None:
            return True
        time.sleep(0.05)
    return False
