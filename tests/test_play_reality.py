"""The real game beside a dream: the same actions, and back to a moment."""

import numpy as np
import pytest

from diamond_gym.envs import atari_game
from diamond_gym.play.reality import Reality, difference

pytest.importorskip("ale_py")


def test_a_seed_fixes_where_a_dream_begins():
    reality = Reality("Pong", 5)
    frames, actions = reality.begin(seed=4)
    again, actions_again = reality.begin(seed=4)
    other, _ = reality.begin(seed=5)
    assert frames.shape == (5, 64, 64, 3)
    assert actions.shape == (4,)
    assert (frames == again).all()
    assert (actions == actions_again).all()
    assert (frames != other).any()
    assert (reality.frame == other[-1]).all()
    reality.close()


def test_the_game_goes_on_from_those_frames_with_the_dreams_actions():
    """A dream that shows the game itself does not differ from it."""
    reality, twin = Reality("Pong", 5), Reality("Pong", 5)
    frames, _ = reality.begin(seed=2)
    twin.begin(seed=2)
    black = np.zeros_like(frames[-1])
    for action in (2, 2, 3, 0):
        of_black = twin.step(action, black)
        step = reality.step(action, of_black.frame)
        assert step.divergence == 0
        assert (step.frame == of_black.frame).all()
        assert of_black.divergence == pytest.approx(float(step.frame.mean()))


def test_back_to_a_moment():
    reality = Reality("Breakout", 4)
    frames, _ = reality.begin(seed=1)
    black = np.zeros_like(frames[-1])
    reality.step(1, black)
    before = reality.clone_state()
    first = [reality.step(action, black).frame.copy() for action in (2, 2, 3)]
    reality.restore_state(before)
    assert (reality.frame == before[1]).all()
    second = [reality.step(action, black).frame for action in (2, 2, 3)]
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_a_lost_life_is_told_once_also_after_going_back():
    reality = Reality("Breakout", 4)
    frames, _ = reality.begin(seed=1)
    black, before, lost = np.zeros_like(frames[-1]), reality.clone_state(), []
    lives = reality._env.ale.lives()
    for t in range(300):  # nobody moves the paddle
        step = reality.step(1, black)
        left = reality._env.ale.lives()
        assert step.life_lost == (left < lives and not step.ended)
        lost += [t] * step.life_lost
        lives = left
        if step.ended:
            break
    assert lost
    reality.restore_state(before)
    again = [t for t in range(lost[0] + 2) if reality.step(1, black).life_lost]
    assert again == lost[:1]


@pytest.mark.parametrize("way", ["terminated", "truncated"])
def test_a_game_that_ended_stays_at_its_last_frame(way):
    reality = Reality("Pong", 3)
    reality.begin(seed=0)
    setattr(reality, f"_{way}", True)  # Pong's own end is thousands of steps away
    last = reality.frame.copy()
    step = reality.step(2, last)
    assert (step.ended, step.reward, step.divergence) == (True, 0.0, 0.0)
    assert (step.frame == last).all()


def test_the_time_limit_is_no_end_of_the_game(monkeypatch):
    reality = Reality("Pong", 3)
    frames, _ = reality.begin(seed=0)
    begun = reality._env.ale.getEpisodeFrameNumber()
    monkeypatch.setattr(atari_game, "MAX_FRAMES", begun + 8)  # two steps more, and not half an hour
    reality = Reality("Pong", 3)
    assert (reality.begin(seed=0)[0] == frames).all()
    before = reality.clone_state()
    first, second, third = (reality.step(2, frames[-1]) for _ in range(3))
    assert [(step.terminated, step.truncated) for step in (first, second, third)] == [
        (False, False), (False, True), (False, True),
    ]  # fmt: skip
    assert [step.ended for step in (first, second, third)] == [False, True, True]
    assert (third.reward, (third.frame == second.frame).all()) == (0.0, True)
    reality.restore_state(before)
    assert not reality.step(2, frames[-1]).ended
    reality.begin(seed=0)
    assert not reality.step(2, frames[-1]).ended


def test_a_difference_is_shown_in_both_directions():
    real, dreamed = np.full((2, 2, 3), 100, np.uint8), np.full((2, 2, 3), 100, np.uint8)
    dreamed[0, 0], dreamed[1, 1] = 110, 90
    shown = difference(real, dreamed, gain=2)
    assert shown[..., 0].tolist() == [[20, 0], [0, 20]]
