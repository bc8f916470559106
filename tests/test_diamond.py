"""The outer loop on Catch: it collects as it should, and a killed training ends with the bits of one that was not."""

import json
import time
from dataclasses import replace
from itertools import count, pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import diamond_gym  # noqa: F401
from diamond_gym.data import EpisodeStore
from diamond_gym.errors import DiamondGymError
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.networks.denoiser import DenoiserConfig, InnerModelConfig
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers import agent_dreams
from diamond_gym.trainers.actor_critic import ActorCriticLossConfig, ActorCriticTrainer, AgentFitConfig
from diamond_gym.trainers.batches import sampling_of
from diamond_gym.trainers.collect import Collector
from diamond_gym.trainers.diamond import DiamondTrainer
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.evaluate import score
from diamond_gym.trainers.held_out import HeldOut
from diamond_gym.trainers.loop import Loop, Rhythm
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.start_states import draw_starts, replay_starts
from diamond_gym.trainers.world_model_config import WorldModelConfig
from diamond_gym.trainers.worlds import find_world
from diamond_gym.world_model import WorldModel

ID = "DiamondGym/Catch-v0"
WORLD = find_world(env=ID)
OPTIMIZER = OptimizerConfig(lr=1e-3, batch_size=2, warmup_steps=1)
TINY = DiamondConfig(
    fit=WorldModelConfig(
        DenoiserConfig(InnerModelConfig(num_steps_conditioning=2, cond_channels=8, depths=[1], channels=[8],
                                        attn_depths=[0], patch_size=4), residual=True),
        RewardEndConfig(lstm_dim=8, cond_channels=8, depths=[1], channels=[8], attn_depths=[0], patch_size=4),
        OPTIMIZER, OPTIMIZER, reward_end_length=4, focus=0.5,
    ),
    agent=AgentFitConfig(
        ActorCriticConfig(lstm_dim=8, channels=[4, 4], down=[1, 1]),
        optimizer=replace(OPTIMIZER, weight_decay=0), horizon=3,
    ),
    sampler=SamplerConfig(num_denoising_steps=1),
    epochs=4, real_steps=40, first_steps=20, first_steps_at_most=30, first_rewards=3, steps_per_epoch=8,
    world_model_steps=2, agent_steps=2, first_world_model_steps=3, first_agent_steps=3, epsilon=0.3, num_starts=4,
)  # fmt: skip


def begin(run, config=TINY):
    return DiamondTrainer(config, run, WORLD.about, WORLD.envs(config.num_envs))


def train(folder, epochs, kill=False):
    """Trains up to an epoch; `kill` leaves it in the midst of the next, with experience that no checkpoint knows."""
    with RunFolder(folder, tensorboard=False) as run:
        diamond = begin(run)
        figures = [diamond.train_epoch() for _ in range(diamond.epoch, epochs)]
        if kill:
            diamond.collector.collect(5)
            diamond.world_model.train_step()
        diamond.close()
    torch.manual_seed(999)
    weights = diamond.world_model.world_model.weights() | diamond.agent.agent.state_dict()
    return figures, weights, list(diamond.store)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *train(folder, 4)


def test_collects_by_the_schedule(whole):
    folder, figures, _, episodes = whole
    # One game of seven steps brings one reward: three of them, of which the two rarer signs (0 is not) are three.
    assert [f["real/steps"] for f in figures] == [28, 36, 40, 40]
    assert sum(len(episode) for episode in episodes) == 40
    assert all(np.isfinite(value) for f in figures for value in f.values())
    assert {"denoiser/loss", "reward_end/loss_end", "agent/policy_entropy", "real/score"} <= set(figures[0])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


def test_every_epoch_dreams_by_the_kernels_where_there_are_any(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(WorldModel, "use_kernels", lambda model: asked.append(model.num_actions))
    train(tmp_path, 2)
    assert asked == [WORLD.about.num_actions] * 2


def test_dreams_begin_from_other_play_after_num_starts_of_them(tmp_path, monkeypatch):
    banks, train_step = [], ActorCriticTrainer.train_step

    def watched(agent):
        banks.append(agent.imagination.dream.bank.obs.numpy().tobytes())
        return train_step(agent)

    monkeypatch.setattr(ActorCriticTrainer, "train_step", watched)
    train(tmp_path, 2)
    # Two dreams a window, four starts: the first epoch's third window has new ones, and so has the second epoch.
    assert len(banks) == 5
    assert [a == b for a, b in pairwise(banks)] == [True, False, False, True]


@pytest.mark.parametrize("kill_at", [0, 1, 3])
def test_killed_and_resumed_ends_with_the_same_bits(whole, tmp_path, kill_at):
    _, figures, expected, episodes = whole
    train(tmp_path, kill_at, kill=True)
    resumed, weights, again = train(tmp_path, 4)
    assert resumed == figures[kill_at:]
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    assert len(again) == len(episodes)
    assert all((a.obs == b.obs).all() and (a.act == b.act).all() for a, b in zip(again, episodes, strict=True))


class Killed(Exception):
    """Ends a training after a checkpoint."""


SLOW = pytest.mark.slow  # what comes in the same phase of an epoch as another one


@pytest.mark.parametrize("checkpoint", [1, 4, 9, 14, *(pytest.param(number, marks=SLOW) for number in (2, 6, 10, 12))])
def test_killed_within_an_epoch_it_goes_on_from_there(whole, tmp_path, checkpoint):
    """With a checkpoint after every step: in the first two epochs one while it plays, fits, and dreams."""
    _, figures, expected, episodes = whole
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run)
        save, number = diamond.save, count(1)

        def save_and_die():
            save()
            if next(number) == checkpoint:
                raise Killed

        diamond.save = save_and_die
        with pytest.raises(Killed), Loop(diamond.save, rhythm=Rhythm(checkpoint_seconds=-1)) as loop:
            while True:
                diamond.train_epoch(loop)
        done = diamond.epoch, diamond.store.num_steps, diamond.world_model.step, diamond.agent.step
        diamond.close()
        diamond = begin(run)
        assert done == (diamond.epoch, diamond.store.num_steps, diamond.world_model.step, diamond.agent.step)
        diamond.close()
    resumed, weights, again = train(tmp_path, 4)
    for mine, theirs in zip(resumed, figures[-len(resumed) :], strict=True):
        assert mine == pytest.approx(theirs)
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    assert all((a.obs == b.obs).all() and (a.act == b.act).all() for a, b in zip(again, episodes, strict=True))


def test_a_stopped_epoch_is_saved_and_gone_on_with(whole, tmp_path):
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run)
        with Loop(diamond.save, minutes=1e-9) as loop:
            assert diamond.train_epoch(loop) is None and loop.stopped == "minutes"
        assert (diamond.store.num_steps, diamond.world_model.step, run.load()["epoch"]) == (20, 0, 0)
        assert diamond.train_epoch() == whole[1][0]
        diamond.close()


def test_a_second_process_is_refused(whole):
    with RunFolder(whole[0], tensorboard=False), pytest.raises(DiamondGymError, match="another process"):
        RunFolder(whole[0], tensorboard=False)


def test_starts_are_padded_with_grey_before_an_episode(whole):
    store = EpisodeStore(whole[0] / "experience")
    starts = replay_starts(store, 4, 64, np.random.default_rng(0))
    assert starts.obs.shape == (64, 4, 16, 16, 3)
    grey = (starts.obs == 128).all(axis=(2, 3, 4))
    assert grey[:, :3].any() and not grey[:, 3].any()
    assert (starts.first | ~grey.any(axis=1)).all()
    assert (np.diff(grey.astype(int), axis=1) <= 0).all()  # only at the beginning


def test_registered_starts_hold_the_first_decisions_of_a_game(whole):
    """Every frame that a step begins with can be the last of a piece, games' first ones after padding."""
    store = EpisodeStore(whole[0] / "experience")
    starts = draw_starts(store, 4, store.num_steps)
    grey = (starts.obs == 128).all(axis=(2, 3, 4))
    assert not grey[:, 3].any() and (np.diff(grey.astype(int), axis=1) <= 0).all()
    assert {int(row.sum()) for row in grey[~starts.first]} == {0, 1, 2, 3}
    assert not grey[starts.first].any() and starts.first.any()
    shown = {frame.tobytes() for frame in starts.obs[:, 3]}
    assert {frame.tobytes() for frame in next(iter(store)).obs[:3]} & shown


def test_no_starts_without_experience(tmp_path):
    with EpisodeStore(tmp_path, "a", WORLD.about) as empty, pytest.raises(DiamondGymError, match="no experience"):
        draw_starts(empty, 4)


def games(rows):
    return gym.make_vec(ID, rows, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP})


def test_scores_whole_games(whole, tmp_path):
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run)
        found = score(diamond.agent.agent, games(4), "Catch", 10)
        diamond.close()
    assert set(found.scores) <= {-1.0, 1.0} and found.lengths == (7,) * 10
    assert found == score(diamond.agent.agent, games(4), "Catch", 10)


def test_a_test_collection_is_whole_games_that_touch_no_training(whole, tmp_path):
    config = replace(TINY, test_every=2, test_episodes=3)
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = DiamondTrainer(config, run, WORLD.about, WORLD.envs(1), test_envs=WORLD.envs)
        figures = [diamond.train_epoch() for _ in range(4)]
        played = len(diamond.held_out.store)
        diamond.close()
    assert [{k: v for k, v in f.items() if not k.startswith("test/")} for f in figures] == whole[1]
    tests = [{k: v for k, v in f.items() if k.startswith("test/")} for f in figures]
    assert tests[0] == tests[2] == {} and played >= 6
    for test in (tests[1], tests[3]):
        assert test["test/games_over"] == 1 and 3 * test["test/score"] in (-3, -1, 1, 3)
        assert all(np.isfinite(value) for value in test.values())
        figures_of = {
            f"test/{figure}"
            for kind in ("reward", "end")
            for figure in (
                f"{kind}_precision",
                f"{kind}_recall",
                f"{kind}_loss",
                f"{kind}_rate",
                f"dreamed_{kind}_rate",
            )
        }
        assert figures_of < set(test)
        assert 0 < test["test/reward_rate"] == test["test/end_rate"] < 0.5, "a game of Catch has one, at its end"
        assert all(0 < test[f"test/dreamed_{kind}_rate"] < 1 for kind in ("reward", "end"))
    with RunFolder(tmp_path / "again", tensorboard=False) as run:  # a killed one tests again, and forgets the first try
        again = DiamondTrainer(config, run, WORLD.about, WORLD.envs(1), test_envs=WORLD.envs)
        for _ in range(2):
            again.train_epoch()
        again.held_out.measure(9, again.world_model, again.agent.agent, 2, 8)
        again.close()
        resumed = DiamondTrainer(config, run, WORLD.about, WORLD.envs(1), test_envs=WORLD.envs)
        assert [resumed.train_epoch() for _ in range(2)] == figures[2:]
        assert len(resumed.held_out.store) == played
        resumed.close()


def test_learning_rates_fall_at_the_end_of_all_updates(tmp_path):
    config = replace(TINY, fit=replace(TINY.fit, decay_fraction=0.3))
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run, config)
        rates = []
        for _ in range(config.epochs):
            diamond.train_epoch()
            rates.append(diamond.world_model.optimizers["denoiser"].param_groups[0]["lr"] / OPTIMIZER.lr)
        assert diamond.world_model.step == diamond.world_model.total_steps == 9
        diamond.close()
    assert rates[:2] == [1, 1] and 0.05 < rates[-1] < rates[2] <= 1


@pytest.mark.parametrize("option", ["autoregressive_from", "reward_end_dreams_from"])
@pytest.mark.parametrize(("asked", "settled"), [(0.0, 0.0), (0.3, 0.3), (0.4, 1 / 3), (0.9, 1 / 3), (1.0, 1.0)])
def test_what_begins_late_begins_by_the_end_of_the_first_epoch(option, asked, settled):
    """Three of nine updates are the first epoch's; 1 is never."""
    fit = replace(TINY.fit, num_autoregressive_steps=1, **{option: asked})
    assert getattr(replace(TINY, fit=fit).for_game(WORLD.about).fit, option) == settled


def test_rewards_of_recordings_end_the_first_collection(whole, tmp_path):
    recorded = EpisodeStore(whole[0] / "experience")
    assert sum(abs(float(episode.rew.sum())) for episode in recorded) >= TINY.first_rewards
    config = replace(TINY, first_steps=recorded.num_steps, first_steps_at_most=90, real_steps=90)
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = DiamondTrainer(config, run, WORLD.about, WORLD.envs(1), data=recorded)
        assert diamond.train_epoch()["real/steps"] == recorded.num_steps
        diamond.close()


@pytest.mark.parametrize(("num_envs", "age_of"), [(1, "episodes"), (4, "steps")])
def test_age_is_of_steps_where_games_run_side_by_side(num_envs, age_of):
    assert replace(TINY, num_envs=num_envs).for_game(WORLD.about).fit.age_of == age_of
    assert (
        replace(TINY, num_envs=4, fit=replace(TINY.fit, age_of="episodes")).for_game(WORLD.about).fit.age_of
        == "episodes"
    )


def test_dreams_begin_where_the_denoiser_has_learnt(whole, tmp_path):
    """With lives before an episode's beginning in place of padding, and from the classes of age that it draws."""
    store = EpisodeStore(whole[0] / "experience")
    fit = replace(TINY.fit, age_weights=(0.0, 0.0, 0.0, 1.0))
    starts = replay_starts(store, 2, 64, np.random.default_rng(0), **sampling_of(fit))
    newest = {frame.tobytes() for episode in list(store)[len(store) // 4 * 3 :] for frame in episode.obs}
    assert all(frame.tobytes() in newest for frame in starts.obs[:, -1])
    asked = []
    with RunFolder(tmp_path, tensorboard=False) as run:
        config = replace(TINY, fit=replace(fit, across_lives=True))
        diamond = begin(run, config)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(agent_dreams, "replay_starts", lambda *_, **how: asked.append(how) or starts)
            diamond.train_epoch()
        diamond.close()
    assert asked == [{"across_lives": True, "by_step": False, "weights": (0.0, 0.0, 0.0, 1.0)}] * 2  # drawn twice


def test_the_best_test_is_what_was_learnt(tmp_path, monkeypatch):
    config = replace(TINY, test_every=1, register_best=True)
    scores = {1: 0.2, 2: 0.5, 3: 0.5, 4: -1.0}
    monkeypatch.setattr(HeldOut, "measure", lambda self, epoch, *_: {"test/score": scores[epoch]})

    def trainer(run):
        return DiamondTrainer(config, run, WORLD.about, WORLD.envs(1), test_envs=WORLD.envs)

    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = trainer(run)
        assert diamond.learnt().score is None
        for _ in range(3):
            diamond.train_epoch()
        best = diamond.world_model.averaged().weights() | diamond.agent.agent.state_dict()
        best = {key: value.clone() for key, value in best.items()}
        diamond.close()
        diamond = trainer(run)  # the best is part of the checkpoint
        diamond.train_epoch()
        learnt, now = diamond.learnt(), diamond.agent.agent.state_dict()
        diamond.close()
    assert learnt.score == 0.5
    assert learnt.counts == {"epochs": 3, "steps": 40, "episodes": 6, "updates": 7, "windows": 7}
    found = learnt.world_model.weights() | learnt.agent.state_dict()
    assert all(torch.equal(found[key], value) for key, value in best.items())
    assert not all(torch.equal(now[key], value) for key, value in learnt.agent.state_dict().items())


class Scripted(gym.vector.VectorEnv):
    """Two rows with rewards, ends and truncations as written here."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012
    num_envs = 2

    def __init__(self):
        self.given = iter([([1, 2], [1, 0], [0, 0]), ([5, 3], [0, 0], [0, 1]), ([7, 9], [1, 1], [0, 0])])

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 16, 16, 3), np.uint8), {}

    def step(self, act):
        rew, end, trunc = (np.array(part) for part in next(self.given))
        return self.reset()[0], rew.astype(float), end.astype(bool), trunc.astype(bool), {}


def test_only_the_first_game_of_a_row_counts(tmp_path):
    with EpisodeStore(tmp_path, "a", WORLD.about) as store, Collector(store, Scripted()) as collector:
        for over in ([True, False], [True, True], [True, True]):
            collector.collect(2)
            assert (~np.isnan(collector.first_scores)).tolist() == over
    assert collector.first_scores.tolist() == [1, 5]


FAST = OptimizerConfig(lr=1e-3, batch_size=32, warmup_steps=50)
CATCH = DiamondConfig(
    fit=WorldModelConfig(
        DenoiserConfig(InnerModelConfig(num_steps_conditioning=2, cond_channels=32, depths=[1], channels=[32],
                                        attn_depths=[0], patch_size=2), residual=True),
        RewardEndConfig(lstm_dim=64, cond_channels=32, depths=[1], channels=[16], attn_depths=[0], patch_size=2),
        FAST, replace(FAST, max_grad_norm=100.0, batch_size=16), num_autoregressive_steps=0, reward_end_length=8,
        reward_end_every=2, focus=0.5, ema_decay=0.99,
    ),
    agent=AgentFitConfig(
        ActorCriticConfig(lstm_dim=64, channels=[16, 16], down=[1, 1]),
        ActorCriticLossConfig(weight_entropy_loss=0.01),
        OptimizerConfig(lr=3e-3, weight_decay=0, max_grad_norm=100, batch_size=32), horizon=8,
    ),
    sampler=SamplerConfig(num_denoising_steps=1),
    epochs=5, real_steps=8000, first_steps=3000, first_steps_at_most=3000, steps_per_epoch=500,
    world_model_steps=100, agent_steps=100, first_world_model_steps=1200, first_agent_steps=150,
    num_envs=4, epsilon=0.1,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_catch_is_learnt_in_dreams_alone(tmp_path):
    """From nothing to a real return of 0.8 over 100 games; pytest's `-m slow -s` shows the curve."""
    began, worked = time.monotonic(), time.process_time()
    with RunFolder(tmp_path, tensorboard=False) as run:
        diamond = begin(run, CATCH)
        returns = [score(diamond.agent.agent, games(10), "Catch", 100).mean]
        print(f"\nuntrained: real return {returns[-1]:.2f}")
        while diamond.epoch < CATCH.epochs:
            figures = diamond.train_epoch()
            returns.append(score(diamond.agent.agent, games(10), "Catch", 100).mean)
            print(
                f"epoch {diamond.epoch}: real return {returns[-1]:.2f} after {figures['real/steps']:,.0f} real steps, "
                f"{diamond.world_model.step:,} and {diamond.agent.step:,} updates, {time.monotonic() - began:.0f} s, "
                f"{time.process_time() - worked:.0f} s of processor",
                flush=True,
            )
        diamond.close()
    assert returns[0] < 0
    assert returns[-1] >= 0.8, returns


def test_frames_need_not_be_square():
    config = TINY.for_game(replace(WORLD.about, frame_shape=(16, 20, 3)))
    agent, frames = ActorCritic(config.agent.network), torch.zeros(2, 3, 16, 20)
    assert agent.config.frame_shape == (16, 20, 3)
    logits, value, _ = agent(frames, agent.initial_state(2))
    assert (logits.shape, value.shape) == ((2, WORLD.about.num_actions), (2,))
    reward_end = RewardEnd(config.fit.reward_end)
    films = frames[:, None].expand(2, 3, 3, 16, 20)
    act = torch.zeros(2, 3, dtype=torch.int64)
    assert reward_end(films, act, films)[0].shape == (2, 3, 3)
