"""Several stores of held-out play in one evaluation: each has figures of its own, and hides nobody else's."""

from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from test_rollouts import Walks

from diamond_gym.cli.evaluate_wm import EvaluateWm, _names, _updated
from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.registry.human_card import flat_rows
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers import measuring
from diamond_gym.trainers.fidelity import rounded
from diamond_gym.trainers.measuring import Sizes, describe, measure
from diamond_gym.trainers.worlds import World
from diamond_gym.world_model import WorldModel


class WalkWorld(World):
    """The walk as a world to play."""

    def envs(self, *_: object, **__: object) -> Walks:  # type: ignore[override]
        return Walks()


def test_names_tell_stores_apart() -> None:
    a, b, c = Path("/a/held"), Path("/b/held"), Path("/c/other")
    assert _names([("random play", a), ("scripted play", b)]) == ["random play", "scripted play"]
    assert _names([("random play", a), ("random play", c)]) == ["held", "other"]
    assert _names([("random play", a), ("random play", b), ("random play", c)]) == ["a/held", "b/held", "other"]
    named_alike = [("my play", a), ("random play", Path("/d/my play")), ("random play", c)]
    assert _names(named_alike) == ["held", "d/my play", "other"]
    deep = [("random play", Path(f"/x/{name}/held/test")) for name in "abc"]
    assert _names(deep) == ["a/held/test", "b/held/test", "c/held/test"]
    inside = [("random play", Path("/a/held")), ("random play", Path("/b/a/held")), ("random play", Path("/held"))]
    assert len(set(_names(inside))) == 3


def test_every_store_is_measured_and_none_twice(tmp_path: Path) -> None:
    world = World(worlds.ABOUT)
    folders = [tmp_path / name / "held" for name in "abc"]
    for i, folder in enumerate(folders):
        worlds.store(folder, 2 + i)
    found = EvaluateWm("x", data=tuple(map(str, folders)))._held_out(world)
    assert list(found) == ["a/held", "b/held", "c/held"]
    assert [about["episodes"] for _, about in found.values()] == [2, 3, 4]
    (tmp_path / "link").symlink_to(folders[0])
    for again in (folders[0], tmp_path / "link", tmp_path / "b" / ".." / "a" / "held"):
        with pytest.raises(BadArgument, match="twice"):
            EvaluateWm("x", data=(str(folders[0]), str(again)))._held_out(world)


def test_a_store_called_drift_hides_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    monkeypatch.setattr(measuring, "Games", lambda envs: envs)
    torch.manual_seed(0)
    model = WorldModel(Denoiser(worlds.CONFIG.denoiser)).eval()
    stores = {name: worlds.store(tmp_path / name, 20, seed) for seed, name in enumerate(("main", "drift", "returns"))}
    held_out = {name: (store, describe(store, "random")) for name, store in stores.items()}
    sizes = Sizes(windows=4, horizon=2, rollouts=4, rollout_steps=2, free_dreams=4, free_steps=4, dreams_per_start=0)
    table = measure(model, WalkWorld(worlds.ABOUT, "Walk"), held_out, sizes, ["random"], SamplerConfig()).table
    assert table["drift"]["steps"] == 4 and table["returns"]["random"]["steps"] == 2
    assert list(table["other_play"]) == ["drift", "returns"]
    assert table["other_play"]["drift"]["held_out"] == held_out["drift"][1]
    alone = measure(model, World(worlds.ABOUT), {"drift": held_out["drift"]}, sizes, [], SamplerConfig()).table
    assert rounded(table["other_play"]["drift"]) == rounded(alone), "it is measured as the first store is"
    assert np.isfinite(dict(flat_rows(rounded(table)))["other_play.drift.mse_1"])


def test_a_card_keeps_other_play_that_was_not_measured_again() -> None:
    card = {"mse_1": 0.1, "other_play": {"scripted play": {"mse_1": 0.2}, "mine": {"mse_1": 0.3, "mse_4": 0.4}}}
    updated = _updated(card, {"mse_1": 0.5, "other_play": {"mine": {"mse_1": 0.6}}})
    assert updated == {"mse_1": 0.5, "other_play": {"scripted play": {"mse_1": 0.2}, "mine": {"mse_1": 0.6}}}
