"""The play protocol: what is no message is refused, whatever it is, and frames come out as they went in."""

import io
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diamond_gym.play.protocol import CLIENT_TYPES, MESSAGE_BYTES, BadMessage, Kind, encode, pack, parse, png

# One of each type, with all fields that it may have.
EXAMPLES = [
    {"type": "start", "world": "Breakout", "model": "breakout-nano", "seed": 2**63 - 1, "quality": "fast",
     "agent": False, "fps": 60, "real": True, "horizon": -1},
    {"type": "keys", "down": ["w", "space"]}, {"type": "action", "action": 3}, {"type": "action", "action": None},
    {"type": "action", "action": [0, 1]}, {"type": "action", "action": [-0.5, 2, 1e300]},
    {"type": "action", "action": -0.5}, {"type": "action", "action": [[0, 1], [1, 0]]},
    {"type": "action", "action": [[[[[[[[1, 2]]]]]]]]}, {"type": "action", "action": [[0, 1]] * 256},
    {"type": "mouse", "dx": -3.5, "dy": 2, "buttons": 3},
    {"type": "pause", "on": True}, {"type": "step"}, {"type": "reset", "seed": 0}, {"type": "new_start"},
    {"type": "speed", "fps": 1}, {"type": "quality", "name": "fine"}, {"type": "control", "by": "agent"},
    {"type": "seek", "step": 0}, {"type": "resume_from", "step": 7}, {"type": "thumbnails", "count": 32},
    {"type": "branch", "kind": "dice", "steps": 8, "count": 16}, {"type": "choose", "index": 0},
    {"type": "cancel_branch"}, {"type": "real", "on": False}, {"type": "denoise", "on": True},
    {"type": "record", "on": True}, {"type": "export", "format": "gif"}, {"type": "visible", "on": False},
    {"type": "ack", "sequence": 2**32 - 1}, {"type": "close"},
]  # fmt: skip
WRONG = (
    None, True, -1, 1.5, 2**64, 10**400, float("nan"), float("inf"), "", "x" * 300, "\ud800", [], ["x" * 99], [[]],
    [None], {}, {"a": {"b": {}}},
)  # fmt: skip


def test_every_type_is_read() -> None:
    assert {example["type"] for example in EXAMPLES} == set(CLIENT_TYPES)
    for example in EXAMPLES:
        assert parse(json.dumps(example)) == example


@pytest.mark.parametrize("wrong", ["NaN", "Infinity", "-Infinity", "1e999", "true", "null", '"1"', "9" * 400, "{}"])
def test_an_action_is_of_finite_numbers(wrong: str) -> None:
    for action in (f"[0.5, {wrong}]", f"[{wrong}]", f"[[0.5, {wrong}], [1, 0]]", f"[[[{wrong}]]]"):
        with pytest.raises(BadMessage, match="action has the wrong type or is out of range"):
            parse(f'{{"type": "action", "action": {action}}}')


@pytest.mark.parametrize(
    "action",
    [[0.5, [1]], [[1], 0.5], [[0, 1], [2]], [[0, 1], []], [[[0], [1, 2]]], [0] * 513, [[0, 1]] * 257, [[[0] * 513]]],
    ids=str,
)
def test_an_action_s_lists_are_of_equal_lengths_and_few_numbers(action: list) -> None:
    with pytest.raises(BadMessage, match="action has the wrong type or is out of range"):
        parse(json.dumps({"type": "action", "action": action}))


def test_an_action_of_too_many_dimensions_is_refused() -> None:
    with pytest.raises(BadMessage, match="flat"):
        parse('{"type": "action", "action": ' + "[" * 9 + "1" + "]" * 9 + "}")


def test_the_page_of_the_protocol_names_every_type(root: Path) -> None:
    text = (root / "docs/play-protocol.md").read_text()
    described = text.partition("### From the client")[2].partition("### From the server")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", described, re.MULTILINE)) == set(CLIENT_TYPES)
    kinds = text.partition("| kind | what it shows")[2].partition("\n\n")[0]
    assert list(map(int, re.findall(r"^\| (\d+) \|", kinds, re.MULTILINE))) == list(Kind)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["type"])
def test_fields_are_those_of_the_type(example: dict) -> None:
    with pytest.raises(BadMessage, match="no field 'more'"):
        parse(json.dumps({**example, "more": 1}))
    for name, value in example.items():
        refused = 0
        for wrong in WRONG:
            try:
                read = parse(json.dumps({**example, name: wrong}))
            except BadMessage:
                refused += 1
            else:
                assert type(read[name]) is type(wrong), "what is let in is of a type that the field has"
        assert refused >= len(WRONG) // 2, f"{name} takes nearly anything"
        assert value is not None or name == "action"


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "1", '"start"', "{}", '{"type":1}', '{"type":"start"}', '{"type":"fly"}', b"{}",
        '{"type":"step","type":"close"}', '{"type":"step"}x', "[" * 4000, '{"type":' * 400, '{"a":' + "9" * 4000 + "}",
        '{"type":"keys","down":' + json.dumps(["w"] * 17) + "}", '{"type":"close","x":"' + "é" * 2100 + '"}',
        " " * (MESSAGE_BYTES + 1), '{"type":"mouse","dx":1e999,"dy":0,"buttons":0}',
        '{"type":"mouse","dx":NaN,"dy":0,"buttons":0}', '{"type":"__class__"}', '{"type":"reset","seed":-1}',
        '{"type":"start","world":"../../etc/passwd\\u0000"' + ' ' * 4096 + "}",
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(text: str | bytes) -> None:
    with pytest.raises(BadMessage) as error:
        parse(text)
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


@given(st.one_of(st.text(), st.binary(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4), max_leaves=9,
).map(json.dumps)))  # fmt: skip
def test_nothing_else_is_ever_raised(text: str | bytes) -> None:
    with pytest.raises(BadMessage):
        parse(text)


@pytest.mark.parametrize("shape", [(64, 64, 3), (8, 5, 3), (1, 1, 1), (30, 56, 3)])
def test_png_is_lossless(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(png(pixels)))).reshape(shape) == pixels).all()
    assert encode(pixels) == png(pixels)


def test_large_frames_are_jpeg() -> None:
    pixels = np.full((150, 280, 3), 77, np.uint8)
    picture = Image.open(io.BytesIO(encode(pixels)))
    assert (picture.format, picture.size) == ("JPEG", (280, 150))


def test_frames_are_packed_as_described() -> None:
    message = pack(Kind.BRANCH, b"png", (30, 56), 2**32 - 1, 2**32 + 4, 17)
    assert struct.unpack("<BBHIHHII", message[:20]) == (1, Kind.BRANCH, 17, 2**32 - 1, 56, 30, 4, 0)
    assert message[20:] == b"png"
