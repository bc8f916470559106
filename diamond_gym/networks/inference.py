"""The networks prepared for dreaming: weights folded and kept in the dream's precision, rows sized to the cache."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diamond_gym.device import compile_network
from diamond_gym.networks.blocks import from_patches, to_patches
from diamond_gym.networks.denoiser import Conditioners, Denoiser, InnerModel, quantise
from diamond_gym.networks.folding import fold_norms, hold, renew, shared, versions
from diamond_gym.networks.kernels.networks import use_kernels
from diamond_gym.networks.reward_end import NUM_END_CLASSES, NUM_REWARD_CLASSES, LstmState, RewardEnd
from diamond_gym.sampler import Denoises, Prepares


class FoldedInner(nn.Module):
    """An `InnerModel` taken apart into what is done once per frame and what at every denoising step (`forward`)."""

    def __init__(self, inner: InnerModel, dtype: torch.dtype) -> None:
        super().__init__()
        self.patch, self.dtype = inner.config.patch_size, dtype
        image = inner.config.img_channels * self.patch**2
        own = shared(inner)
        self.unet, self.norm_out, self.conv_out = own.unet, own.norm_out, own.conv_out
        # conv(cat(obs, noisy)) = conv_obs(obs) + conv_noisy(noisy); the bias goes with the former
        weight, bias = own.conv_in.weight.detach(), own.conv_in.bias
        assert bias is not None
        self.weight_obs = nn.Parameter(weight[:, :-image].clone())
        self.weight_noisy = nn.Parameter(weight[:, -image:].clone())
        self.bias = nn.Parameter(bias.detach().clone())
        modulation = fold_norms(self.unet)
        hold(self, dtype)
        # the condition is small: it stays float32
        self.modulation, self.cond_proj = modulation, own.cond_proj
        self.noise_emb, self.noise_cond_emb = own.noise_emb, own.noise_cond_emb
        self._embed_actions = own.embed_actions if own.act_emb is not None else None
        self.act_emb = own.act_emb
        self.requires_grad_(False)

    def modulations(self, c_noise: Tensor, act: Tensor | None, c_noise_cond: Tensor | None) -> Tensor:
        """Scales and shifts of all norms for noise levels (n,) and actions (B, T[, A]): float32 (n, B or 1, ...)."""
        cond = self.noise_emb(c_noise)
        if self.noise_cond_emb is not None:
            cond = cond + self.noise_cond_emb(c_noise.new_zeros(1) if c_noise_cond is None else c_noise_cond[None])
        cond = cond[:, None]
        if self._embed_actions is not None:
            assert act is not None
            cond = cond + self._embed_actions(act)
        return self.modulation(self.cond_proj(cond))  # type: ignore[no-any-return]

    def past(self, obs: Tensor) -> Tensor:
        """What the first convolution makes of scaled past frames (B, T*C, H, W)."""
        return self._enter(obs, self.weight_obs, self.bias)

    def forward(self, noisy: Tensor, past: Tensor, modulation: Tensor) -> Tensor:
        """The output F, float32 (B, C, H, W), of scaled noisy images (B, C, H, W)."""
        x = self._enter(noisy, self.weight_noisy, None).add_(past)
        x = self.unet(x, modulation)
        x = self.conv_out(F.silu(self.norm_out(x), inplace=True)).float()
        return from_patches(x, self.patch, noisy.shape)

    def _enter(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = to_patches(x.to(self.dtype), self.patch)
        return F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, bias, padding=1)


class FoldedDenoiser:
    """A denoiser's frames without gradient: `prepare` does what a frame needs once, then each step is `denoise`.

    It is compiled if the original's network is (`denoiser.inner_model.compile()`).

    Args:
        denoiser: The original, which it follows.
        dtype: The arithmetic of the network; what is around it is float32.
    """

    def __init__(self, denoiser: Denoiser, dtype: torch.dtype = torch.float32) -> None:
        self.denoiser, self.dtype = denoiser, dtype
        self._versions: tuple[int, ...] = ()
        self._inner: FoldedInner | None = None

    @property
    def inner(self) -> FoldedInner:
        """The folded network, compiled if the original is; folded anew if the original's weights have changed."""
        now = versions(self.denoiser)
        if self._inner is None or now != self._versions:
            compiled = self.denoiser.inner_model._compiled_call_impl is not None
            inner = FoldedInner(self.denoiser.inner_model, self.dtype)
            if compiled and use_kernels(inner.unet, self.dtype):
                self._inner = inner
            elif compiled and self._inner is not None and self._inner.bias.device == inner.bias.device:
                renew(self._inner, inner)
            else:
                self._inner = inner
                if compiled:
                    compile_network(inner)
            self._versions = now
        return self._inner

    def prepare(
        self, obs: Tensor, act: Tensor | None, sigmas: Tensor, sigma_cond: Tensor | None = None
    ) -> "FoldedFrame":
        """Begins a frame.

        Args:
            obs: Past frames in [-1, 1], float32 (B, T, C, H, W), as `Denoiser.denoise` takes them.
            act: Past actions int64 (B, T), multi-hot (B, T, A), or None.
            sigmas: The noise levels at which it will be denoised, float32 (n,).
            sigma_cond: Noise level of obs where it was noised, a scalar tensor.
        """
        with torch.autocast(obs.device.type, enabled=False):
            return FoldedFrame(self.denoiser, self.inner, obs, act, sigmas, sigma_cond)


class FoldedFrame:
    """A frame being sampled: what the noisy image does not change has been computed."""

    def __init__(
        self,
        denoiser: Denoiser,
        inner: FoldedInner,
        obs: Tensor,
        act: Tensor | None,
        sigmas: Tensor,
        sigma_cond: Tensor | None,
    ) -> None:
        self._inner, config = inner, denoiser.config
        self._cs = Conditioners.of(sigmas, config.sigma_data, config.sigma_offset_noise)
        c_noise_cond = None if sigma_cond is None else sigma_cond.log() / 4
        modulations = inner.modulations(self._cs.c_noise, act, c_noise_cond)
        self._modulations = modulations.expand(-1, len(obs), -1)
        self._past = inner.past(obs.flatten(1, 2) / config.sigma_data)
        self._last = obs[:, denoiser.num_steps_conditioning - 1] if config.residual else None

    def denoise(self, noisy: Tensor, step: int) -> Tensor:
        """The denoised frame, float32 (B, C, H, W), of `noisy` at the step's noise level."""
        with torch.autocast(noisy.device.type, enabled=False):
            cs = self._cs
            output = self._inner(noisy * cs.c_in[step], self._past, self._modulations[step])
            base = cs.c_skip[step] * noisy if self._last is None else self._last
            return quantise(torch.addcmul(base, cs.c_out[step], output), nearest=self._last is not None)


class FoldedNetworks(nn.Module):
    """The parts of a `RewardEnd`, held in the arithmetic of the dream."""

    def __init__(self, model: RewardEnd, dtype: torch.dtype) -> None:
        super().__init__()
        own = shared(model)
        modulation = fold_norms(own.encoder)
        hold(own, dtype)
        self.encoder, self.lstm, self.head = own.encoder, own.lstm, own.head.float()
        self.modulation, self.act_emb = modulation, own.act_emb.float()
        self.dtype, self.difference = dtype, own.config.difference

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.act_emb.weight.device

    def features(self, obs: Tensor, act: Tensor, next_obs: Tensor) -> Tensor:
        """Flattened features (B, F) of transitions: frames (B, C, H, W), actions (B,)."""
        x = torch.cat((obs, next_obs - obs if self.difference else next_obs), dim=1).to(self.dtype)
        return self.encoder(x, self.modulation(self.act_emb(act))).flatten(1)  # type: ignore[no-any-return]

    def remember(self, x: Tensor, state: LstmState) -> LstmState:
        """One LSTM step from features (B, F) and the state (hx, cx), each float32 (B, D)."""
        hx, cx = state
        weight_ih, weight_hh, bias_ih, bias_hh = self.lstm.parameters()
        gates = F.linear(x, weight_ih, bias_ih).float() + F.linear(hx.to(self.dtype), weight_hh, bias_hh)
        i, f, g, o = gates.chunk(4, dim=1)
        cx = torch.addcmul(f.sigmoid() * cx, i.sigmoid(), g.tanh())
        return o.sigmoid() * cx.tanh(), cx


class FoldedRewardEnd:
    """A reward and end model without gradient, called as the original.

    Its encoder is compiled if the original's is (`reward_end.encoder.compile()`).

    Args:
        model: The original, which it follows.
        dtype: The arithmetic of the networks.
    """

    def __init__(self, model: RewardEnd, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.dtype = model, dtype
        self._versions: tuple[int, ...] = ()
        self._networks: FoldedNetworks | None = None

    @property
    def networks(self) -> FoldedNetworks:
        """The folded networks, compiled if the original's are; folded anew if the original's weights have changed."""
        now = versions(self.model)
        if self._networks is None or now != self._versions:
            compiled = self.model.encoder._compiled_call_impl is not None
            networks = FoldedNetworks(self.model, self.dtype)
            if compiled and use_kernels(networks.encoder, self.dtype):
                self._networks = networks
            elif compiled and self._networks is not None and self._networks.device == networks.device:
                renew(self._networks, networks)
            else:
                self._networks = networks
                if compiled:
                    compile_network(networks.encoder)
            self._versions = now
        return self._networks

    def __call__(
        self, obs: Tensor, act: Tensor, next_obs: Tensor, state: LstmState | None = None
    ) -> tuple[Tensor, Tensor, LstmState]:
        """Scores transitions; arguments and results are those of `RewardEnd.forward`."""
        with torch.autocast(obs.device.type, enabled=False):
            networks, (b, t) = self.networks, act.shape
            if state is None:
                zero = torch.zeros(b, networks.lstm.hidden_size, dtype=torch.float32, device=obs.device)
                state = (zero, zero)
            else:
                state = (state[0][0], state[1][0])
            outputs = []
            for i in range(t):
                state = networks.remember(networks.features(obs[:, i], act[:, i], next_obs[:, i]), state)
                outputs.append(state[0])
            logits = networks.head(torch.stack(outputs, dim=1))
            logits_rew, logits_end = logits.split((NUM_REWARD_CLASSES, NUM_END_CLASSES), dim=-1)
            return logits_rew, logits_end, (state[0][None], state[1][None])


CACHE_BYTES = 2**21
"""How large one feature map of the rows sampled together may be on a CPU. Measured on a Zen 4 (1 MiB of cache a core,
32 MiB shared), paper's size, bfloat16, one thread: 18.6 frames/s at 2**19, 22.8 at 2**21, 22.7 at 2**22 (one step)."""


def folded(denoiser: Denoises | Prepares, dtype: torch.dtype) -> Denoises | Prepares:
    """A denoiser's folded form, if it is one that can be folded; any other is returned as it is."""
    return FoldedDenoiser(denoiser, dtype) if isinstance(denoiser, Denoiser) else denoiser


def rows_at_once(denoiser: Denoises | Prepares, obs: Tensor) -> int:
    """How many of the rows of obs (B, T, C, H, W) to sample together: all of them, but for folded networks on CPUs."""
    if not isinstance(denoiser, FoldedDenoiser) or obs.device.type != "cpu":
        return len(obs)
    inner = denoiser.denoiser.config.inner_model
    pixels = obs.shape[-2] * obs.shape[-1] / inner.patch_size**2
    largest = max(channels * pixels / 4**level for level, channels in enumerate(inner.channels))
    fitting = max(1, int(CACHE_BYTES / (largest * denoiser.dtype.itemsize)))
    return -(-len(obs) // -(-len(obs) // fitting))  # as many blocks as there have to be, as equal as can be
