"""What a world model is fitted with: its networks, losses, sampling of batches and optimizers.

Alonso et al. 2024 (arXiv 2405.12399): §3.1 for the denoiser's objective, appendix for the optimizers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import DenoiserConfig, InnerModelConfig
from diamond_gym.networks.preconditioning import SigmaDistribution
from diamond_gym.networks.reward_end import RewardEndConfig
from diamond_gym.schema import check_least, check_shares, fill_in
from diamond_gym.trainers.optim import OptimizerConfig

Size = tuple[int, int]

_LEAST = 6  # pixels: the side of the smallest frames that dynamics are fitted to


def _sizes() -> DenoiserConfig:
    inner = InnerModelConfig(
        num_steps_conditioning=1,
        cond_channels=2048,
        channels=[64, 64, 128, 256],
        attn_depths=[0, 0, 0, 1],
    )
    return DenoiserConfig(inner, sigma_offset_noise=0.1)


@dataclass(frozen=True)
class UpsamplerConfig:
    """The training of a second stage, if there is one; the defaults are those of the authors for CS:GO."""

    factor: int | None = None
    """How many times smaller, in height and in width, the frames that the dynamics learn are; the upsampler restores
    their size (None: one stage)."""
    denoiser: DenoiserConfig = field(default_factory=_sizes)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(max_grad_norm=10.0, batch_size=8, grad_acc_steps=4)
    )
    sigma: SigmaDistribution = field(default_factory=lambda: SigmaDistribution(loc=-1.2))
    num_autoregressive_steps: int = 1
    """k: predictions per segment after the first, each from the upsampler's own large frame."""
    every: int = 1
    """Steps of the dynamics per step of the upsampler."""

    def __post_init__(self) -> None:
        check_least(self, num_autoregressive_steps=0, every=1)
        if self.factor is not None and not 2 <= self.factor <= 64:
            raise BadArgument(f"--upsampler.factor must be from 2 to 64, not {self.factor}")

    def small(self, size: Size) -> Size:
        """Height and width of the frames that the dynamics learn, of large ones of `size`; the same with one stage.

        Raises:
            BadArgument: The factor does not divide them, or leaves nothing.
        """
        if self.factor is None:
            return size
        (h, w), factor = size, self.factor
        if h % factor or w % factor:
            dividing = [n for n in range(2, 17) if h % n == w % n == 0 and min(h, w) // n >= _LEAST]
            words = f"one of {', '.join(map(str, dividing))} does" if dividing else "none does: import them --size"
            raise BadArgument(f"--upsampler.factor {factor} does not divide frames of {h}x{w} pixels; {words}")
        if min(h, w) // factor < _LEAST:
            raise BadArgument(
                f"frames of {h}x{w} pixels are too small for two stages by --upsampler.factor {factor}, which leaves "
                f"{h // factor}x{w // factor}: use a preset of one stage, such as nano"
            )
        return h // factor, w // factor

    def with_low_size(self, low: Size, size: Size) -> Self:
        """The same with the factor between frames of two sizes.

        Raises:
            BadArgument: There is none.
        """
        (h, w), (high, wide) = low, size
        if h >= high or w >= wide:
            raise BadArgument(f"--low-size {h}x{w} must be smaller than the frames, which have {high}x{wide} pixels")
        if high % h or wide % w or high // h != wide // w:
            raise BadArgument(f"--low-size {h}x{w} does not divide frames of {high}x{wide} pixels: both sides have to")
        return replace(self, factor=high // h)

    def for_frames(self, img_channels: int) -> Self:
        """The same with a world's channels, and what makes a denoiser an upsampler, filled in."""
        inner, option = self.denoiser.inner_model, "upsampler.denoiser"
        inner = fill_in(inner, f"{option}.inner_model", img_channels=img_channels, num_actions=None, num_extra_images=1)
        denoiser = fill_in(replace(self.denoiser, inner_model=inner), option, upsampling_factor=self.factor)
        return replace(self, denoiser=denoiser)


@dataclass(frozen=True)
class WorldModelConfig:
    """A training; the defaults are the paper's but for the number of steps, which there follows from its outer loop."""

    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    reward_end: RewardEndConfig = field(default_factory=RewardEndConfig)
    denoiser_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    reward_end_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(max_grad_norm=100.0))
    sigma: SigmaDistribution = field(default_factory=SigmaDistribution)
    flow_times: Literal["uniform", "logit-normal"] | None = None
    """Times that a rectified flow is trained at (None: uniform); the logits of logit-normal times are distributed as
    --sigma.loc and --sigma.scale say."""
    num_autoregressive_steps: int = 1
    """k: predictions per segment after the first, each from the model's own frames."""
    autoregressive_from: float = 0.0
    """Share of the steps, at the beginning, that do without these predictions (0: the paper's)."""
    past_noise: float | None = None
    """Noise on the past frames in training, at a level drawn for each row: for one half of them uniform from 0 to this,
    for the other half 0, as in dreams (0 or None: no noise, the paper's). --denoiser.inner-model.noise-cond gives the
    network the level."""
    reward_end_length: int = 19
    """Steps per segment of the reward/end model (horizon 15 + T)."""
    reward_end_every: int = 1
    """Denoiser steps per step of the reward/end model."""
    reward_end_dreams_from: float = 1.0
    """Scheduled sampling: share of the steps, at the beginning, in which the reward/end model sees real next frames;
    afterwards it sees those that the denoiser predicts, as in dreams (1: always real ones, the paper's)."""
    reward_end_dream_length: int = 1
    """How many frames in a row are predicted, each from the ones before, until real frames follow again."""
    decay_fraction: float = 0.0
    """Share of the steps, at the end, over which the learning rates fall to a twentieth (0: constant, the paper's)."""
    ema_decay: float = 0.0
    """Decay of a moving average of all weights, which dreams then use (0: none, the paper's)."""
    motion_weight: float = 0.0
    """Extra weight of the denoiser's error where the past frames move, relative to that elsewhere (0: the paper's)."""
    focus: float = 0.0
    """Share of the reward/end model's batches drawn around rewards and ends (0: the paper's)."""
    denoiser_focus: float = 0.0
    """The same for the denoiser's batches."""
    weigh_focus: bool = False
    """Weight the rows that the reward/end model's `focus` adds, so that rewards and ends are as frequent in dreams as
    in the game, at the price of slower learning; otherwise they are more frequent."""
    appearance_focus: float = 0.0
    """Share of the denoiser's batches in which something appears where nothing moved, as when a ball is served."""
    across_lives: bool = False
    """Whether segments that begin before their episode does show the life before, as dreams that go on do, instead of
    padding (the paper's)."""
    prioritized: float = 0.0
    """Share of the denoiser's batches drawn in proportion to how badly it predicts them, as when a ball bounces."""
    prioritized_every: int = 1000
    """Steps after which these errors are measured again."""
    age_weights: tuple[float, ...] | None = None
    """Probabilities of as many classes of age, oldest first: 1 for steps drawn evenly from all recordings (None: the
    paper's 0.1 0.1 0.1 0.7, for play that gets better)."""
    age_of: Literal["episodes", "steps"] | None = None
    """What these classes divide: episodes, each as likely as the others of its class (the paper's, for one game
    at a time), or all steps in the order of play (None: steps in a loop that plays several games side by side)."""
    without_rewards: bool = False
    """Leave out the reward/end model, for recordings without rewards and ends: dreams give reward 0 and do not end."""
    upsampler: UpsamplerConfig = field(default_factory=UpsamplerConfig)

    def __post_init__(self) -> None:
        check_shares(self, "autoregressive_from", "past_noise", "reward_end_dreams_from", "decay_fraction", "ema_decay")
        check_shares(self, "focus", "denoiser_focus", "appearance_focus", "prioritized")
        try:
            _ = self.denoiser.inner_model.num_past_actions
        except ValueError as error:
            raise BadArgument(f"--denoiser: {error}") from None
        objective = self.denoiser.objective or "edm"
        if objective == "ddpm" and self.num_autoregressive_steps:
            raise BadArgument(
                "the objective ddpm needs --num-autoregressive-steps 0: its image at a high noise level is no frame to "
                "go on from"
            )
        if self.flow_times is not None and objective != "flow":
            raise BadArgument(f"--flow-times is for the objective flow, not {objective}")
        check_least(self, num_autoregressive_steps=0, reward_end_length=2, reward_end_every=1, motion_weight=0)
        check_least(self, reward_end_dream_length=1, prioritized_every=1)
        remembered = self.denoiser.inner_model.num_steps_conditioning
        if self.reward_end_dreams_from < 1 and self.reward_end_length <= remembered:
            raise BadArgument(f"--reward-end-dreams-from needs a --reward-end-length of more than {remembered} steps")
        stages = (self.denoiser_optimizer, self.reward_end_optimizer)
        if not any(part.lr for part in (*stages, *([self.upsampler.optimizer] if self.upsampler.factor else []))):
            raise BadArgument("all learning rates are 0: there is nothing to train")
        if self.age_weights is not None and not (
            min(self.age_weights, default=0) >= 0 and abs(sum(self.age_weights) - 1) <= 1e-6  # as NaN is not
        ):
            raise BadArgument(f"--age-weights must be chances that sum to 1, not {self.age_weights}")

    def for_frames(self, frame_shape: tuple[int, int, int], num_actions: int) -> Self:
        """The same with a world's frames (H, W, C) and actions (`ActionCodec.num_inputs`) filled in.

        Raises:
            BadArgument: Something that follows from them was given another value.
        """
        h, w, c = frame_shape
        image: dict[str, Any] = {"img_channels": c, "num_actions": num_actions}
        inner = fill_in(self.denoiser.inner_model, "denoiser.inner_model", **image, num_extra_images=0)
        denoiser = fill_in(replace(self.denoiser, inner_model=inner), "denoiser", upsampling_factor=None)
        h, w = self.upsampler.small((h, w))
        image |= {"img_size": h, "img_width": None if w == h else w}
        reward_end, upsampler = fill_in(self.reward_end, "reward_end", **image), self.upsampler.for_frames(c)
        return replace(self, denoiser=denoiser, reward_end=reward_end, upsampler=upsampler)


def settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's table for a run's settings; what changes nothing is None in it, as for older runs."""
    upsampler, without = config["upsampler"], config["without_rewards"]
    return {
        **config,
        "upsampler": None if upsampler["factor"] is None else upsampler,
        "without_rewards": without or None,
    }
