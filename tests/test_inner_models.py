"""Another network in the denoiser's place, by its name: trained, saved in a card, found again and dreamed with."""

import gymnasium as gym
import pytest
import torch
from test_own_worlds import TINY, recordings
from torch import Tensor, nn

from diamond_gym import cli
from diamond_gym.errors import DamagedModel
from diamond_gym.networks.denoiser import INNER_MODELS, InnerModelConfig
from diamond_gym.registry import load_world_model, resolve

WORDS = ["train-wm", "--data", "maze", *TINY, "--denoiser.inner-model.network", "plain"]


class Plain(nn.Module):
    """One convolution, which cannot be folded."""

    def __init__(self, config: InnerModelConfig) -> None:
        super().__init__()
        images = config.num_steps_conditioning + 1
        self.conv = nn.Conv2d(images * config.img_channels, config.img_channels, 3, padding=1)

    def forward(
        self, noisy: Tensor, c_noise: Tensor, obs: Tensor, act: Tensor | None, c_noise_cond: Tensor | None = None
    ) -> Tensor:
        return self.conv(torch.cat((obs, noisy), dim=1)).float()


def test_a_network_of_ones_own_from_training_to_dreams(home, monkeypatch, capsys):
    recordings(home / "data" / "maze")
    assert cli.main(WORDS) == 2
    assert "there is no network 'plain' here, only unet" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setitem(INNER_MODELS, "plain", Plain)
    assert cli.main([*WORDS, "--reward-end-dreams-from", "0"]) == 0  # which dreams while it trains
    assert resolve("Maze").card.denoiser["inner_model"]["network"] == "plain"
    env = gym.make("DiamondDream-v0", model="maze-nano", device="cpu")
    assert isinstance(env.unwrapped.world_model.denoiser.inner_model, Plain)
    env.reset(seed=0)
    assert env.observation_space.contains(env.step(1)[0])
    monkeypatch.delitem(INNER_MODELS, "plain")
    with pytest.raises(DamagedModel, match="there is no network 'plain' here"):
        load_world_model("maze-nano")
