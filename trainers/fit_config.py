"""What is fitted, and how."""

from dataclasses import dataclass, field

from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import DenoiserConfig, SigmaDistribution
from diamond_gym.networks.reward_end import RewardEndConfig
from diamond_gym.trainers.optimizer import OptimizerConfig

_PARTS = (
    "autoregressive_from",
    "reward_end_dreams_from",
    "decay_fraction",
    "ema_decay",
    "focus",
    "denoiser_focus",
    "appearance_focus",
    "surprise_focus",
    "start_focus",
)
_COUNTS = {
    "num_autoregressive_steps": 0,
    "reward_end_length": 2,
    "reward_end_every": 1,
    "reward_end_dream_length": 1,
    "surprise_every": 1,
}


@dataclass(frozen=True)
class FitConfig:
    """A fitting; the defaults are the paper's but for the number of steps, which there follows from its outer loop."""

    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    reward_end: RewardEndConfig = field(default_factory=RewardEndConfig)
    denoiser_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    reward_end_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(max_grad_norm=100.0))
    sigma: SigmaDistribution = field(default_factory=SigmaDistribution)
    start_focus: float = 0.0
    """Part of the denoiser's rows that show what sampling starts from: noise of variance 1, told as level 5, and
    nothing of the frame (0: the paper's, whose noisy frames at that level look different). What dreams in one step
    sees nothing else."""
    num_autoregressive_steps: int = 1
    """k: predictions of a segment beyond the first, each on the model's own frames."""
    autoregressive_from: float = 0.0
    """Part of the steps, at the beginning, that do without those (0: the paper's)."""
    reward_end_length: int = 19
    """Steps per segment of the reward/end model (horizon 15 + T)."""
    reward_end_every: int = 1
    """Denoiser steps per step of the reward/end model."""
    reward_end_dreams_from: float = 1.0
    """Part of the steps, at the beginning, in which the reward/end model sees real frames follow; afterwards those that
    the denoiser predicts, as in dreams (1: always real ones, the paper's). What a dream does not show, such as a
    score's digits, it then cannot rely on."""
    reward_end_dream_length: int = 1
    """Of those, so many steps in a row are dreamed, each on the ones before, until real frames follow again (1: each is
    predicted from real frames)."""
    decay_fraction: float = 0.0
    """Part of the steps, at the end, over which the learning rates fall to a twentieth (0: constant, the paper's)."""
    ema_decay: float = 0.0
    """Decay of a moving average of all weights, which is then what is dreamed with (0: none, the paper's)."""
    motion_weight: float = 0.0
    """Extra weight of the denoiser's error where the past frames move, in units of the average (0: the paper's)."""
    focus: float = 0.0
    """Part of the reward/end model's batches drawn around rewards and ends (0: the paper's)."""
    denoiser_focus: float = 0.0
    """The same for the denoiser's batches."""
    appearance_focus: float = 0.0
    """Part of the denoiser's batches in which something appears where nothing moved, as when a ball is served."""
    appearance_weight: float = 0.0
    """Extra weight of the denoiser's error in the places where something ever appears so, in units of the average."""
    agency_weight: float = 0.0
    """Extra weight of the denoiser's error where its next frame would be another after another action, in units of the
    average: near what the player steers. It costs two more predictions a batch."""
    across_lives: bool = False
    """Whether segments that reach over their episode's beginning show the life before, as dreams do that go on, instead
    of padding (the paper's)."""
    surprise_focus: float = 0.0
    """Part of the denoiser's batches drawn in proportion to how badly it has predicted them, as when a ball bounces."""
    surprise_every: int = 1000
    """Steps after which it is looked up anew what is predicted badly."""

    def __post_init__(self) -> None:
        """Refuses what makes no sense, in one line, by the flag's name."""
        for name in _PARTS:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise BadArgument(f"--{name.replace('_', '-')} is a part, from 0 to 1, not {value}")
        try:
            _ = self.denoiser.inner_model.num_actions_told
        except ValueError as error:
            raise BadArgument(f"--denoiser: {error}") from None
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if value < least:
                raise BadArgument(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
        for name in ("motion_weight", "appearance_weight", "agency_weight"):
            if not getattr(self, name) >= 0:
                raise BadArgument(f"--{name.replace('_', '-')} must not be negative, got {getattr(self, name)}")
        remembered = self.denoiser.inner_model.num_steps_conditioning
        if self.reward_end_dreams_from < 1 and self.reward_end_length <= remembered:
            raise BadArgument(f"--reward-end-dreams-from needs a --reward-end-length of more than {remembered} steps")
        if not (self.denoiser_optimizer.lr or self.reward_end_optimizer.lr):
            raise BadArgument("both learning rates are 0: there is nothing to fit")
        if self.appearance_weight and not self.appearance_focus:
            raise BadArgument("--appearance-weight needs an --appearance-focus, which finds the places")
