"""How many rollouts count, and over how many steps: those that were asked for."""

import pytest
import worlds

from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.sampler import SamplerConfig
from diamond_gym.trainers.measuring import Sizes, measure
from diamond_gym.trainers.worlds import find_world
from diamond_gym.world_model import WorldModel


def test_free_dreams_last_at_least_as_long_as_the_rollouts_that_they_are() -> None:
    with pytest.raises(BadArgument, match=r"^--free-steps must be at least --rollout-steps, 20, not 3"):
        Sizes(rollouts=6, rollout_steps=20, free_dreams=4, free_steps=3)
    for fits in ({"free_dreams": 0}, {"rollouts": 0}, {"rollout_steps": 3}, {"free_steps": 20}):
        Sizes(**{"rollouts": 6, "rollout_steps": 20, "free_dreams": 4, "free_steps": 3} | fits)


@pytest.mark.parametrize(("rollouts", "free", "starts"), [(6, 4, 6), (2, 4, 4), (6, 0, 6)])
def test_returns_are_over_the_steps_that_were_asked_for(rollouts: int, free: int, starts: int) -> None:
    model = WorldModel(Denoiser(worlds.CONFIG.denoiser)).eval()
    sizes = Sizes(windows=0, rollouts=rollouts, rollout_steps=3, free_dreams=free, free_steps=5, dreams_per_start=0)
    result = measure(model, find_world(env="DiamondGym/Catch-v0"), {}, sizes, ["random"], SamplerConfig(1))
    returns = result.table["returns"]["random"]
    assert (returns["steps"], returns["starts"]) == (3, starts)
    assert (result.free is None) == (free == 0)
    if result.free is not None:
        assert result.free[1].rew.shape == (free, 5), "and drift over all of theirs"
