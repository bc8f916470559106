"""Files made hostile: every place of a table changed, and what then may happen within bounds of time and memory."""

import copy
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from diamond_gym.errors import DiamondGymError
from diamond_gym.registry import load_world_model

SAMPLE, SECONDS, GIGABYTE = 8, 120, 1 << 30
RAW = "@raw@"
DEEP, LONG = "[" * 1000 + "]" * 1000, "9" * 5000
VALUES: list[Any] = [
    float("nan"),
    float("inf"),
    -1,
    0,
    10**18,
    0.5,
    True,
    "text",
    "",
    [],
    [0],
    [[1]],
    {},
    {"x": 1},
    ["a", 1],
    [1] * 100,
    "x" * 10_000,
    RAW + DEEP,
    RAW + LONG,
]
Case = tuple[tuple[str | int, ...], Any]


def places(value: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a nested table."""
    if above:
        yield above
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*above, key))


def changed(table: dict[str, Any], place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The table with another value in one place."""
    table = copy.deepcopy(table)
    within: Any = table
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = value
    return table


def raw(text: str) -> str:
    """A written table with what no library would write put in."""
    for value in (DEEP, LONG):
        text = text.replace(f'"{RAW}{value}"', value).replace(f"'{RAW}{value}'", value).replace(RAW + value, value)
    return text


def some(cases: list[Any]) -> list[Any]:
    """A few of the cases, from everywhere."""
    return cases[3 :: max(1, len(cases) // SAMPLE)]


@contextmanager
def bounded(what: object) -> Iterator[None]:
    """Fails where the block takes minutes or gigabytes."""

    def late(*_: object) -> None:
        raise TimeoutError(f"hangs: {what}")

    before, handler = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < GIGABYTE, f"{what} took {grown} bytes"


def attempt(cases: list[Any], use: Callable[[Any], object], nonsense: Callable[[Any], bool]) -> None:
    """Uses each of the cases: it works, or is refused in one line; what is nonsense has to be refused."""
    faults = []
    for case in cases:
        name = str(case)[:160]
        try:
            with bounded(name):
                use(case)
        except DiamondGymError as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                faults.append(f"{name}: not one line of bearable length: {str(error)[:300]}")
        except BaseException as error:  # each is noted, and the next one tried
            faults.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        else:
            if nonsense(case):
                faults.append(f"{name}: accepted")
    assert not faults, f"{len(faults)} of {len(cases)}\n" + "\n".join(faults)


both = pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])], ids=["sample", "all"]
)


def dreamed(name: str = "tiny") -> None:
    """Loads a model and dreams two steps."""
    dream = load_world_model(name, "cpu", "float32").dream(1, horizon=3)
    dream.reset(0)
    for _ in range(2):
        step = dream.step(torch.zeros(1, dtype=torch.int64))
        if not step.obs.isfinite().all():
            raise AssertionError("dreams are not finite")
