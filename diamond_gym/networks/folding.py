"""Networks folded for dreaming: the same functions as theirs, computed with as little work per frame as there is.

What changes neither within a frame nor with the image is taken out of the denoising steps: the embeddings, the scale
and shift of every adaptive norm (one matrix product for all of them), and the half of the first convolution that sees
the past frames. Weights are held in the arithmetic of the dream and in the memory layout that convolutions like, rather
than cast at each call. In float32 the results are those of the networks up to the order of additions.

Whoever changes the original's weights has them folded anew (`refresh`).
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_gym.networks.blocks import (
    GROUP_NORM_EPS,
    AdaGroupNorm,
    Downsample,
    GroupNorm,
    ResBlock,
    embed,
    from_patches,
    fused_norm,
    to_patches,
)
from diamond_gym.networks.denoiser import InnerModel
from diamond_gym.networks.reward_end import LstmState, RewardEnd

M = TypeVar("M", bound=nn.Module)


class Modulation(nn.Module):
    """The linear layers of all adaptive norms of a network as one: condition (B, cond) -> (B, 2 * all channels)."""

    def __init__(self, norms: Sequence[AdaGroupNorm]) -> None:
        super().__init__()
        weights, biases = [], []
        for norm in norms:
            channels = norm.linear.out_features // 2
            bias = norm.linear.bias.detach().float().clone()
            bias[:channels] += 1  # the norm's output is multiplied by 1 + scale
            weights.append(norm.linear.weight.detach().float())
            biases.append(bias)
        self.weight = nn.Parameter(torch.cat(weights), requires_grad=False)
        self.bias = nn.Parameter(torch.cat(biases), requires_grad=False)

    def forward(self, cond: Tensor) -> Tensor:
        """(..., cond) -> (..., 2 * all channels), float32."""
        return F.linear(cond, self.weight, self.bias)


class Norm(NamedTuple):
    """An adaptive norm: its groups, its channels, and where its scales and shifts begin in the modulation."""

    groups: int
    channels: int
    place: int


class FoldedResBlock(nn.Module):
    """A `ResBlock` without gradient whose norms find their scales and shifts in the modulation."""

    def __init__(self, block: ResBlock, place: int) -> None:
        super().__init__()
        self.proj, self.conv1, self.conv2, self.attn = block.proj, block.conv1, block.conv2, block.attn
        self.fused_norm = fused_norm(self.conv1.weight)
        channels = self.conv1.in_channels, self.conv2.in_channels
        self.norm1 = Norm(block.norm1.groups, channels[0], place)
        self.norm2 = Norm(block.norm2.groups, channels[1], place + 2 * channels[0])

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x (B, C, H, W) under a modulation (B, 2 * all channels)."""
        r = self.proj(x)
        for norm, conv in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            scale, shift = modulation[:, norm.place : norm.place + 2 * norm.channels].chunk(2, dim=1)
            if self.fused_norm is not None and not torch.compiler.is_compiling():
                x = conv(self.fused_norm(x, norm.groups, scale, shift, GROUP_NORM_EPS, silu=True))
                continue
            if len(x) == 1:  # of a single image the affine part is the same for all rows: group_norm does it on the way
                dtype = scale.dtype if x.device.type == "cpu" else x.dtype  # only a CPU's kernel mixes the two
                scale, shift = scale[0].to(dtype).contiguous(), shift[0].to(dtype).contiguous()
                x = F.group_norm(x, norm.groups, scale, shift, GROUP_NORM_EPS)
            else:
                scale, shift = scale.to(x.dtype)[:, :, None, None], shift.to(x.dtype)[:, :, None, None]
                x = torch.addcmul(shift, F.group_norm(x, norm.groups, eps=GROUP_NORM_EPS), scale)
            x = conv(F.silu(x, inplace=True))
        return self.attn(x.add_(r))  # type: ignore[no-any-return]


class Enter(nn.Module):
    """The first convolution of a network, or of a part of its input channels, on patches of images.

    Args:
        weight: (O, I, 3, 3).
        bias: (O,), or None.
        patch: Pixels per side folded into channels.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, patch: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.patch = patch

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        """Images, float32 (B, C, H, W) -> (B, O, H', W') in the weights' arithmetic, plus what else is given."""
        x = to_patches(x.to(self.weight.dtype), self.patch).contiguous(memory_format=torch.channels_last)
        x = F.conv2d(x, self.weight, self.bias, padding=1)
        return x if more is None else x.add_(more)


class Leave(nn.Module):
    """The last norm and convolution of a network, and the way back from patches to images."""

    def __init__(self, norm: nn.GroupNorm, conv: nn.Conv2d, patch: int) -> None:
        super().__init__()
        self.norm, self.conv, self.patch = norm, conv, patch
        self.fused_norm = fused_norm(conv.weight)

    def forward(self, x: Tensor, shape: torch.Size) -> Tensor:
        """(B, O, H', W') -> float32 (B, C, H, W), height and width as in that shape."""
        if self.fused_norm is not None and not torch.compiler.is_compiling():
            x = self.fused_norm(x, self.norm.num_groups, self.norm.weight, self.norm.bias, GROUP_NORM_EPS, silu=True)
        else:
            x = F.silu(self.norm(x), inplace=True)
        return from_patches(self.conv(x).float(), self.patch, shape)


def fold_norms(module: nn.Module) -> Modulation:
    """Replaces the residual blocks in a module by folded ones; returns what computes their modulation."""
    norms, place = list[AdaGroupNorm](), 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ResBlock):
                setattr(parent, name, FoldedResBlock(child, place))
                norms += [child.norm1, child.norm2]
                place += child.norm1.linear.out_features + child.norm2.linear.out_features
            elif isinstance(child, Downsample) or (
                isinstance(child, GroupNorm) and fused_norm(child.norm.weight) is None
            ):
                # which add nothing to what they hold but its name
                setattr(parent, name, child.norm if isinstance(child, GroupNorm) else child.conv)
    return Modulation(norms)


def shared(module: M) -> M:
    """A copy of a module whose tensors are those of the original, without gradient."""
    memo: dict[int, object] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, memo | {id(b): b.detach() for b in module.buffers()})


def hold(module: nn.Module, dtype: torch.dtype) -> None:
    """Puts a module's weights into the arithmetic and the memory layout of a dream, for good."""
    module.requires_grad_(False).eval()
    module.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


class FoldedInner(nn.Module):
    """An `InnerModel` taken apart into what is done once per frame and what at every denoising step (`forward`)."""

    def __init__(self, inner: InnerModel, dtype: torch.dtype) -> None:
        super().__init__()
        own, patch = shared(inner), inner.config.patch_size
        image = inner.config.img_channels * patch**2
        self.unet, self.leave = own.unet, Leave(own.norm_out.norm, own.conv_out, patch)
        # conv(cat(obs, noisy)) = conv_obs(obs) + conv_noisy(noisy); the bias goes with the former
        weight = own.conv_in.weight
        self.enter_past = Enter(weight[:, :-image].clone(), own.conv_in.bias, patch)
        self.enter_noisy = Enter(weight[:, -image:].clone(), None, patch)
        modulation = fold_norms(self.unet)
        hold(self, dtype)
        # the condition is small: it stays float32
        self.modulation, self.cond_proj = modulation, own.cond_proj
        self.noise_emb, self.noise_cond_emb = own.noise_emb, own.noise_cond_emb
        self.act_emb = own.act_emb
        self.requires_grad_(False)

    def embed(self, c_noise: Tensor, c_noise_cond: Tensor | None) -> Tensor:
        """Noise levels (n,), and that of the past frames (1,), as part of the condition: (n, cond)."""
        cond: Tensor = self.noise_emb(c_noise)
        if self.noise_cond_emb is not None:
            cond = cond + self.noise_cond_emb(c_noise.new_zeros(1) if c_noise_cond is None else c_noise_cond)
        return cond

    def modulations(self, embedding: Tensor, act: Tensor | None) -> Tensor:
        """Scales and shifts of all norms for noise levels (n, cond) and actions (B, T[, A]): (n, B or 1, ...)."""
        cond = embedding[:, None]
        if self.act_emb is not None:
            cond = cond + self.act_emb(act)
        return self.modulation(self.cond_proj(cond))  # type: ignore[no-any-return]

    def past(self, obs: Tensor) -> Tensor:
        """What the first convolution makes of scaled past frames (B, T*C, H, W)."""
        return self.enter_past(obs)  # type: ignore[no-any-return]

    def forward(self, noisy: Tensor, past: Tensor, modulation: Tensor) -> Tensor:
        """The output F, float32 (B, C, H, W), of scaled noisy images (B, C, H, W)."""
        x = self.unet(self.enter_noisy(noisy, past), modulation)
        return self.leave(x, noisy.shape)  # type: ignore[no-any-return]


class FoldedNetworks(nn.Module):
    """The parts of a `RewardEnd`, held in the arithmetic of the dream."""

    def __init__(self, model: RewardEnd, dtype: torch.dtype) -> None:
        super().__init__()
        own = shared(model)
        modulation, entry = fold_norms(own.encoder), own.encoder.conv_in
        # the encoder's own way in makes patches of one pixel
        own.encoder.conv_in = Enter(entry.weight, entry.bias, own.encoder.patch_size)  # type: ignore[assignment]
        own.encoder.patch_size = 1
        hold(own, dtype)
        self.encoder, self.lstm, self.head = own.encoder, own.lstm, own.head.float()
        self.modulation, self.act_emb = modulation, own.act_emb.float()
        self.dtype, self.difference = dtype, own.config.difference

    def features(self, obs: Tensor, act: Tensor, next_obs: Tensor) -> Tensor:
        """Flattened features (B, F) of transitions: frames (B, C, H, W), actions (B,) or (B, A)."""
        x = torch.cat((obs, next_obs - obs if self.difference else next_obs), dim=1)
        return self.encoder(x, self.modulation(embed(self.act_emb, act))).flatten(1)  # type: ignore[no-any-return]

    def remember(self, x: Tensor, state: LstmState) -> LstmState:
        """One LSTM step from features (B, F) and the state (hx, cx), each float32 (B, D)."""
        hx, cx = state
        weight_ih, weight_hh, bias_ih, bias_hh = self.lstm.parameters()
        gates = F.linear(x, weight_ih, bias_ih).float() + F.linear(hx.to(self.dtype), weight_hh, bias_hh)
        i, f, g, o = gates.chunk(4, dim=1)
        cx = torch.addcmul(f.sigmoid() * cx, i.sigmoid(), g.tanh())
        return o.sigmoid() * cx.tanh(), cx


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Turns autocast off where it is on; to enter torch's own context costs as much as a small operator."""
    on = torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if on else nullcontext()


def renew(old: nn.Module, new: nn.Module) -> None:
    """Writes a newly folded network's weights into one of the same sizes, which stays compiled."""
    values = new.state_dict()
    for name, tensor in old.state_dict().items():
        if tensor.data_ptr() != values[name].data_ptr():  # else it is the original's own
            tensor.copy_(values[name])
