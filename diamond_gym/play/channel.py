"""The sending side of a connection: JSON and numbered frames, those of the dream no faster than they are drawn."""

import asyncio
import json
import logging
import time
from collections import deque
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.websockets import WebSocket

from diamond_gym.play.protocol import Kind, encode, pack

log = logging.getLogger("diamond_gym.play")

Picture = tuple[Kind, int, npt.NDArray[np.uint8]]

_UNSEEN = 1  # frames of the dream that may be on their way
_PATIENCE = 2.0  # seconds after which a frame is sent although none was acknowledged


class Channel:
    """The way to a client, whose connection may be lost and come again.

    Attributes:
        left_at: When the connection was lost, by the monotonic clock; None while there is one.
    """

    def __init__(self) -> None:
        self.left_at: float | None = None
        self._socket: WebSocket | None = None
        self._sending = asyncio.Lock()
        self._seen = asyncio.Event()
        self._sequence, self._unseen = 0, deque[int](maxlen=8)

    @property
    def attached(self) -> bool:
        """Whether there is a connection."""
        return self._socket is not None

    def is_at(self, socket: WebSocket) -> bool:
        """Whether it is this connection that the client is at."""
        return self._socket is socket

    async def attach(self, socket: WebSocket) -> None:
        """Takes a connection, in place of one that there may be."""
        before, self._socket, self.left_at = self._socket, socket, None
        self._unseen.clear()
        self._seen.set()
        if before is not None:
            with suppress(Exception):
                await before.send_text(json.dumps({"type": "closed", "reason": "the session goes on elsewhere"}))
                await before.close(4001, "resumed elsewhere")

    def detach(self, socket: WebSocket) -> bool:
        """Notes that a connection is lost; False if another one has taken its place."""
        if self._socket is not socket:
            return False
        self._socket, self.left_at = None, time.monotonic()
        self._seen.set()
        return True

    async def close(self, code: int, reason: str) -> None:
        """Ends the connection."""
        socket, self._socket = self._socket, None
        if socket is not None:
            with suppress(Exception):
                await socket.close(code, reason)

    async def send(self, message: dict[str, Any], pictures: list[Picture] | None = None, step: int = 0) -> None:
        """Sends a message and frames after it; nothing where there is no connection.

        Args:
            message: The JSON, empty for none.
            pictures: Kind, index and pixels of each frame.
            step: The step that they belong to.
        """
        encoded: list[bytes] = []
        if pictures:  # in a thread of its own, while the next step is computed
            encoded = await asyncio.to_thread(lambda: [encode(pixels) for _, _, pixels in pictures])
        async with self._sending:
            try:
                if message and self._socket is not None:
                    await self._socket.send_text(json.dumps(message, separators=(",", ":"), allow_nan=False))
                for (kind, index, pixels), picture in zip(pictures or [], encoded, strict=True):
                    self._sequence += 1
                    if kind is Kind.DREAM:
                        self._unseen.append(self._sequence)
                    if self._socket is not None:
                        frame = pack(kind, picture, (pixels.shape[0], pixels.shape[1]), step, self._sequence, index)
                        await self._socket.send_bytes(frame)
            except Exception:  # a connection is lost in many ways, and whoever reads from it will notice
                log.debug("a connection was lost", exc_info=True)

    async def wait_until_seen(self) -> None:
        """Waits until the client can take another frame of the dream, or has not said so for too long."""
        if len(self._unseen) > _UNSEEN:
            self._seen.clear()
            # not wait_for: in Python 3.11 it loses a cancellation that comes as the event is set
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await self._seen.wait()

    def seen(self, sequence: int) -> None:
        """The client has drawn a frame, and those before it."""
        while self._unseen and self._unseen[0] <= sequence:
            self._unseen.popleft()
        if len(self._unseen) <= _UNSEEN:
            self._seen.set()
