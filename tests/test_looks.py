"""What dreams look like: artefacts, the nearest real frame, and what is alive after how many steps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.models_table import tables
from diamond_gym.frames import SeenColours
from diamond_gym.trainers.looks import Looks, distances
from diamond_gym.trainers.rollouts import Rollouts


def film(frames: np.ndarray, t: int = 1) -> Rollouts:
    n, steps = frames.shape[0], frames.shape[1] - t
    act = np.zeros((n, t + steps - 1), np.int64)
    return Rollouts(frames, act, np.zeros((n, steps), np.float32), np.zeros((n, steps), np.bool_))


@pytest.mark.parametrize("channels", [1, 3])
def test_artefacts_are_colours_that_real_play_never_shows_there(channels: int) -> None:
    frames = torch.full((2, channels, 12, 12), 100, dtype=torch.uint8)
    frames[0, 0, 5, 5] = 200
    seen = SeenColours(frames)
    dream = frames[:1].clone()
    assert seen.artefacts(dream).tolist() == [0]
    dream[0, 0, 5, 5], dream[0, 0, 7, 3] = 100, 190  # two pixels away, and one bin less bright
    assert seen.artefacts(dream).tolist() == [0]
    dream[0, 0, 8, 5] = 200  # three pixels away
    dream[0, 0, 0, 0] = 50  # a colour that is nowhere
    assert seen.artefacts(dream).tolist() == pytest.approx([2 / 144])


def test_distance_to_the_nearest() -> None:
    rng = np.random.default_rng(0)
    real, frames = (torch.from_numpy(rng.integers(0, 256, (n, 3, 4, 4), dtype=np.uint8)) for n in (300, 5))
    frames[0] = real[299]
    each = [min(((a.double() - b.double()) ** 2).mean().sqrt() for b in real) for a in frames]
    assert distances(frames, real).tolist() == pytest.approx([float(x) for x in each], abs=0.05)
    assert distances(frames, real)[0] == pytest.approx(0, abs=0.05)


def test_figures_after_10_and_50_steps_of_pieces_of_different_lengths() -> None:
    clean = np.full((2, 61, 3, 8, 8), 100, np.uint8)
    frames = clean.copy()
    frames[:, 50, :, :4] = 250  # half of the picture, after 50 steps
    frames[1, 10, :, 0] = 250  # an eighth of one of two, after 10
    short = film(clean[:, :21])
    table = Looks("Unheard of", clean[0]).table([(film(clean), film(frames)), (short, short)])
    assert table == {
        "after_10": {
            "dreams": 4, "artefacts": pytest.approx(1 / 32), "nearest": pytest.approx(150 / 8**0.5 / 4),
            "real": {"artefacts": 0, "nearest": 0},
        },
        "after_50": {
            "dreams": 2, "artefacts": 0.5, "nearest": pytest.approx(150 / 2**0.5),
            "real": {"artefacts": 0, "nearest": 0},
        },
    }  # fmt: skip


def test_what_is_alive_is_counted_in_games_that_the_table_knows() -> None:
    frames = np.zeros((2, 13, 3, 64, 64), np.uint8)
    frames[:, :, :, 40, 30] = np.array((200, 72, 72))[:, None][:, 0]  # the ball
    frames[:, :, :, 57:59, 20:24] = np.array((200, 72, 72))[:, None, None]
    frames[:, :, :, 2, 14:20] = 142
    dream = frames.copy()
    dream[1, 4:, :, 40, 30] = 0
    table = Looks("Breakout", frames[0]).table([(film(frames, 3), film(dream, 3))])["after_10"]
    assert (table["ball"], table["paddle"], table["score"], table["all"]) == (0.5, 1, 1, 0.5)
    assert table["real"]["all"] == 1 and table["all_interval_95"] == pytest.approx([0.0945, 0.9055], abs=1e-3)
    grey = Looks("Breakout", frames[0, :, :1]).table([(film(frames[:, :, :1], 3), film(dream[:, :, :1], 3))])
    assert "all" not in grey["after_10"], "the table is of coloured frames"


def test_the_tables_of_the_documentation_are_those_of_the_cards() -> None:
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
    for lines in tables().values():
        assert len(lines) == 2 or "\n".join(lines) in page, "python -m benchmarks.models_table prints them"
