"""The messages between page and server, checked, and frames, packed; docs/play-protocol.md describes them."""

import io
import json
import struct
import sys
import zlib
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.errors import DiamondGymError

VERSION = 1
MESSAGE_BYTES = 4096
MESSAGES_PER_SECOND = 120
MAX_KEYS = 16
_JPEG_FROM = 200  # pixels a side from which on frames are sent as JPEG
_HEADER = struct.Struct("<BBHIHHII")
_LARGEST = sys.float_info.max  # beyond it, and for infinity and NaN, JSON has no numbers
_NUMBERS, _DIMENSIONS = 512, 8  # that an action may have
_DEPTH = 1 + _DIMENSIONS  # nested lists and objects that a message may have

Pixels = npt.NDArray[np.uint8]
Message = dict[str, Any]


class BadMessage(DiamondGymError):
    """A message that is not of the protocol; nothing has been done."""


class Kind(IntEnum):
    """The kinds of pictures that binary messages carry."""

    DREAM = 0
    REAL = 1
    DIFFERENCE = 2
    BRANCH = 3
    DENOISING = 4
    SPREAD = 5
    SMALL = 6
    THUMBNAIL = 7


def _integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high  # NaN is not


def _text(most: int = 64) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and 0 < len(value) <= most


def _word(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _keys(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_KEYS and all(map(_text(16), value))


def _action(value: Any) -> bool:
    """A number, or numbers in lists of equal lengths; whether it is one of the world's own is for the world to say."""
    parts = [] if value is None else [value]
    while parts and all(isinstance(part, list) for part in parts):
        if len(set(map(len, parts))) > 1:
            return False
        parts = [each for part in parts for each in part]
    return len(parts) <= _NUMBERS and all(map(_number(-_LARGEST, _LARGEST), parts))


_SEED, _STEP = _integer(0, 2**63 - 1), _integer(0, 2**31 - 1)
_FPS = _integer(1, 60)

# What each message holds: the fields that it must have, and those that it may have.
_CLIENT: dict[str, tuple[dict[str, Callable[[Any], bool]], dict[str, Callable[[Any], bool]]]] = {
    "start": (
        {"world": _text()},
        {
            "model": _text(), "seed": _SEED, "quality": _text(16), "agent": _boolean, "fps": _FPS, "real": _boolean,
            "horizon": lambda value: _integer(-1, 1_000_000)(value) and value != 0,
        },
    ),
    "keys": ({"down": _keys}, {}),
    "action": ({"action": _action}, {}),
    "mouse": ({"dx": _number(-1e4, 1e4), "dy": _number(-1e4, 1e4), "buttons": _integer(0, 31)}, {}),
    "pause": ({"on": _boolean}, {}),
    "step": ({}, {}),
    "reset": ({}, {"seed": _SEED}),
    "new_start": ({}, {}),
    "speed": ({"fps": _FPS}, {}),
    "quality": ({"name": _text(16)}, {}),
    "control": ({"by": _word("human", "agent")}, {}),
    "seek": ({"step": _STEP}, {}),
    "resume_from": ({"step": _STEP}, {}),
    "thumbnails": ({"count": _integer(1, 32)}, {}),
    "branch": ({"kind": _word("dice", "actions")}, {"steps": _integer(1, 32), "count": _integer(1, 16)}),
    "choose": ({"index": _integer(0, 511)}, {}),
    "cancel_branch": ({}, {}),
    "real": ({"on": _boolean}, {}),
    "denoise": ({"on": _boolean}, {}),
    "record": ({"on": _boolean}, {}),
    "export": ({"format": _word("mp4", "gif", "log")}, {}),
    "visible": ({"on": _boolean}, {}),
    "ack": ({"sequence": _integer(0, 2**32 - 1)}, {}),
    "close": ({}, {}),
}  # fmt: skip
CLIENT_TYPES = tuple(_CLIENT)


def parse(text: str | bytes) -> Message:
    """Reads a client's message.

    Args:
        text: What came over the WebSocket; bytes are never a message.

    Returns:
        The message, whose `type` is one of `CLIENT_TYPES` and whose fields are all of the types and ranges they have.

    Raises:
        BadMessage: What is wrong with it.
    """
    if not isinstance(text, str):
        raise BadMessage("messages are JSON text")
    if len(text) > MESSAGE_BYTES or len(text.encode("utf-8", "surrogatepass")) > MESSAGE_BYTES:
        raise BadMessage(f"a message has at most {MESSAGE_BYTES} bytes")
    if _deep(text):
        raise BadMessage("a message is a flat object")
    try:
        message = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
        raise BadMessage("this is not a JSON object") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise BadMessage("a message is an object with the field type")
    name = message["type"]
    if name not in _CLIENT:
        raise BadMessage(f"unknown type {name[:32]!r}")
    needed, optional = _CLIENT[name]
    known = needed | optional
    for field, value in message.items():
        if field == "type":
            continue
        if field not in known:
            raise BadMessage(f"{name} has no field {field[:32]!r}")
        if not known[field](value):
            raise BadMessage(f"{name}: {field} has the wrong type or is out of range")
    for field in needed:
        if field not in message:
            raise BadMessage(f"{name} needs {field}")
    return message


def _deep(text: str) -> bool:
    """Whether brackets open deeper than any message has them; those within words count, which names have none of."""
    depth = 0
    for character in text:
        if character in "[{":
            depth += 1
            if depth > _DEPTH:
                return True
        elif character in "]}":
            depth -= 1
    return False


def _unique(pairs: list[tuple[str, Any]]) -> Message:
    message = dict(pairs)
    if len(message) != len(pairs):
        raise ValueError("a field is there twice")
    return message


def pack(kind: Kind, picture: bytes, size: tuple[int, int], step: int, sequence: int, index: int = 0) -> bytes:
    """A binary frame: the header of 20 bytes and the picture.

    Args:
        kind: What it shows.
        picture: As `encode` gives it.
        size: The picture's (height, width).
        step: The step it belongs to.
        sequence: How many binary messages went before.
        index: Which of several it is.
    """
    height, width = size
    return _HEADER.pack(VERSION, kind, index, step, width, height, sequence % 2**32, 0) + picture


def encode(pixels: Pixels) -> bytes:
    """A frame uint8 (H, W, 1 or 3) as PNG, or as JPEG where a side is longer than 200 pixels."""
    if max(pixels.shape[:2]) <= _JPEG_FROM:
        return png(pixels)
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def png(pixels: Pixels) -> bytes:
    """A frame uint8 (H, W, 1 or 3) as PNG, lossless; zlib lets go of the interpreter's lock meanwhile."""
    height, width, channels = pixels.shape
    lines = np.zeros((height, 1 + width * channels), np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 3)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
