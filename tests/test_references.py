"""The released YAML: references between values, and nothing that runs."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from diamond_gym.errors import DamagedModel
from diamond_gym.registry.checkpoint import read_yaml, resolve_references


def resolved(text: str) -> Any:
    return resolve_references({"a": yaml.safe_load(text), "env": {"train": {"size": 64}}}, "test")["a"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{x: 1, y: '${a.x}'}", {"x": 1, "y": 1}),
        ("{x: 1, y: '${.x}'}", {"x": 1, "y": 1}),
        ("{t: {s: 3}, u: {s: '${..t.s}', v: '${.s}'}}", {"t": {"s": 3}, "u": {"s": 3, "v": 3}}),
        ("{s: '${env.train.size}'}", {"s": 64}),
        ("{k: 'atari/${.t.id}-${.n}', t: {id: P}, n: 2}", {"k": "atari/P-2", "t": {"id": "P"}, "n": 2}),
        ("{t: {s: 3}, u: '${a.t}', v: '${a.u.s}'}", {"t": {"s": 3}, "u": {"s": 3}, "v": 3}),
        ("[1, '${a.0}']", [1, 1]),
        ("{x: null, y: '${.x}', z: true, w: 1.5}", {"x": None, "y": None, "z": True, "w": 1.5}),
        ("""{x: "${eval:'float(\\"inf\\")'}"}""", {"x": math.inf}),
        ("{x: '${eval: float(\"inf\")}'}", {"x": math.inf}),
        ("{x: '$5 and {}'}", {"x": "$5 and {}"}),
        ("{x: &n {y: 1}, z: *n}", {"x": {"y": 1}, "z": {"y": 1}}),
    ],
)
def test_resolved(text: str, value: Any) -> None:
    assert resolved(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{x: '${.x}'}", "Recursive"),
        ("{x: '${.y}', y: '${.x}'}", "Recursive"),
        ("{x: {y: '${a.x}'}}", "to parent node"),
        ("&n {x: *n}", "nested too deeply"),
        ("{x: '${.nowhere}'}", "key 'a.x': Interpolation key '.nowhere' not found"),
        ("{x: '${.....y}'}", "key 'a.x': .*'.....y'"),
        ("{x: '${eval:1+1}'}", "is refused"),
        ("{x: '${eval:\"__import__(chr(111))\"}'}", "is refused"),
        ("{x: '${oc.env:HOME}'}", "is refused"),
        ("{x: '${now:%Y}'}", "is refused"),
        ("{x: '${a.${.y}}', y: z}", "is refused"),
        ("{x: '${a.y'}", "is refused"),
        ("{x: 'in ${a}'}", "to parent node"),
        ("{x: '${${.y}:1}', y: 'oc.env'}", "is refused"),
        ("{x: '${oc.decode:${.y}}', y: 1}", "is refused"),
        ("{x: 2020-01-01}", "is a date, which has no place"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
    ],
)
def test_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(DamagedModel, match=message) as caught:
        resolve_references({"a": read_any(tmp_path / "c.yaml")}, "test")
    assert "\n" not in str(caught.value)


def read_any(path: Path) -> Any:
    """Lists too; what is nested too deeply is reported by read_yaml."""
    text = path.read_text()
    return read_yaml(path) if text.startswith(("{", "[[")) else yaml.safe_load(text)


def test_endless_references() -> None:
    doubling = {f"x{i}": f"${{a.x{i + 1}}}${{a.x{i + 1}}}" for i in range(30)} | {"x30": "ab"}
    tables = {f"t{i}": dict.fromkeys("xyz", f"${{a.t{i + 1}}}") for i in range(20)} | {"t20": 1}
    nested: Any = 0
    for _ in range(40):
        nested = [nested, nested]
    for bomb in (doubling, tables, {"n": nested}):
        with pytest.raises(DamagedModel, match=r"endless|nested too deeply"):
            resolve_references({"a": bomb}, "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: !!python/object/apply:os.system ['touch gone']", "not readable as plain YAML"),
        (b"a: [1", "not readable as plain YAML"),
        (b"\xff\xfe\xff", "not readable as plain YAML"),
        (b"- 1", "a table of keys and values"),
        (b"", "a table of keys and values"),
        (b"#" * (2 << 20), "too long"),
    ],
)
def test_unreadable(content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(DamagedModel, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]
    with pytest.raises(DamagedModel, match="no such file"):
        read_yaml(tmp_path / "d.yaml")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text("abc/.:$ "),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=10,
)


@given(PLAIN)
def test_what_has_no_references_stays(value: Any) -> None:
    assert resolve_references({"a": value}, "test")["a"] == value


@given(st.text("${}a.:x"))
def test_any_text_is_resolved_or_refused_in_one_line(text: str) -> None:
    try:
        resolve_references({"a": {"a": text, "x": 1}}, "test")
    except DamagedModel as error:
        assert "\n" not in str(error)  # noqa: PT017
