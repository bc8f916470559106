"""How a world is fitted and its agent trained on a GPU."""

from dataclasses import dataclass, field
from functools import partial

from diamond_gym.networks.actor_critic import ActorCriticConfig
from diamond_gym.networks.denoiser import InnerModelConfig
from diamond_gym.networks.preconditioning import SigmaDistribution
from diamond_gym.networks.reward_end import RewardEndConfig
from diamond_gym.trainers.actor_critic import ActorCriticLossConfig


@dataclass(frozen=True)
class Recipe:
    """How a world is fitted; the sizes are those of the presets `nano`."""

    inner: InnerModelConfig = field(default_factory=partial(
        InnerModelConfig, cond_channels=128, depths=[1, 1, 1], channels=[32, 64, 64], attn_depths=[0, 0, 0],
        patch_size=2,
    ))  # fmt: skip
    reward_end: RewardEndConfig = field(default_factory=partial(
        RewardEndConfig, lstm_dim=128, cond_channels=64, depths=[1, 1, 1], channels=[32, 32, 32], attn_depths=[0, 0, 0],
        patch_size=4, difference=True,
    ))  # fmt: skip
    agent: ActorCriticConfig = field(default_factory=partial(
        ActorCriticConfig, lstm_dim=256, channels=[16, 32, 32, 16], down=[1, 1, 1, 1]
    ))  # fmt: skip
    residual: bool = True
    """Predict the change of the last frame, else the paper's output."""
    change_threshold: float = 4.0
    """Changes of a pixel, in levels of 255, up to which it stays as it was."""
    past_noise: float = 0.0
    """Highest level of the noise on the past frames of half of the rows."""
    noise_cond: bool = False
    """Whether the network is told that level."""
    autoregressive: int = 1
    """Steps that are dreamed on in the later updates (`World.early` is false)."""
    sigma: SigmaDistribution = field(default_factory=partial(SigmaDistribution, loc=0.4, scale=1.4))
    motion_weight: float = 4.0
    batch: int = 64
    lr: float = 7e-4
    denoiser_focus: float = 0.3
    appearance_focus: float = 0.25
    """Part of a batch in which something appears where nothing moved."""
    reward_batch: int = 32
    reward_lr: float = 1e-3
    reward_focus: float = 0.5
    reward_horizon: int = 15
    reward_dream: int = 5
    """Steps of a dream to which the reward and end model is fitted, before it begins from real frames again; 0: it is
    fitted to real frames."""
    reward_every: int = 4
    weight_decay: float = 1e-2
    ema: float = 0.999
    agent_lr: float = 5e-4
    num_dreams: int = 64
    horizon: int = 15
    loss: ActorCriticLossConfig = field(default_factory=lambda: ActorCriticLossConfig(weight_entropy_loss=0.003))
    capacity: int = 200_000
    num_starts: int = 512
    recent: float = 0.5
    """Part of the starts that come from the newest third of the play."""
    dreams_every: int = 100
    """Windows after which dreams begin anew, from all that was played by then and with the newest reward model."""
