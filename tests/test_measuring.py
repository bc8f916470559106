"""A world model measured whole: the table, the page and the replays, and with the kernels what is found without."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import worlds
from test_rollouts import N, Walks

from diamond_gym.device import is_compiled
from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.kernels import built_kernels
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.registry.human_card import flat_rows
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers import measuring
from diamond_gym.trainers.fidelity import diversity
from diamond_gym.trainers.measuring import Sizes, describe, measure
from diamond_gym.trainers.rollouts import dream_rollouts
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
