"""What is measured of a world model, in a toy game whose perfect dream is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import worlds
from test_evaluation import Oracle, RewardOracle, T

from diamond_gym.errors import BadArgument
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.closed_loop import RealPlay
from diamond_gym.trainers.collect import StickyPolicy
from diamond_gym.trainers.fidelity import ClosedLoop, Diversity, Drift, UnderPolicy, interval
from diamond_gym.trainers.measuring import Fidelity, Sizes, describe, policies_of, policy_maker
from diamond_gym.trainers.rollouts import dream_rollout, record, returns
from diamond_gym.trainers.videos import comparison, difference
from diamond_gym.world_model import WorldModel

H, N = 12, 6


class Walks:
    """The walk of `worlds` as N games: its ends are lost lives, and every fourth of them ends the game."""

    def __init__(self) -> None:
        self.column = np.full(N, worlds.SIZE // 2)
        self.lost, self.over = np.zeros(N, np.int64), np.zeros(N, bool)

    def frames(self) -> np.ndarray:
        frames = np.zeros((N, worlds.SIZE, worlds.SIZE, 3), np.uint8)
        frames[np.arange(N), :, self.column] = 255
        return frames

    def reset(self, seed: int) -> np.ndarray:
        return self.frames()

    def step(self, act: np.ndarray) -> tuple[np.ndarray, ...]:
        restarted = self.over.copy()
        moved = np.clip(self.column + np.array([0, -1, 1])[act], 0, worlds.SIZE - 1)
        self.column = np.where(restarted, worlds.SIZE // 2, moved)
        rew = (self.column == worlds.SIZE - 1) * 3.0 - (self.column == 0)
        end = rew != 0
        self.lost += end
        self.over = end & (self.lost % 4 == 0)
        return self.frames(), rew.astype(np.float32), end, np.zeros(N, bool), restarted

    def close(self) -> None: ...
    def state_dict(self) -> None: ...
    def load_state_dict(self, state: dict[str, Any]) -> np.ndarray:
        raise NotImplementedError


class Right:
    """Always goes right; remembers how often it has been asked, and on what."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.first: list[np.ndarray] = []

    def __call__(self, obs: np.ndarray, first: np.ndarray) -> np.ndarray:
        self.seen.append(obs.copy())
        self.first.append(first.copy())
        return np.full(len(obs), 2, np.int64)


def pieces(steps: int = H, warm_up: int = 9):
    rng = np.random.default_rng(3)
    return record(Walks(), StickyPolicy(3, np.full(N, 0.5), rng), T, steps, warm_up, rng)


@pytest.fixture
def oracle() -> WorldModel:
    return WorldModel(Oracle(), RewardOracle())


def test_pieces_are_what_happened() -> None:
    found = pieces(40)
    columns = found.play.obs[:, :, 0, 0].argmax(-1)
    assert found.play.obs.shape == (N, T + 40, 3, 8, 8)
    moved = np.clip(columns[:, :-1] + np.array([0, -1, 1])[found.play.act], 0, 7) == columns[:, 1:]
    assert moved[:, : T - 1].all(), "the first frames lie within one game"
    assert moved[:, T - 1 :][found.going].all()
    assert not found.going.all(), "some games end"
    first_new = found.going.argmin(axis=1)[~found.going.all(axis=1)]
    assert (columns[~found.going.all(axis=1), T + first_new] == 4).all(), "and begin anew in the middle"
    after = columns[:, T:]
    rew = np.where(found.going, (after == 7) * 1.0 - (after == 0), 0)
    assert np.array_equal(found.play.rew, rew)
    assert np.array_equal(found.play.end, rew != 0)


def test_returns_stop_with_the_first_end() -> None:
    rew, end = np.array([[1, -1, 1, 1.0], [0, 1, 1, 1]], np.float32), np.zeros((2, 4), bool)
    assert returns(rew, end).tolist() == [2, 3]
    end[0, 1] = end[0, 3] = True
    assert returns(rew, end).tolist() == [0, 3]


def test_a_policy_dreams_on_from_real_frames(oracle: WorldModel) -> None:
    real, policy = pieces(), Right()
    found = dream_rollout(oracle, real.play, lambda rows, rng: policy, SamplerConfig(), seed=1)
    columns = np.minimum(real.play.obs[:, T - 1, 0, 0].argmax(-1)[:, None] + np.arange(1, H + 1), 7)
    assert np.array_equal(found.obs[:, :, 0, 0].argmax(-1), columns)
    assert (found.act == 2).all()
    assert np.array_equal(found.rew, (columns == 7) * 1.0), "no end stops a dream"
    assert np.array_equal(found.end, columns == 7)
    assert (found.returns == 1).all()
    assert [bool(first.all()) for first in policy.first] == [True] + [False] * (H + T - 2)
    burnt_in = np.stack([seen.transpose(0, 3, 1, 2) for seen in policy.seen[:T]], axis=1)
    assert np.array_equal(burnt_in, real.play.obs[:, :T]), "the policy has seen the start's earlier frames"


def test_an_oracle_agrees_with_the_game(oracle: WorldModel) -> None:
    real = pieces()

    def again(rows: int, rng: np.random.Generator):
        acts = iter(real.play.act.T)
        return lambda obs, first: next(acts)

    found = UnderPolicy.measure(oracle, "Walk", "again", real, again, SamplerConfig(), 0)
    assert np.array_equal(found.dreamed.obs[real.going], real.play.obs[:, T:][real.going])
    table = found.returns()
    assert (table["difference"], table["difference_interval_95"]) == (0, [0, 0])
    low, high = table["dream_interval_95"]
    assert low <= table["dream"] == table["real"] <= high


def test_closed_loop_of_an_oracle(tmp_path: Path, oracle: WorldModel) -> None:
    play = RealPlay.draw(worlds.store(tmp_path / "walks", episodes=40), 30, T, 4, seed=1)
    table = ClosedLoop.measure(oracle, play, SamplerConfig(), 0).table((1, 4))
    assert table["mse_over_copy_4"] == 0
    assert table["reward_ece"] == pytest.approx(0, abs=1e-6)
    assert table["end_brier"] == pytest.approx(0, abs=1e-6)
    assert table["psnr_1"] == 100 > table["psnr_copy_1"] > 0
    assert table["reward_f1_on_real_frames"] == table["end_f1_on_real_frames"] == 1
    assert table["end_brier_skill"] == pytest.approx(1)


def test_an_oracle_does_not_drift_and_knows_one_future(oracle: WorldModel) -> None:
    real = pieces()
    drift = Drift.measure(oracle, real, lambda rows, rng: Right(), SamplerConfig(), 0)
    table = drift.table()
    assert table["steps"] == H
    assert table["brightness_over_real"] == pytest.approx(1)
    assert table["moving"] == 0 < table["energy_over_real"] + 1, "all have come to the right side"
    found = Diversity.measure(oracle, real.play, 3, SamplerConfig(), 0)
    assert found.dreamed.shape == (N, 3, H, 3, 8, 8)
    assert (found.spread == 0).all()
    assert found.error[0] == 0
    assert found.table((1, 4, 16)).keys() == {
        *("starts", "dreams", "between_dreams_1", "to_reality_1", "between_dreams_4", "to_reality_4"),
    }


def test_a_film_of_both(oracle: WorldModel) -> None:
    found = Diversity.measure(oracle, pieces().play, 2, SamplerConfig(), 0)
    film = comparison(found, ("stay", "left", "right"), scale=8)
    assert len({frame.shape for frame in film}) == 1
    steps = film[-H:]
    first = steps[0][22 : 22 + 64]  # below the titles: reality, dream and difference of the first start
    assert np.array_equal(first[:, :64], first[:, 66:130])
    assert not first[:, 132:196].any()
    assert not np.array_equal(steps[0], steps[1])
    assert difference(np.array([10, 200], np.uint8), np.array([200, 190], np.uint8)).tolist() == [255, 20]


def test_a_page_of_all(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import imageio.v3 as iio

    from diamond_gym.networks.denoiser import Denoiser
    from diamond_gym.networks.reward_end import RewardEnd
    from diamond_gym.trainers.plots import draw_page

    torch.manual_seed(0)
    model = WorldModel(Denoiser(worlds.CONFIG.denoiser), RewardEnd(worlds.CONFIG.reward_end)).eval()
    store = worlds.store(tmp_path / "walks", episodes=40)
    play, real, sampler = RealPlay.draw(store, 8, T, 4, seed=1), pieces(), SamplerConfig(num_denoising_steps=1)
    found = Fidelity("toy", "Walk")
    found.loops["random play"] = ClosedLoop.measure(model, play, sampler, 0)
    found.held_out["random play"] = describe(store, "random")
    draw_page(tmp_path / "little.png", found)
    found.under.append(UnderPolicy.measure(model, "Walk", "right", real, lambda rows, rng: Right(), sampler, 0))
    found.drift = Drift.measure(model, real, lambda rows, rng: Right(), sampler, 0)
    found.diversity = Diversity.measure(model, real.play, 2, sampler, 0)
    draw_page(tmp_path / "all.png", found)
    heights = [iio.imread(tmp_path / name).shape[0] for name in ("little.png", "all.png")]
    assert 300 < heights[0] < heights[1]
    table = found.table()
    assert table["held_out"] == {"policy": "random", "steps": store.num_steps, "episodes": 40}
    assert {"mse_over_copy_1", "reward_f1", "end_ece", "returns", "drift", "diversity"} <= table.keys()


def test_who_played_is_told(tmp_path: Path) -> None:
    assert describe(worlds.store(tmp_path / "walks"))["policy"] == "not recorded"


def test_policies(oracle: WorldModel) -> None:
    assert policies_of(False, "Breakout") == ["random"]
    assert policies_of(True, "Breakout") == ["random", "agent"]
    assert policies_of(False, "Pong", ("scripted", "random")) == ["scripted", "random"]
    for wanted, message in ((("best",), "not best"), (("agent",), "no agent of its own")):
        with pytest.raises(BadArgument, match=message):
            policies_of(False, "Breakout", wanted)
    with pytest.raises(BadArgument, match="not for Boxing"):
        policies_of(False, "Boxing", ("scripted",))
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    scripted = policy_maker(oracle, "Freeway", "scripted")(2, np.random.default_rng(0))
    assert scripted(frames, np.ones(2, bool)).tolist() == [1, 1]


def test_sizes() -> None:
    quick = Sizes().quicker()
    assert (quick.windows, quick.rollouts, quick.free_dreams, quick.dreams_per_start) == (100, 20, 3, 2)
    assert quick.frames(1, 1) == 100 * 16 + 20 * 50 + 3 * 200 + 2 * 2 * 50
    assert Sizes(rollouts=0, free_dreams=0, dreams_per_start=0).quicker().frames(2, 1) == 2 * 100 * 16
    for wrong in ({"windows": 0}, {"rollouts": -1}, {"dreams_per_start": 1}):
        with pytest.raises(BadArgument, match=next(iter(wrong)).replace("_", "-")):
            Sizes(**wrong)


def test_intervals() -> None:
    low, high = interval(np.random.default_rng(0).normal(5, 1, 400))
    assert low < 5 < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
