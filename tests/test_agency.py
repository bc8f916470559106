"""Where the next frame hangs on the action, and a fitting that looks there first."""

from dataclasses import replace

import pytest
import torch
import worlds
from stubs import Conditioned

from diamond_gym.data.segments import to_tensors
from diamond_gym.errors import BadArgument
from diamond_gym.trainers.agency import agency
from diamond_gym.trainers.loop import ALONE
from diamond_gym.trainers.pixel_weights import PixelWeights
from diamond_gym.trainers.world_model import WorldModelConfig, WorldModelTrainer

STEERING = replace(worlds.CONFIG, agency_weight=20.0, motion_weight=0.0)


class Paddle(Conditioned):
    """A denoiser: a light that the last action puts into one of three columns, and another that nobody moves."""

    def denoise(self, noisy, sigma, obs, act, sigma_cond=None):
        frame = torch.full_like(obs[:, -1], -1.0)
        frame[torch.arange(len(act)), :, 30, 10 + 20 * act[:, -1]] = 1.0
        frame[:, :, 5, 5] = noisy[:, :, 0, 0].clamp(-1, 1)  # it flickers
        return frame


def test_it_is_found_where_the_action_decides() -> None:
    obs, act = torch.zeros(3, 2, 3, 64, 64), torch.tensor([[1, 0], [1, 1], [0, 2]])
    found = agency(Paddle(), obs, act, torch.tensor([1, 1, 0]), torch.randn(3, 3, 64, 64))
    assert found.shape == (3, 1, 64, 64) and found.min() == 0 and found.max() == 1
    assert found[0, 0, 26:35, 6:15].eq(1).all() and found[0, 0, 26:35, 26:35].eq(1).all(), "both places, near them"
    assert found[0].sum() == 2 * 81, "and nothing else: what flickers, flickers either way"
    assert not found[1].any(), "the same action"
    assert found[2, 0, 30, 50] == found[2, 0, 30, 10] == 1
    assert act.tolist() == [[1, 0], [1, 1], [0, 2]], "left as it was"


def test_the_fitting_weighs_it(tmp_path, monkeypatch) -> None:
    fit = WorldModelTrainer(STEERING, worlds.store(tmp_path), total_steps=10)
    batch = to_tensors(fit.denoiser_batches.sample())
    steered = torch.zeros(len(batch.obs), 1, worlds.SIZE, worlds.SIZE)
    steered[0, 0, 2, 3] = 1
    asked = []
    monkeypatch.setattr(
        "diamond_gym.trainers.pixel_weights.agency", lambda *arguments: asked.append(arguments) or steered
    )
    weigh = fit._pixel_weights.of(ALONE.share(len(batch.obs)), batch)
    assert weigh is not None
    t = fit.world_model.denoiser.num_steps_conditioning
    _, obs, act, instead, noise = asked[0]
    assert obs.equal(batch.obs[:, :t]) and act.equal(batch.act[:, :t])
    assert instead.shape == (len(obs),) and instead.min() >= 0 and instead.max() < worlds.ACTIONS
    assert noise.shape == obs[:, 0].shape
    weights = weigh(batch.obs[:, 1 : t + 1])
    assert weights.mean().item() == pytest.approx(1)
    assert weights[0, 0, 2, 3] / weights[0, 0, 0, 0] == pytest.approx(21)
    plain = PixelWeights(replace(STEERING, agency_weight=0.0), Paddle(), fit.appearances)
    assert plain.of(ALONE.share(4), batch) is None, "nothing to weigh, nothing to compute"


def test_a_steered_fitting_goes_on_to_the_same_bits(tmp_path) -> None:
    store = worlds.store(tmp_path)
    whole = WorldModelTrainer(STEERING, store, total_steps=6, seed=2)
    losses = [float(whole.train_step()["denoiser/loss"]) for _ in range(6)]
    first = WorldModelTrainer(STEERING, store, total_steps=6, seed=2)
    begun = [float(first.train_step()["denoiser/loss"]) for _ in range(3)]
    state = first.state_dict()
    second = WorldModelTrainer(STEERING, store, total_steps=6, seed=9)
    second.load_state_dict(state)
    assert begun + [float(second.train_step()["denoiser/loss"]) for _ in range(3)] == losses


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(BadArgument, match="--agency-weight must not be negative"):
        WorldModelConfig(agency_weight=-1)
    with pytest.raises(BadArgument, match="--start-focus is a part"):
        WorldModelConfig(start_focus=2)
