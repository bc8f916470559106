"""Figures of a world model, by hand and in a toy game whose perfect dream is known."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import worlds
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rollouts import H, N, Right, T, Walks, oracle, recorded

from diamond_gym.cli.evaluate_wm import _updated
from diamond_gym.device import is_compiled
from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.kernels import built_kernels
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.registry.human_card import flat_rows
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers import fidelity, measuring
from diamond_gym.trainers.fidelity import (
    brier,
    calibration,
    chances_on_real_frames,
    compare_returns,
    course,
    detection,
    diversity,
    drift,
    figures,
    mse,
    over,
    psnr,
    rounded,
    similarity,
    ssim,
)
from diamond_gym.trainers.measuring import Sizes, closed_loop, describe, measure
from diamond_gym.trainers.rollouts import Rollouts, dream_rollouts
from diamond_gym.trainers.worlds import World
from diamond_gym.world_model import WorldModel


class WalkWorld(World):
    """The walk as a world to play."""

    def envs(self, *_: object, **__: object) -> Walks:  # type: ignore[override]
        return Walks()


@pytest.fixture
def walk(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(measuring, "Games", lambda envs: envs)
    return WalkWorld(worlds.ABOUT, "Walk")


@pytest.fixture
def real(tmp_path: Path) -> Rollouts:
    return Rollouts.held_out(worlds.store(tmp_path / "walks", episodes=40), 30, T, 4, seed=1)


def film(frames: np.ndarray) -> Rollouts:
    """Frames (N, T + H, C, h, w) whose first is the one to begin from."""
    n, h = len(frames), frames.shape[1] - 1
    return Rollouts(frames, np.zeros((n, h), np.int64), np.zeros((n, h), np.float32), np.zeros((n, h), bool))


def pair(seed: int, size: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Waves in three colours, and the same with noise: uint8 (3, size, size) each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    a = np.stack([127 + 100 * np.sin(x / 3 + c) * np.cos(y / (4 + c)) for c in range(3)])
    b = a + rng.normal(0, noise, a.shape)
    return a.clip(0, 255).astype(np.uint8), b.clip(0, 255).astype(np.uint8)


# From an implementation of our own, which agreed to the last digit: the settings are those of Wang et al. 2004.
@pytest.mark.parametrize(
    ("seed", "size", "noise", "known"),
    [(0, 24, 20, 0.7653807944594351), (1, 64, 5, 0.9796032116136678), (2, 16, 80, 0.17177125703332732)],
)
def test_ssim_against_known_values(seed: int, size: int, noise: float, known: float) -> None:
    pytest.importorskip("skimage")
    a, b = pair(seed, size, noise)
    assert ssim(a[None], b[None]) == pytest.approx(known, abs=1e-9)


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_ssim_of_equals_is_one_and_sides_do_not_matter(seed: int, channels: int) -> None:
    pytest.importorskip("skimage")
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, 2, channels, 12, 13), dtype=np.uint8)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, b) == pytest.approx(ssim(b, a)) and ssim(a, b) < 1
    assert np.isnan(ssim(a[..., :8], b[..., :8])), "frames smaller than its window"


def test_errors_by_hand() -> None:
    real = np.stack([np.full((2, 3, 12, 12), 51 * h, np.uint8) for h in range(3)], axis=1)
    assert mse(real, real[:, :1]) == pytest.approx([0, 0.04, 0.16])
    assert mse(real, real).tolist() == [0, 0, 0]
    assert [psnr(error) for error in (0.04, 1.0, 0.0)] == pytest.approx([13.9794, 0, 100])


def test_similarity_of_a_film_and_of_its_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    monkeypatch.setattr(fidelity, "HORIZONS", (1, 2))
    real = film(np.stack([np.full((2, 3, 12, 12), 51 * h, np.uint8) for h in range(3)], axis=1))
    table = similarity(real, real)
    assert table["psnr_1"] == table["psnr_2"] == 100 and table["ssim_2"] == pytest.approx(1)
    assert table["psnr_copy_1"] == pytest.approx(13.9794, abs=1e-4)
    assert 1 > table["ssim_copy_1"] > table["ssim_copy_2"]


def test_detection_by_hand() -> None:
    score = detection(np.array([1, -1, 0, 0, 1]), np.array([1, 1, 1, 0, 0]))
    assert (score.precision, score.recall, score.events) == (1 / 3, 1 / 3, 3)
    assert score.f1 == pytest.approx(1 / 3)
    assert detection(np.zeros(3), np.zeros(3)).f1 == 0


def test_an_oracle_is_perfect(real: Rollouts) -> None:
    table = figures(real, dream_rollouts(oracle(), real, SamplerConfig()))
    assert table["mse_1"] == table["mse_over_copy_4"] == 0
    assert table["reward_f1"] == table["reward_sampled_f1"] == table["end_f1"] == table["end_sampled_f1"] == 1
    assert table["rewards"] == (real.rew != 0).sum() > 0
    table = calibration(oracle(), real)
    assert table["reward_f1_on_real_frames"] == table["end_f1_on_real_frames"] == 1
    assert table["end_brier"] == pytest.approx(0, abs=1e-6)
    assert table["end_brier_skill"] == pytest.approx(1)


def test_copying_the_last_frame_scores_one(real: Rollouts) -> None:
    copied = replace(real, obs=np.concatenate((real.obs[:, :T], np.repeat(real.last, 4, axis=1)), axis=1))
    table = figures(real, copied)
    assert table["mse_over_copy_1"] == table["mse_over_copy_4"] == 1
    assert "reward_f1" not in table, "there is no reward/end model"


@pytest.mark.filterwarnings("error")
def test_where_nothing_moves_there_is_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing moves in the first step, everything by 51 levels in the second; dreams are 102 and 51 levels off."""
    monkeypatch.setattr(fidelity, "HORIZONS", (1, 2))
    real = film(np.stack([np.full((2, 3, 12, 12), level, np.uint8) for level in (0, 0, 51)], axis=1))
    dreamed = film(np.stack([np.full((2, 3, 12, 12), level, np.uint8) for level in (0, 102, 102)], axis=1))
    assert over(np.array([1.0, 0, 3]), np.array([0, 0, 2.0])) == pytest.approx([np.nan, np.nan, 1.5], nan_ok=True)
    table = figures(real, dreamed)
    assert np.isnan(table["mse_over_copy_1"]) and table["mse_over_copy_2"] == pytest.approx(1)
    card = rounded({**table, "low_res": {"mse_over_copy_1": np.nan, "mse_1": 0.5}})
    assert card["undefined"] == "mse_over_copy_1, low_res.mse_over_copy_1"
    assert card["mse_1"] == 0.16 and "mse_over_copy_1" not in card and card["low_res"] == {"mse_1": 0.5}
    monkeypatch.setattr(fidelity, "HORIZONS", (2,))
    assert "undefined" not in rounded(figures(real, real))


def test_large_frames_as_the_small_ones_enlarged_have_no_ratio_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "HORIZONS", (1, 2))
    flat = film(np.full((2, 3, 3, 12, 12), 90, np.uint8))
    table = closed_loop(flat, replace(flat, low_res=np.full((2, 3, 3, 6, 6), 90, np.uint8)))
    assert table["mse_1"] == table["low_res"]["mse_2"] == 0
    ratios = table["mse_over_enlarged_2"], table["mse_over_copy_1"], table["low_res"]["mse_over_copy_1"]
    assert np.isnan(ratios).all()


def test_a_card_forgets_a_figure_that_is_undefined_now() -> None:
    card = _updated({"mse_over_copy_1": 0.5, "reward_f1": 0.2}, {"mse_1": 0.1, "undefined": "mse_over_copy_1"})
    assert card == {"reward_f1": 0.2, "mse_1": 0.1, "undefined": "mse_over_copy_1"}
    returns = {"returns": {"random": {"dream": 1.0}}}
    assert _updated(card, returns) == {**card, **returns}, "what was not measured again is as undefined as before"
    assert _updated(card, {"mse_over_copy_1": 0.7}) == {"reward_f1": 0.2, "mse_1": 0.1, "mse_over_copy_1": 0.7}


def test_brier_by_hand() -> None:
    score, skill = brier(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, True, True, True]))
    assert score == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    assert skill == pytest.approx(1 - 0.21 / (0.75 * 0.25))
    assert np.isnan(brier(np.array([0.0, 1.0]), np.array([False, False]))[1]), "what never happens has no skill"


def test_honest_chances_have_skill_and_bold_ones_less() -> None:
    rng = np.random.default_rng(0)
    chance = rng.random((200, 100)) ** 4
    happened = rng.random(chance.shape) < chance
    honest, bold = brier(chance, happened), brier(np.sqrt(chance), happened)
    assert honest[0] < bold[0]
    assert honest[1] > max(0, bold[1])


def test_chances_on_real_frames_are_the_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reward_end = RewardEnd(worlds.CONFIG.reward_end).eval()
    model = WorldModel(Denoiser(worlds.CONFIG.denoiser), reward_end).eval()
    real = Rollouts.held_out(worlds.store(tmp_path / "walks", episodes=40), 70, 2, 4, seed=1)
    rew, end = chances_on_real_frames(model, real)
    assert (rew.shape, end.shape) == ((70, 4, 3), (70, 4))
    obs = torch.from_numpy(real.obs[66:67]).float() / 255 * 2 - 1
    with torch.no_grad():
        _, logits, _ = reward_end(obs[:, :-1], torch.from_numpy(real.act[66:67]), obs[:, 1:])
    assert end[66] == pytest.approx(logits.softmax(-1)[0, 1:, 1].numpy(), abs=1e-5)
    assert calibration(WorldModel(Denoiser(worlds.CONFIG.denoiser)), real) == {}


def test_returns_of_an_oracle_are_the_games() -> None:
    real = recorded()
    table = compare_returns(real, dream_rollouts(oracle(), real, SamplerConfig()))
    assert (table["difference"], table["difference_interval_95"]) == (0, [0, 0])
    low, high = table["dream_interval_95"]
    assert low <= table["dream"] == table["real"] <= high
    assert (table["steps"], table["starts"]) == (H, N)


def test_course_of_a_film() -> None:
    frames = np.zeros((2, 4, 3, 10, 10), np.uint8)
    frames[:, 1:, :, 0] = 255  # a tenth of the picture lights up in the first step, and stays
    frames[1, 3] = 255  # in the last step the second film is of a new game
    going = np.ones((2, 3), bool)
    going[1, 2] = False
    result = course(replace(film(frames), going=going))
    assert result["brightness"] == pytest.approx([0.1, 0.1, (0.1 + 1) / 2])
    assert result["contrast"][:2] == pytest.approx([0.3, 0.3])
    assert result["moving"] == pytest.approx([0.1, 0, 0])
    assert result["energy"] == pytest.approx([0.1, 0, 0])
    frames[0, 3, 0, 5, 5] = 16  # a flicker is no movement
    result = course(replace(film(frames), going=going))
    assert result["moving"][2] == 0 < result["energy"][2]


def test_an_oracle_does_not_drift() -> None:
    real = recorded()
    dreamed = dream_rollouts(oracle(), real, SamplerConfig(), lambda rows, rng: Right())
    table = drift(course(real), course(dreamed))
    assert table["steps"] == H
    assert table["brightness_over_real"] == pytest.approx(1)
    assert table["moving"] == 0, "all have come to the right side"
    assert table["energy_over_real"] == 0


def test_diversity_is_the_distance_of_pairs_over_that_to_reality() -> None:
    rng = np.random.default_rng(0)
    real, dreams = (film(rng.integers(0, 256, (n, 3, 3, 5, 5), dtype=np.uint8)) for n in (2, 8))
    groups = dreams.after.reshape(2, 4, 2, 3, 5, 5)
    pairs = [mse(groups[:, i, 1:], groups[:, j, 1:])[0] for i in range(4) for j in range(4) if i != j]
    errors = [mse(real.after[:, 1:], groups[:, i, 1:])[0] for i in range(4)]
    assert diversity(real, dreams, 2) == pytest.approx(np.mean(pairs) / np.mean(errors))
    same = dreams[np.repeat([0, 4], 4)]
    assert diversity(real, same, 2) == 0
    assert np.isnan(diversity(real, real[np.repeat([0, 1], 4)], 2)), "dreams without an error"


def test_a_page_and_a_table_of_all(walk: World, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("skimage")
    import imageio.v3 as iio

    from diamond_gym.trainers.plots import draw_page

    torch.manual_seed(0)
    model = WorldModel(Denoiser(worlds.CONFIG.denoiser), RewardEnd(worlds.CONFIG.reward_end)).eval()
    model.card = SimpleNamespace(name="toy", codec=walk.about.codec)
    store = worlds.store(tmp_path / "walks", episodes=40)
    held_out = {"random play": (store, describe(store, "random"))}
    sizes = Sizes(windows=8, horizon=4, rollouts=N, rollout_steps=5, free_dreams=N, free_steps=11, starts=2)
    sampler = SamplerConfig(num_denoising_steps=1)
    heights = []
    for policies in ([], ["random"]):
        frames: list[int] = []
        result = measure(model, walk, held_out, sizes, policies, sampler, 0, frames.append)
        assert sum(frames) == sizes.frames(1, len(policies))
        draw_page(tmp_path / "page.png", result, "dreams against the real game")
        heights.append(iio.imread(tmp_path / "page.png").shape[0])
    assert 300 < heights[0] < heights[1]
    table = result.table
    assert table["held_out"] == {"policy": "random", "steps": store.num_steps, "episodes": 40}
    assert {"mse_over_copy_1", "reward_f1", "psnr_4", "end_brier", "returns", "diversity_5"} <= table.keys()
    looks = table["looks"]["random"]["after_10"]
    assert looks["dreams"] == N
    assert 0 <= looks["real"]["artefacts"] < looks["artefacts"] <= 1, "an untrained model's frames"
    assert looks["real"]["nearest"] < looks["nearest"]
    assert result.free is not None and np.array_equal(result.free[0].act, result.free[1].act), "the same random actions"


def test_the_kernels_measure_the_same(walk: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    if built_kernels() is None:
        pytest.skip("no kernels here")
    inner = replace(worlds.INNER, channels=[16], cond_channels=16)
    store = worlds.store(tmp_path / "walks", episodes=40)
    sizes = Sizes(windows=8, horizon=4, rollouts=N, rollout_steps=5, free_dreams=0, starts=2, dreams_per_start=2)
    tables, compiled = [], []
    for kernels in (built_kernels(), None):
        monkeypatch.setattr("diamond_gym.networks.kernels.built_kernels", lambda kernels=kernels: kernels)
        torch.manual_seed(0)
        reward_end = RewardEnd(replace(worlds.CONFIG.reward_end, channels=[16]))
        model = WorldModel(Denoiser(replace(worlds.CONFIG.denoiser, inner_model=inner)), reward_end).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        held_out = {"random play": (store, describe(store))}
        result = measure(model, walk, held_out, sizes, ["random"], SamplerConfig())
        tables.append({key: value for key, value in flat_rows(result.table) if isinstance(value, float)})
        compiled.append(is_compiled(model.denoiser.inner_model))
    assert compiled == [True, False]
    assert len(tables[0]) > 30
    assert tables[0] == pytest.approx(tables[1], rel=1e-3, nan_ok=True)


def test_replays_show_what_really_followed_and_diversity_is_of_the_same_starts(walk: World) -> None:
    pytest.importorskip("skimage")
    torch.manual_seed(0)
    model = WorldModel(Denoiser(replace(worlds.CONFIG.denoiser, residual=False))).eval()
    sizes = Sizes(windows=8, horizon=4, rollouts=N, rollout_steps=20, free_dreams=0, starts=2, dreams_per_start=3)
    result = measure(model, walk, {}, sizes, ["random"], SamplerConfig())
    assert result.replays is not None
    real, dreamed = result.replays
    assert (len(real), real.rew.shape[1], dreamed.rew.shape[1]) == (2, 20, 20)
    assert np.array_equal(real.act, dreamed.act)
    whole = dream_rollouts(model, real[np.repeat([0, 1], 3)], SamplerConfig())  # all 20 steps
    assert result.table["diversity_16"] == pytest.approx(diversity(real, whole, 16))


def test_play_begins_within_the_first_steps_of_a_game(walk: World) -> None:
    model = WorldModel(Denoiser(worlds.CONFIG.denoiser)).eval()
    begun = []
    for warm_up in (0, 60):
        sizes = Sizes(windows=0, rollouts=N, rollout_steps=2, free_dreams=N, free_steps=2, dreams_per_start=0)
        result = measure(model, walk, {}, replace(sizes, warm_up=warm_up), ["random"], SamplerConfig())
        assert result.free is not None
        begun.append(len({frames.tobytes() for frames in result.free[0].obs[:, 0]}))
    assert begun[0] == 1 < begun[1]


def test_who_played_is_recorded(tmp_path: Path) -> None:
    assert describe(worlds.store(tmp_path / "walks"))["policy"] == "not recorded"


def test_sizes() -> None:
    quick = Sizes().quicker()
    assert (quick.windows, quick.rollouts, quick.free_dreams, quick.dreams_per_start) == (100, 20, 6, 2)
    assert quick.frames(1, 1) == 100 * 16 + 14 * 50 + 6 * 200 + 2 * 2 * 16 + 2 * 50
    assert Sizes(rollouts=0, free_dreams=0, dreams_per_start=0).quicker().frames(2, 1) == 2 * 100 * 16
    for wrong in ({"windows": -1}, {"rollouts": -1}, {"dreams_per_start": 1}):
        with pytest.raises(BadArgument, match=next(iter(wrong)).replace("_", "-")):
            Sizes(**wrong)
