"""Denoiser and reward model as dreams call them: folded, in the fastest form, and in rows sized to the cache."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from diamond_gym.device import PRECISIONS, bfloat16_pays, is_compiled
from diamond_gym.networks.denoiser import Denoiser, InnerModel
from diamond_gym.networks.folding import FoldedInner, FoldedNetworks, without_autocast
from diamond_gym.networks.preconditioning import c_noise
from diamond_gym.networks.reward_end import NUM_END_CLASSES, NUM_REWARD_CLASSES, LstmState, RewardEnd
from diamond_gym.networks.ways import (
    COMPILED,
    EAGER,
    KERNELS,
    Way,
    fastest,
    folded_forms,
    measure,
    measured_by,
    remembered_way,
    source_of_kernels,
)

CACHE_BYTES = 2**21
"""How large one feature map of the rows computed together is on a CPU at first; more and fewer rows are measured."""
_SIGMA = 0.5  # at which a network is measured
SMALL = 2**16
"""Bytes of a batch's largest feature map below which the fastest way is not measured: all are fast."""


def largest_map(denoiser: Denoiser, obs: Tensor, dtype: torch.dtype) -> float:
    """Bytes of the largest feature map of a row of obs (B, T, C, H, W)."""
    config = denoiser.config.inner_model
    per_pixel = max(channels / 4**level for level, channels in enumerate(config.channels))
    return float(obs.shape[-2] * obs.shape[-1] * per_pixel / config.patch_size**2 * dtype.itemsize)


def prepared(network: Any, dtype: torch.dtype) -> Any:
    """A network in the form that it has for dreams, if it has one; others are used as they are, under autocast."""
    return network.fold(dtype) if hasattr(network, "fold") else network


class Level(NamedTuple):
    """What of a denoising step depends on the noise level alone: its scalings, (1, 1, 1) each, and its embedding."""

    c_in: Tensor
    c_out: Tensor
    c_skip: Tensor
    embedding: Tensor


class FoldedDenoiser:
    """A `Denoiser` without gradient whose network is folded; compiled if that is (`denoiser.inner_model.compile()`).

    Compiled means: computed in the fastest way that there is on this machine, which may be the kernels of this package,
    torch.compile, or neither (`diamond_gym.networks.ways`).

    Args:
        denoiser: The original.
        dtype: The arithmetic of the network; what is around it is float32.

    Attributes:
        forms: The folded network in each form that it may be computed in.
        ways: How batches have been computed so far, by their number of rows, height and width.
    """

    def __init__(self, denoiser: Denoiser, dtype: torch.dtype = torch.float32) -> None:
        self.denoiser, self.dtype, self.objective = denoiser, dtype, denoiser.objective
        self.forms: dict[str, FoldedInner] = {}
        self.ways: dict[tuple[int, int, int], Way] = {}
        self._levels: dict[tuple[tuple[float, ...], float | None], list[Level]] = {}
        self.refresh()

    @property
    def inner(self) -> FoldedInner:
        """The folded network, in the form that is taken where nothing is measured."""
        return next(iter(self.forms.values()))

    def refresh(self) -> None:
        """Folds the original's weights as they are now: for whoever has trained them."""
        network = cast(InnerModel, self.denoiser.inner_model)
        fold, asked = partial(network.fold, self.dtype), is_compiled(network)
        self.forms = folded_forms(fold, lambda inner: inner, self.dtype, asked, self.forms)
        device = next(self.inner.parameters()).device
        kept = device.type == "cuda"  # and written in place, as a CUDA graph may read them
        self._levels = {key: old for key, old in self._levels.items() if kept and old[0].c_in.device == device}
        for key, levels in self._levels.items():
            for level, new in zip(levels, self._computed(*key, device), strict=True):
                for part, value in zip(level, new, strict=True):
                    part.copy_(value)

    def condition(
        self, obs: Tensor, act: Tensor | None, sigma_cond: float | None = None, sigmas: tuple[float, ...] = ()
    ) -> Callable[[Tensor, float], Tensor]:
        """Gives denoise(x, sigma), as `Denoiser.condition`; of large batches it computes block by block on a CPU."""
        way = self.way(obs, act, sigma_cond)
        size = -(-len(obs) // -(-len(obs) // way.rows))  # as many blocks as there have to be, as equal as can be
        rows = obs.split(size)
        acts = [None] * len(rows) if act is None else act.split(size)
        blocks = [self._condition(way.form, o, a, sigma_cond, sigmas) for o, a in zip(rows, acts, strict=True)]
        if len(blocks) == 1:
            return blocks[0]
        return lambda x, sigma: torch.cat([f(part, sigma) for f, part in zip(blocks, x.split(size), strict=True)])

    def way(self, obs: Tensor, act: Tensor | None, sigma_cond: float | None = None) -> Way:
        """How a batch of obs (B, T, C, H, W) is computed: measured at its first time, if it is not small."""
        batch, h, w = len(obs), *obs.shape[-2:]
        if (batch, h, w) not in self.ways:
            forms = list(self.forms)
            if obs.device.type != "cpu" or batch == len(forms) == 1:
                return Way(forms[0], batch)
            rows = self.rows_at_once(obs)
            if batch * largest_map(self.denoiser, obs, self.dtype) < SMALL:
                return Way(forms[0], rows)

            def start(form: str, rows: int) -> Callable[[], object]:
                return self.call(form, obs[:rows], None if act is None else act[:rows], sigma_cond)

            about = measured_by(self.forms, self.dtype, self.denoiser.config.inner_model, h, w)
            self.ways[batch, h, w] = fastest(forms, rows, batch, start, about)
        return self.ways[batch, h, w]

    def call(self, form: str, obs: Tensor, act: Tensor | None, sigma_cond: float | None = None) -> Callable[[], object]:
        """What computes a denoising step under these past frames in a form, to be measured."""
        return partial(self._condition(form, obs, act, sigma_cond, (_SIGMA,)), obs[:, -1], _SIGMA)

    def rows_at_once(self, obs: Tensor) -> int:
        """How many of the rows of obs (B, T, C, H, W), on a CPU, are computed together at first: as fit its cache."""
        fitting = max(1, int(CACHE_BYTES / largest_map(self.denoiser, obs, self.dtype)))
        return -(-len(obs) // -(-len(obs) // fitting))

    def _condition(
        self,
        form: str,
        obs: Tensor,
        act: Tensor | None,
        sigma_cond: float | None,
        sigmas: tuple[float, ...],
    ) -> Callable[[Tensor, float], Tensor]:
        config, inner = self.denoiser.config, self.forms[form]
        image: Callable[[Tensor, Tensor], Tensor] = self.denoiser.image
        if form == KERNELS and self.objective == "edm":
            from diamond_gym.networks.kernels.dreams import kernel_frame

            image = kernel_frame(config)
        at: dict[float, tuple[Level, Tensor]] = {}  # the levels, and the modulations of these rows

        def prepare(sigmas: tuple[float, ...]) -> None:
            levels = self._at(sigmas, sigma_cond, obs.device)
            modulations = inner.modulations(torch.stack([level.embedding for level in levels]), act)
            at.update(zip(sigmas, zip(levels, modulations.expand(-1, len(obs), -1), strict=True), strict=True))

        last = obs[:, -1]
        with without_autocast(obs.device.type):
            if sigmas:
                prepare(sigmas)
            past = inner.past(obs.flatten(1, 2) / config.sigma_data)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            with without_autocast(x.device.type):
                if sigma not in at:
                    prepare((sigma,))
                level, modulation = at[sigma]
                output = inner(x * level.c_in, past, modulation)
                base = last if config.residual else level.c_skip * x
                return image(torch.addcmul(base, level.c_out, output), last)

        return denoise

    def _at(self, sigmas: tuple[float, ...], sigma_cond: float | None, device: torch.device) -> list[Level]:
        """The levels of a schedule, computed once."""
        key = sigmas, sigma_cond
        if key not in self._levels:
            self._levels[key] = self._computed(*key, device)
        return self._levels[key]

    def _computed(self, sigmas: tuple[float, ...], sigma_cond: float | None, device: torch.device) -> list[Level]:
        cs = self.denoiser.precondition(torch.tensor(sigmas, dtype=torch.float32).to(device))
        noise_cond = None if sigma_cond is None else c_noise(torch.tensor([sigma_cond]).to(device))
        embedding = self.inner.embed(cs.c_noise, noise_cond)
        return [Level(*level) for level in zip(cs.c_in, cs.c_out, cs.c_skip, embedding, strict=True)]


class FoldedRewardEnd:
    """A reward and end model without gradient, called as the original.

    Its encoder is compiled if the original's is (`reward_end.encoder.compile()`).

    Args:
        model: The original.
        dtype: The arithmetic of the networks.
    """

    def __init__(self, model: RewardEnd, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.dtype = model, dtype
        self.forms: dict[str, FoldedNetworks] = {}
        self._fastest: dict[int, str] = {}
        self.refresh()

    @property
    def networks(self) -> FoldedNetworks:
        """The folded networks, in the form that is taken where nothing is measured."""
        return next(iter(self.forms.values()))

    def refresh(self) -> None:
        """Folds the original's weights as they are now: for whoever has trained them."""
        fold, asked = partial(FoldedNetworks, self.model, self.dtype), is_compiled(self.model.encoder)
        self.forms = folded_forms(fold, lambda own: own.encoder, self.dtype, asked, self.forms)

    def _form(self, obs: Tensor, act: Tensor, next_obs: Tensor) -> FoldedNetworks:
        """The networks in the form that is the fastest for transitions, frames (B, C, H, W) and actions (B,)."""
        magnitude = len(obs).bit_length()  # how many there are differs, as where some rows restart
        if magnitude not in self._fastest:
            config, forms = self.model.config, list(self.forms)
            pixels = len(obs) * obs.shape[-2] * obs.shape[-1] // config.patch_size**2
            if obs.device.type != "cpu" or len(forms) == 1 or pixels * config.channels[0] * self.dtype.itemsize < SMALL:
                return self.networks

            def start(form: str, _: int) -> Callable[[], object]:
                return partial(self.forms[form].features, obs, act, next_obs)

            about = measured_by(self.forms, self.dtype, config, magnitude)
            self._fastest[magnitude] = fastest(forms, 1, 1, start, about).form
        return self.forms[self._fastest[magnitude]]

    def __call__(
        self, obs: Tensor, act: Tensor, next_obs: Tensor, state: LstmState | None = None
    ) -> tuple[Tensor, Tensor, LstmState]:
        """Scores transitions; arguments and results are those of `RewardEnd.forward`."""
        with without_autocast(obs.device.type):
            networks, (b, t) = self._form(obs[:, 0], act[:, 0], next_obs[:, 0]), act.shape[:2]
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


def fastest_precision(denoiser: Denoiser, obs: Tensor, act: Tensor | None) -> tuple[str, str]:
    """The precision of the fastest way in which a batch can be denoised on this CPU, and why it is chosen.

    All forms of both precisions are measured, in turn, once for a machine, a network and a batch; not at all where a
    convolution in bfloat16 is no faster than one in float32 (`diamond_gym.device.bfloat16_pays`).

    Args:
        denoiser: On the CPU.
        obs: Past frames in [-1, 1], float32 (B, T, C, H, W).
        act: Past actions (B, T[, A]), or None.
    """
    if not bfloat16_pays(obs.device):
        return "float32", "a convolution in bfloat16 is not faster on this processor"
    if not hasattr(denoiser.inner_model, "fold") or len(obs) * largest_map(denoiser, obs, torch.bfloat16) < SMALL:
        return "bfloat16", "a convolution in bfloat16 is faster on this processor"
    config, (h, w) = denoiser.config.inner_model, obs.shape[-2:]
    kernels = source_of_kernels(is_compiled(denoiser.inner_model))
    words = ["precision", str(config), f"{h}x{w}", f"{len(obs)} rows", f"{torch.get_num_threads()} threads", kernels]

    def measured() -> Way:
        folded = {name: FoldedDenoiser(denoiser, dtype) for name, dtype in PRECISIONS.items()}
        # what torch.compile makes takes a minute for each precision: it is not tried for this
        forms = [f"{name}_{form}" for name, own in folded.items() for form in own.forms if form != COMPILED]

        def start(form: str, rows: int) -> Callable[[], object]:
            name, _, form = form.partition("_")
            return folded[name].call(form, obs[:rows], None if act is None else act[:rows])

        return measure(forms, folded["float32"].rows_at_once(obs), len(obs), start, f"float32_{EAGER}")

    way = remembered_way(words, lambda way: way.form.partition("_")[0] in PRECISIONS, measured)
    precision, _, form = way.form.partition("_")
    return precision, f"{form} {way.rows} ({way.why})"
