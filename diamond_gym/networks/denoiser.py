"""The preconditioned denoiser (Alonso et al. 2024, arXiv 2405.12399, §3; Karras et al. 2022, arXiv 2206.00364)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_gym.errors import BadConfig
from diamond_gym.frames import quantise
from diamond_gym.networks.blocks import (
    ActionEmbedding,
    FourierFeatures,
    GroupNorm,
    UNet,
    conv3x3,
    from_patches,
    to_patches,
    zero_,
)
from diamond_gym.networks.preconditioning import Scalings, TrainingNoise, c_noise, preconditioner
from diamond_gym.schema import DENOISER, INNER_MODEL, check_config

if TYPE_CHECKING:
    from diamond_gym.networks.folding import FoldedInner
    from diamond_gym.networks.inference import FoldedDenoiser


@dataclass(frozen=True)
class InnerModelConfig:
    """Sizes of the network inside the denoiser; the defaults are the paper's for Atari."""

    img_channels: int = 3
    num_steps_conditioning: int = 4
    """T, how many past frames and actions the next frame is predicted from."""
    num_actions_conditioning: int | None = None
    """How many of the T past actions the network gets, the last ones (None: all, the paper's)."""
    cond_channels: int = 256
    depths: list[int] = field(default_factory=lambda: [2, 2, 2, 2])
    channels: list[int] = field(default_factory=lambda: [64, 64, 64, 64])
    attn_depths: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    num_actions: int | None = None
    """Discrete actions, or the length of a multi-hot action; None for a network without actions."""
    patch_size: int = 1
    """Pixels per side folded into channels at the network's input (1: the paper's networks)."""
    num_extra_images: int = 0
    """Further images in the condition besides the T past frames (1 for the upsampler's low-resolution frame)."""
    noise_cond: bool = False
    """Whether the network gets the noise level of its conditioning frames (the CS:GO networks are)."""
    network: str | None = None
    """Which of `INNER_MODELS` it is (None: the U-Net, the paper's); the others take these sizes as they like."""

    def __post_init__(self) -> None:
        check_config(self, INNER_MODEL)
        if self.network is not None and self.network not in INNER_MODELS:
            raise BadConfig(f"there is no network '{self.network}' here, only {', '.join(INNER_MODELS)}")

    @property
    def num_past_actions(self) -> int:
        """How many past actions the network gets; BadConfig where the sizes leave no room for them."""
        count, name = self.num_steps_conditioning, "num_steps_conditioning"
        if self.num_actions_conditioning is not None:
            if not 1 <= self.num_actions_conditioning <= count:
                raise BadConfig(f"num_actions_conditioning {self.num_actions_conditioning} must lie in 1..{count}")
            count, name = self.num_actions_conditioning, "num_actions_conditioning"
        if self.cond_channels % count:
            raise BadConfig(f"cond_channels {self.cond_channels} must be a multiple of {name} {count}")
        return count


@dataclass(frozen=True)
class DenoiserConfig:
    """A denoiser: its network and its preconditioning; the defaults are the paper's for Atari."""

    inner_model: InnerModelConfig = field(default_factory=InnerModelConfig)
    sigma_data: float = 0.5
    sigma_offset_noise: float = 0.3
    noise_previous_obs: bool = False
    """Noise the conditioning frames in training (CS:GO's dynamics)."""
    upsampling_factor: int | None = None
    residual: bool = False
    """Let the network predict the change from the last frame, or in an upsampler from the enlarged one: D = last +
    c_out * F. What stands still is then right from the first step of training. Not the paper's."""
    change_threshold: float = 0.0
    """Pixels that change by no more than this, in levels of 255 and in their largest channel, keep the last frame's
    colour (0: the paper's). Small errors are then not passed on from frame to frame, where they would grow."""
    objective: str | None = None
    """What the network learns to predict: edm, ddpm or flow (None: edm, the paper's)."""

    def __post_init__(self) -> None:
        check_config(self, DENOISER)
        if (self.objective or "edm") != "edm":
            for name in ("residual", "noise_previous_obs", "upsampling_factor", "change_threshold"):
                if getattr(self, name):
                    raise BadConfig(f"{name} is for the objective edm, not {self.objective}: leave one of them out")
        if self.change_threshold and self.upsampling_factor:
            raise BadConfig("change_threshold is for frames that follow one another: an upsampler has none")


class InnerModel(nn.Module):
    """The U-Net with its embeddings of noise level and actions."""

    def __init__(self, config: InnerModelConfig) -> None:
        super().__init__()
        self.config = config
        cond, patch_area = config.cond_channels, config.patch_size**2
        self.noise_emb = FourierFeatures(cond)
        self.noise_cond_emb = FourierFeatures(cond) if config.noise_cond else None
        self.act_emb: ActionEmbedding | None = None
        if config.num_actions is not None:
            past = config.num_past_actions
            self.act_emb = ActionEmbedding(config.num_actions, cond // past, past)
        self.cond_proj = nn.Sequential(nn.Linear(cond, cond), nn.SiLU(), nn.Linear(cond, cond))
        num_images = config.num_steps_conditioning + config.num_extra_images + 1
        self.conv_in = conv3x3(num_images * config.img_channels * patch_area, config.channels[0])
        self.unet = UNet(cond, config.depths, config.channels, config.attn_depths)
        self.norm_out = GroupNorm(config.channels[0])
        self.conv_out = conv3x3(config.channels[0], config.img_channels * patch_area)
        zero_(self.conv_out, bias=False)

    def forward(
        self, noisy: Tensor, c_noise: Tensor, obs: Tensor, act: Tensor | None, c_noise_cond: Tensor | None = None
    ) -> Tensor:
        """Scaled noisy (B, C, H, W), c_noise (B,), scaled obs (B, T*C, H, W), act -> F, float32 (B, C, H, W)."""
        cond = self.noise_emb(c_noise)
        if self.noise_cond_emb is not None:
            cond = cond + self.noise_cond_emb(torch.zeros_like(c_noise) if c_noise_cond is None else c_noise_cond)
        if self.act_emb is not None:
            cond = cond + self.act_emb(act)
        cond = self.cond_proj(cond)
        x = torch.cat((obs, noisy), dim=1)
        patch = self.config.patch_size
        x = self.unet(self.conv_in(to_patches(x, patch)), cond)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return from_patches(x, patch, noisy.shape).float()

    def fold(self, dtype: torch.dtype) -> "FoldedInner":
        """The same function prepared for dreams, in their arithmetic and without gradient."""
        from diamond_gym.networks.folding import FoldedInner

        return FoldedInner(self, dtype)


INNER_MODELS: dict[str, Callable[[InnerModelConfig], nn.Module]] = {"unet": InnerModel}
"""Networks by the names under which cards and options know them; each is called as `InnerModel.forward`."""


class Denoiser(nn.Module):
    """D(x; sigma, past): the next frame, given a noisy version of it and the T frames and actions before.

    Images are float32 in [-1, 1], (B, C, H, W); histories (B, T, C, H, W) with time oldest first.

    Args:
        config: Its sizes.
        inner_model: The network, any that is called as `InnerModel.forward`; default: what the configuration says. One
            with a method `fold(dtype)`, as `InnerModel.fold`, is folded for dreams; others dream under autocast. What
            is trained and saved has to be known by a name, in `INNER_MODELS`.

    Attributes:
        precondition: The scalings of noise levels (n,), those of its objective.
        objective: Its name.
    """

    def __init__(self, config: DenoiserConfig, inner_model: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        make = INNER_MODELS[config.inner_model.network or "unet"]
        self.inner_model = make(config.inner_model) if inner_model is None else inner_model
        self.objective = config.objective or "edm"
        self.precondition = preconditioner(self.objective, config.sigma_data, config.sigma_offset_noise)
        self.float()  # whatever torch's default is: dreams and weights files are float32

    @property
    def num_steps_conditioning(self) -> int:
        """T, the number of past frames in the condition."""
        return self.config.inner_model.num_steps_conditioning

    def model_output(
        self, noisy: Tensor, cs: Scalings, obs: Tensor, act: Tensor | None, sigma_cond: Tensor | None = None
    ) -> Tensor:
        """The raw network output F for noisy (B, C, H, W) given obs (B, T, C, H, W)."""
        c_noise_cond = None if sigma_cond is None else torch.where(sigma_cond > 0, c_noise(sigma_cond), 0.0)
        scaled_obs = obs.flatten(1, 2) / self.config.sigma_data
        return self.inner_model(noisy * cs.c_in, cs.c_noise, scaled_obs, act, c_noise_cond)  # type: ignore[no-any-return]

    def base(self, noisy: Tensor, cs: Scalings, obs: Tensor) -> Tensor:
        """The image that the scaled output is added to: c_skip * noisy (EDM) or the condition's last (residual)."""
        return obs[:, -1] if self.config.residual else cs.c_skip * noisy

    def condition(
        self, obs: Tensor, act: Tensor | None, sigma_cond: float | Tensor | None = None, sigmas: Sequence[float] = ()
    ) -> Callable[[Tensor, float | Tensor], Tensor]:
        """Gives denoise(x, sigma): D = c_skip * x + c_out * F (EDM eq. 7) under these past frames and actions.

        It takes x, float32 (B, C, H, W), and its noise level, a number or (B,), and returns the denoised frame, float32
        (B, C, H, W) in [-1, 1]; EDM's is on 8-bit levels.

        Args:
            obs: Past frames in [-1, 1], float32 (B, T, C, H, W), oldest first; an upsampler's obs holds the
                past full-resolution frame, then the enlarged low-resolution one.
            act: Past actions int64 (B, T), multi-hot (B, T, A), or None for networks without actions.
            sigma_cond: Noise level of obs where it was noised, a number or float32 (B,), 0 where it was not.
            sigmas: The levels that are to come, if they are known: folded networks prepare for all of them at once.
        """

        def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
            cs = self.precondition(_levels(sigma, x))
            output = self.model_output(x, cs, obs, act, None if sigma_cond is None else _levels(sigma_cond, x))
            return self.image(self.base(x, cs, obs) + cs.c_out * output, obs[:, -1])

        return denoise

    def image(self, x: Tensor, last: Tensor) -> Tensor:
        """Denoised images (B, C, H, W) in [-1, 1]: EDM's are frames at each step, the others' once they are sampled."""
        return self.frame(x, last) if self.objective == "edm" else x.clamp(-1, 1)

    def frame(self, x: Tensor, last: Tensor) -> Tensor:
        """Frames (B, C, H, W) on 8-bit levels, with the last ones' pixels where the change is too small to count."""
        frame = quantise(x, nearest=self.config.residual)
        if self.config.change_threshold:
            change = (frame - last).abs().amax(dim=1, keepdim=True) * 127.5  # whole levels, but for rounding
            frame = torch.where(change < self.config.change_threshold + 0.5, last, frame)
        return frame

    def fold(self, dtype: torch.dtype) -> "FoldedDenoiser | Denoiser":
        """The denoiser prepared for dreams; itself if its network cannot be folded."""
        from diamond_gym.networks.inference import FoldedDenoiser

        return FoldedDenoiser(self, dtype) if hasattr(self.inner_model, "fold") else self

    def add_noise(self, x: Tensor, sigma: Tensor, noise: TrainingNoise) -> Tensor:
        """x + offset * eps1 + sigma * eps2 with one eps1 per image channel, drawn before eps2.

        Of other objectives than EDM's the offset is part of the noise that is predicted, hence sigma times as large.
        """
        b, c = x.shape[:2]
        offset = self.config.sigma_offset_noise * noise.normal((b, c, 1, 1))
        if self.objective != "edm":
            return x + sigma[:, None, None, None] * (offset + noise.normal(tuple(x.shape)))
        return x + offset + sigma[:, None, None, None] * noise.normal(tuple(x.shape))

    def loss(
        self,
        obs: Tensor,
        act: Tensor | None,
        mask_padding: Tensor,
        noise: TrainingNoise,
        low_res: Tensor | None = None,
        pixel_weight: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Denoising loss of a segment, each later window seeing the model's own (gradient-free) predictions.

        Args:
            obs: Segment in [-1, 1], float32 (B, T + 1 + k, C, H, W): k + 1 predictions.
            act: Actions (B, T + 1 + k) or (B, T + 1 + k, A); None for networks without actions.
            mask_padding: bool (B, T + 1 + k), True where the frame is real. Rows whose target is padding do not count.
            noise: Source of noise levels and of noise, also of that on the past frames, if any.
            low_res: For an upsampler, enlarged low-resolution frames aligned with obs, (B, T + 1 + k, C, H, W).
            pixel_weight: Weights (B, 1, H, W) of the squared error as a function of the window (B, T, C, H, W).

        Returns:
            The mean over predictions of the mean squared error between F and its target.
        """
        t = self.num_steps_conditioning
        frames = list(obs.unbind(1))
        losses = []
        for i in range(len(frames) - t):
            window = torch.stack(frames[i : i + t], dim=1)
            target, past = frames[i + t], window
            if low_res is not None:
                past = torch.cat((window, low_res[:, i + t : i + t + 1]), dim=1)
            b, n, c, h, w = past.shape
            sigma_cond = None
            if self.config.noise_previous_obs:
                sigma_cond = noise.sigma(b)
                past = self.add_noise(past.reshape(b, n * c, h, w), sigma_cond, noise).reshape(past.shape)
            elif noise.past is not None:
                sigma_cond = noise.past(b)
                past = past + sigma_cond.view(b, 1, 1, 1, 1) * noise.normal(tuple(past.shape))
            sigma = noise.sigma(b)
            noisy = self.add_noise(target, sigma, noise)
            cs = self.precondition(sigma)
            output = self.model_output(noisy, cs, past, None if act is None else act[:, i : i + t], sigma_cond)
            base = self.base(noisy, cs, past)
            error = (output - (target - base) / cs.c_out) ** 2
            if pixel_weight is not None:
                error = error * pixel_weight(window)
            rows = mask_padding[:, i + t].to(error.dtype)
            losses.append((error.mean(dim=(1, 2, 3)) * rows).sum() / rows.sum().clamp(min=1))
            frames[i + t] = self.frame((base + cs.c_out * output).detach(), window[:, -1])
        return torch.stack(losses).mean()


def _levels(sigma: float | Tensor, x: Tensor) -> Tensor:
    """A noise level for each row of x, (B,)."""
    if isinstance(sigma, Tensor):
        return sigma.expand(len(x))
    return torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
