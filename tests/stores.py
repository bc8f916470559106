"""Episodes of noise, whole and in parts, to put into stores."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from diamond_gym.data import About, Episode, EpisodeStore

SHAPE = (4, 3, 2)  # H, W, C, all different
ABOUT = About("Catch", SHAPE, 3, ("LEFT", "STAY", "RIGHT"))


def episode(n: int, seed: int = 0, *, end: bool = True, trunc: bool = False, first: bool = True) -> Episode:
    rng = np.random.default_rng(seed)
    last = np.arange(n) == n - 1
    return Episode(
        rng.integers(0, 256, (n + 1, *SHAPE), dtype=np.uint8),
        rng.integers(0, 3, n),
        rng.normal(size=n).astype(np.float32),
        last & end,
        last & trunc,
        {"first": first},
    )


def part(whole: Episode, start: int, stop: int) -> Episode:
    return Episode(
        whole.obs[start : stop + 1],
        whole.act[start:stop],
        whole.rew[start:stop],
        whole.end[start:stop],
        whole.trunc[start:stop],
        whole.info,
    )


def assert_same(a: Episode, b: Episode) -> None:
    for name in ("obs", "act", "rew", "end", "trunc"):
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype, name
        np.testing.assert_array_equal(x, y)
    assert a.info == b.info


def write_in_parts(words: tuple[Path, int]) -> list[int]:
    """Ten episodes in two parts each, by a process of its own (which finds this here because it loads no torch)."""
    folder, seed = words
    numbers = []
    with EpisodeStore(folder, "a", ABOUT) as store:
        seen = len(store)
        for i in range(10):
            piece = replace(episode(5, seed + i, end=False), info={"writer": seed})
            numbers.append(store.append(piece) - seen)
            store.extend(numbers[-1] + seen, piece)
    return numbers
