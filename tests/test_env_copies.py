"""A copy of a dream dreams on in the very weights of the original, or says that it cannot."""

import copy
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stub_envs import assert_equal
from stubs import save_tiny_model

from diamond_gym.envs import DreamEnv, DreamVectorEnv
from diamond_gym.errors import DiamondGymError, ModelNotFound
from diamond_gym.registry import remove, resolve, update_card
from diamond_gym.registry.saving import export
from diamond_gym.world_model import WorldModel

TINY: dict[str, Any] = {"device": "cpu", "max_episode_steps": -1}
KINDS = ["single", "batch", "sb3"]


def make(kind: str, **keywords: Any) -> Any:
    keywords = TINY | keywords
    if kind == "sb3":
        return pytest.importorskip("diamond_gym.sb3").make_dream_vec_env("DiamondDream-v0", 2, **keywords)
    return DreamEnv(**keywords) if kind == "single" else DreamVectorEnv(num_envs=2, **keywords)


def begin(env: Any, kind: str) -> None:
    if kind == "sb3":
        env.seed(0)
        env.reset()
    else:
        env.reset(seed=0)


def play(env: Any, kind: str) -> tuple[Any, ...]:
    seen = []
    for _ in range(3):
        stepped = env.step(0 if kind == "single" else np.zeros(2, np.int64))
        seen.append(stepped)
        if kind == "single" and stepped[2]:
            seen.append(env.reset())
    return tuple(seen)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["model", "game"])
def test_other_weights_of_the_name_are_not_taken(kind: str, by: str) -> None:
    save_tiny_model()
    env = make(kind, **{by: "tiny" if by == "model" else "Breakout"})
    begin(env, kind)
    pickled, same = pickle.dumps(env), pickle.loads(pickle.dumps(env))
    save_tiny_model("tiny" if by == "model" else "newer", seed=1)
    if by == "model":
        with pytest.raises(ModelNotFound, match="replaced by another of that name; make a new dream") as caught:
            pickle.loads(pickled)
        assert "\n" not in str(caught.value)
        copies = [same, copy.deepcopy(env)]
    else:  # it is still there, under its name
        copies = [same, copy.deepcopy(env), pickle.loads(pickled)]
    expected = play(env, kind)
    for other in copies:
        assert_equal(play(other, kind), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_model_lives_on_in_copies(kind: str) -> None:
    save_tiny_model()
    env = make(kind, model="tiny")
    begin(env, kind)
    pickled = pickle.dumps(env)
    remove("tiny")
    twin = copy.deepcopy(env)
    twin_of_twin = copy.deepcopy(twin)
    with pytest.raises(ModelNotFound, match="'tiny' that this dream was made with is no longer at hand"):
        pickle.loads(pickled)
    expected = play(env, kind)
    assert_equal(play(twin, kind), expected)
    assert_equal(play(twin_of_twin, kind), expected)
    save_tiny_model("tiny-again")  # the same weights, called otherwise
    assert_equal(play(pickle.loads(pickled), kind), expected)


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_model()
    export(resolve("tiny"), tmp_path / "here" / "mine")
    remove("tiny")
    monkeypatch.chdir(tmp_path / "here")
    env = make("single", model="./mine")
    begin(env, "single")
    pickled = pickle.dumps(env)
    monkeypatch.chdir(tmp_path)
    expected = play(env, "single")
    assert_equal(play(pickle.loads(pickled), "single"), expected)


def test_what_the_card_tells_besides_may_change() -> None:
    save_tiny_model()
    env = make("batch", model="tiny")
    begin(env, "batch")
    pickled, entry = pickle.dumps(env), resolve("tiny")
    update_card(entry, entry.card.__class__(**{**vars(entry.card), "summary": "other words"}))
    expected = play(env, "batch")
    assert_equal(play(pickle.loads(pickled), "batch"), expected)
    update_card(entry, entry.card.__class__(**{**vars(entry.card), "sampler": {"num_denoising_steps": 1}}))
    with pytest.raises(ModelNotFound, match="make a new dream"):
        pickle.loads(pickled)


def test_networks_trained_in_memory_are_not_lost_in_a_pickle() -> None:
    save_tiny_model()
    env = make("batch", model="tiny")
    begin(env, "batch")
    with torch.no_grad():
        next(env.world_model.denoiser.parameters()).mul_(1.5)
    with pytest.raises(DiamondGymError, match="changed after they had been loaded"):
        pickle.dumps(env)
    twin = copy.deepcopy(env)
    assert twin.world_model is env.world_model
    assert_equal(play(twin, "batch"), play(env, "batch"))


def test_what_gymnasium_wraps_is_copied_whole() -> None:
    save_tiny_model()
    env = gym.make("DiamondDream-v0", model="tiny", device="cpu", max_episode_steps=2)
    env.reset(seed=0)
    twin = pickle.loads(pickle.dumps(env))
    assert twin.spec == env.spec
    assert_equal(twin.step(0), env.step(0))
    assert twin.action_space.sample() == env.action_space.sample()


@pytest.mark.parametrize(("horizon", "lasts"), [(60, 60), (40, 40), (-1, None), (None, 50)])
def test_a_copy_ends_when_the_original_does(horizon: int | None, lasts: int | None) -> None:
    """By the `TimeLimit` of `gym.make`, which has the horizon in the place of the dream's own."""
    tiny = save_tiny_model()
    without_ends = WorldModel(tiny.denoiser, starts=tiny.starts)
    env = gym.make("DiamondDream-v0", model=without_ends, max_episode_steps=horizon)
    env.reset(seed=0)
    for _ in range(3):
        env.step(0)
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env)), env):
        steps, truncated = 3, False
        while steps < 70 and not truncated:
            *_, truncated, _ = other.step(0)
            steps += 1
        assert (steps, truncated) == ((70, False) if lasts is None else (lasts, True))
