"""The baseline: a denoiser's network as the paper describes it, run as anybody would first write it.

Eager, float32, contiguous memory, all of it at every denoising step: embeddings, norms' scales and shifts, the
convolution over the past frames. It is written down here a second time, and on plain tensors, so that no improvement of
the networks proper can make the baseline faster by accident.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.sampler import SamplerConfig, karras_sigmas


class PlainDenoiser:
    """A denoiser's weights, copied, and the functions on them.

    Args:
        denoiser: Where the weights come from.
        device: Where to compute.
        channels_last: Whether the convolutions' weights, and with them the maps, lie in the order channels-last.
    """

    def __init__(self, denoiser: Denoiser, device: torch.device | str = "cpu", channels_last: bool = False) -> None:
        self.config, self.weights = denoiser.config, dict[str, Tensor]()
        for key, value in denoiser.state_dict().items():
            order = torch.channels_last if channels_last and value.ndim == 4 else torch.contiguous_format
            copied = value.detach().to(device, copy=True).contiguous(memory_format=order)
            self.weights[key.removeprefix("inner_model.")] = copied

    def denoise(self, noisy: Tensor, sigma: Tensor, obs: Tensor, act: Tensor) -> Tensor:
        """The denoised frame on 8-bit levels; as `Denoiser.denoise`."""
        base, c_out, output = self._parts(noisy, sigma.expand(len(noisy)), obs, act)
        levels = ((base + c_out * output).clamp(-1, 1) + 1) / 2 * 255
        levels = levels.round() if self.config.residual else levels
        frame = levels.byte().float() / 255 * 2 - 1
        if self.config.change_threshold:
            still = ((frame - obs[:, -1]).abs() * 127.5).amax(1, keepdim=True) < self.config.change_threshold + 0.5
            frame = torch.where(still, obs[:, -1], frame)
        return frame

    def _parts(self, noisy: Tensor, sigma: Tensor, obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the output is added to, its factor, and the output."""
        config = self.config
        sigma = (sigma**2 + config.sigma_offset_noise**2).sqrt()
        c_in = 1 / (sigma**2 + config.sigma_data**2).sqrt()
        c_skip = config.sigma_data**2 * c_in**2
        c_out = (sigma * c_skip.sqrt())[:, None, None, None]
        x = torch.cat((obs.flatten(1, 2) / config.sigma_data, noisy * c_in[:, None, None, None]), dim=1)
        base = obs[:, -1] if config.residual else c_skip[:, None, None, None] * noisy
        return base, c_out, self._network(x, sigma.log() / 4, act)

    def _network(self, x: Tensor, c_noise: Tensor, act: Tensor) -> Tensor:
        inner, w = self.config.inner_model, self.weights
        act = act[:, -inner.num_past_actions :]
        angle = 2 * math.pi * c_noise[:, None] @ w["noise_emb.weight"]
        cond = torch.cat((angle.cos(), angle.sin()), dim=1) + F.embedding(act, w["act_emb.0.weight"]).flatten(1)
        cond = self._linear("cond_proj.2", F.silu(self._linear("cond_proj.0", cond)))
        x = F.pixel_unshuffle(x, inner.patch_size)
        x = self._conv("conv_in", x)
        levels = []
        for i, depth in enumerate(inner.depths):
            x = x if i == 0 else self._conv(f"unet.downsamples.{i}.conv", x, stride=2)
            skips = [x]
            for j in range(depth):
                x = self._block(f"unet.d_blocks.{i}.resblocks.{j}", x, cond)
                skips.append(x)
            levels.append(skips)
        for j in range(2):
            x = self._block(f"unet.mid_blocks.resblocks.{j}", x, cond)
        for i, skips in enumerate(reversed(levels)):
            if i:
                x = self._conv(f"unet.upsamples.{i}.conv", F.interpolate(x, scale_factor=2.0, mode="nearest"))
            for j, skip in enumerate(reversed(skips)):
                x = self._block(f"unet.u_blocks.{i}.resblocks.{j}", torch.cat((x, skip), dim=1), cond)
        x = self._conv("conv_out", F.silu(self._norm("norm_out.norm", x)))
        return F.pixel_shuffle(x, inner.patch_size)

    def _block(self, key: str, x: Tensor, cond: Tensor) -> Tensor:
        r = self._conv(f"{key}.proj", x, padding=0) if f"{key}.proj.weight" in self.weights else x
        for k in "12":
            scale, shift = self._linear(f"{key}.norm{k}.linear", cond)[:, :, None, None].chunk(2, dim=1)
            x = self._conv(f"{key}.conv{k}", F.silu(self._norm(None, x) * (1 + scale) + shift))
        x = x + r
        return self._attention(f"{key}.attn", x) if f"{key}.attn.norm.norm.weight" in self.weights else x

    def _attention(self, key: str, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = self._norm(f"{key}.norm.norm", x)
        heads = max(1, c // 8)
        q, k, v = self._conv(f"{key}.qkv_proj", x, padding=0).view(b, 3 * heads, c // heads, h * w).chunk(3, dim=1)
        weights = (q.transpose(2, 3) @ k / math.sqrt(c // heads)).softmax(dim=-1)
        y = (weights @ v.transpose(2, 3)).transpose(2, 3).reshape(b, c, h, w)
        return x + self._conv(f"{key}.out_proj", y, padding=0)

    def _norm(self, key: str | None, x: Tensor) -> Tensor:
        groups = max(1, x.shape[1] // 32)
        while x.shape[1] % groups:
            groups -= 1
        if key is None:
            return F.group_norm(x, groups, eps=1e-5)
        return F.group_norm(x, groups, self.weights[f"{key}.weight"], self.weights[f"{key}.bias"], 1e-5)

    def _conv(self, key: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        return F.conv2d(x, self.weights[f"{key}.weight"], self.weights[f"{key}.bias"], stride, padding)

    def _linear(self, key: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{key}.weight"], self.weights[f"{key}.bias"])


def plain_sample(
    denoiser: PlainDenoiser, obs: Tensor, act: Tensor, initial_noise: Tensor, config: SamplerConfig
) -> Tensor:
    """The next frame without churn, by Euler's or Heun's steps, each of which calls the whole network."""
    x, sigmas = initial_noise, torch.tensor(karras_sigmas(config), device=initial_noise.device)
    for i in range(config.num_denoising_steps):
        sigma, following = sigmas[i], sigmas[i + 1]
        slope = (x - denoiser.denoise(x, sigma, obs, act)) / sigma
        ahead = x + slope * (following - sigma)
        if config.order == 2 and i < config.num_denoising_steps - 1:
            slope_ahead = (ahead - denoiser.denoise(ahead, following, obs, act)) / following
            ahead = x + (slope + slope_ahead) / 2 * (following - sigma)
        x = ahead
    return x
