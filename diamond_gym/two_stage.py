"""Dreams of two stages: small frames that play the game, and large ones that are made from them to be seen.

The CS:GO engine of Alonso et al. 2024 (arXiv 2405.12399): a denoiser with all the memory and all the actions dreams at
30x56, and a second one, the upsampler, draws each frame at 150x280 from its enlargement and the large frame before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from diamond_gym.dream import Dream
from diamond_gym.dream_state import DreamState, Outcome, put, without_gradient
from diamond_gym.errors import DiamondGymError
from diamond_gym.frames import to_frames, to_pixels
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.inference import prepared
from diamond_gym.networks.reward_end import LstmState, RewardEnd
from diamond_gym.randomness import EXTRA_NOISE, UPSAMPLER
from diamond_gym.sampler import SamplerConfig, sample
from diamond_gym.starts import Starts, check_pixels


@dataclass(frozen=True)
class TwoStageSampler:
    """How both stages are sampled; the defaults are the authors' where it has to be fast.

    Attributes:
        dynamics: Of the small frames.
        upsampler: Of the large ones.
    """

    dynamics: SamplerConfig = SamplerConfig(num_denoising_steps=1, s_cond=0.005)  # noqa: RUF009  (frozen itself)
    upsampler: SamplerConfig = SamplerConfig(  # noqa: RUF009
        num_denoising_steps=1, sigma_min=1.0, order=2, s_churn=10.0, s_tmin=1.0, s_tmax=5.0, s_noise=0.9
    )


FAST = TwoStageSampler()
TWO_STAGE_QUALITIES: dict[str, TwoStageSampler] = {
    "fast": FAST,
    "quality": TwoStageSampler(
        replace(FAST.dynamics, num_denoising_steps=3), replace(FAST.upsampler, num_denoising_steps=10, order=1)
    ),
}


@dataclass(frozen=True)
class TwoStageState(DreamState):
    """A dream of two stages at one moment: `full` holds the large frames, (B, T', C, H, W)."""

    full: Tensor


def enlarge(low_res: Tensor, factor: int) -> Tensor:
    """Small frames (B, C, h, w) at `factor` times the size, bicubic and not clamped, as upsamplers are trained."""
    return F.interpolate(low_res, scale_factor=factor, mode="bicubic")


_AT_ONCE = 256  # frames that are made small together, for the memory


def shrink(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Large frames uint8 (..., H, W, C) -> small ones uint8 (..., h, w, C), bicubic with antialiasing."""
    flat = pixels.reshape(-1, *pixels.shape[-3:])
    parts = [F.interpolate(to_frames(part), size=size, mode="bicubic", antialias=True) for part in flat.split(_AT_ONCE)]
    return to_pixels(torch.cat(parts)).reshape(*pixels.shape[:-3], *size, pixels.shape[-1])


def shrink_planes(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The same of frames as stores hold them: uint8 (..., C, H, W) -> (..., C, h, w)."""
    small = shrink(torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-3, -1), size)
    return small.movedim(-1, -3).contiguous().numpy()


def enlarge_planes(pixels: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Small frames uint8 (..., C, h, w) at `factor` times the size, (..., C, H, W), bicubic."""
    *before, c, h, w = pixels.shape
    flat = torch.from_numpy(np.ascontiguousarray(pixels)).reshape(-1, c, h, w).movedim(1, -1)
    parts = [to_pixels(enlarge(to_frames(part), factor)).movedim(-1, 1) for part in flat.split(_AT_ONCE)]
    return torch.cat(parts).reshape(*before, c, factor * h, factor * w).numpy()


def in_two_sizes(starts: Starts, upsampler: Denoiser) -> Starts:
    """Starts of large frames as a model of two stages takes them: small, and with the last large ones beside them."""
    factor, t_full = upsampler.config.upsampling_factor, upsampler.num_steps_conditioning
    assert factor is not None
    height, width = (side // factor for side in starts.obs.shape[2:4])
    small = shrink(torch.from_numpy(starts.obs), (height, width)).numpy()
    return replace(starts, obs=small, full_res=np.ascontiguousarray(starts.obs[:, -t_full:]))


def sampler_of(own: Mapping[str, Any]) -> TwoStageSampler:
    """How a model of two stages is sampled unless a user says otherwise; `own` is the table `sampler` of its card."""
    return TwoStageSampler(SamplerConfig(**own)) if own else FAST


class TwoStageDream(Dream):
    """A batch of dreams in which every row holds a window of small frames and the last large ones.

    `reset` and `step` speak of large frames, in what they take, uint8 ([B, ]T, H, W, C), and in what they give; small
    ones are made from those given to `reset`. The trajectory of a step is the upsampler's, which draws from streams of
    its own, so that the small frames are those that the first stage alone would dream. In all else it is a `Dream`.

    Attributes:
        sampler: How the small frames are sampled; may be replaced between steps.
        upsampler_sampler: How the large ones are.
        obs_window: The last T small frames of every row, float32 (B, T, C, h, w); None before the first reset.
        full_window: The last T' large ones, (B, T', C, H, W); T' is 1 in the released model.
    """

    state_type = TwoStageState

    @without_gradient()
    def __init__(
        self,
        denoiser: Denoiser,
        reward_end: RewardEnd | None,
        upsampler: Denoiser,
        starts: Starts,
        num_envs: int,
        sampler: TwoStageSampler | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Sets up a dream; the arguments are those of `Dream`, and `upsampler`, the second stage.

        Raises:
            DiamondGymError: The starts bring no large frames, or not of a multiple of the small ones' size.
        """
        sampler = sampler or FAST
        super().__init__(denoiser, reward_end, starts, num_envs, sampler.dynamics, *args, **kwargs)
        if starts.full_res is None:
            raise DiamondGymError("the starts of a model of two stages need frames at full size, but these have none.")
        _, self._t_full, height, width, c = starts.full_res.shape
        self._t, self._small = starts.obs.shape[1], (starts.obs.shape[2], starts.obs.shape[3])
        self.factor = height // self._small[0]
        if (height, width) != (self.factor * self._small[0], self.factor * self._small[1]):
            raise DiamondGymError(
                f"full-size frames of {height}x{width} are not a multiple of {self._small[0]}x{self._small[1]}."
            )
        self.upsampler, self.upsampler_sampler = upsampler, sampler.upsampler
        self._large_frames = prepared(upsampler, self._predict.dtype)
        self.frame_shape = (c, height, width)
        self.fingerprint["full-size frames"] = (self._t_full, *self.frame_shape)
        self._full_starts = torch.from_numpy(starts.full_res).to(self.device)  # (N, T', H, W, C)

    def _new_state(self, seed: int | Sequence[int] | None = None) -> None:
        super()._new_state(seed)
        self.full_window: Tensor | None = None

    def _given(self, obs: Tensor, act: Tensor | None) -> tuple[Any, ...]:
        c, height, width = self.frame_shape
        check_pixels(obs, (self._t, height, width, c), self.num_envs)
        obs = obs.to(self.device)
        full = to_frames(obs[..., -self._t_full :, :, :, :]).expand(self.num_envs, self._t_full, c, height, width)
        return *super()._given(shrink(obs, self._small), act), full

    @property
    def shown_window(self) -> Tensor:
        """The last large frames, `full_window`, which `obs` shows; not a copy."""
        if self.full_window is None:
            raise RuntimeError("the dream has not begun: call reset first.")
        return self.full_window

    @without_gradient()
    def refresh(self) -> None:
        """Dreams on in the networks' weights as they are now; to be called after training them further."""
        super().refresh()
        if hasattr(self._large_frames, "refresh"):
            self._large_frames.refresh()

    def _imagine(self, window: Tensor, actions: Tensor) -> Outcome:
        outcome = super()._imagine(window, actions)
        assert self.full_window is not None
        noise = self._rng.normal(self.frame_shape, UPSAMPLER)
        extra = self._rng.further(UPSAMPLER + EXTRA_NOISE)
        obs = torch.cat((self.full_window, enlarge(outcome.next_obs, self.factor)[:, None]), dim=1)
        with self._predict.autocast(self.device.type):
            full, path = sample(self._large_frames.condition, obs, None, noise, self.upsampler_sampler, extra)
        return replace(outcome, full=full, trajectory=path)

    def _take_up(self, outcome: Outcome, act: Tensor, steps: Tensor, rows: Tensor | None) -> None:
        super()._take_up(outcome, act, steps, rows)
        assert self.full_window is not None
        assert outcome.full is not None
        full = torch.cat((self.full_window[:, 1:], outcome.full[:, None]), dim=1)
        self.full_window = put(self.full_window, full, rows)

    def _enter(
        self,
        rows: Tensor,
        index: Tensor,
        obs: Tensor,
        act: Tensor,
        memory: LstmState | None,
        full: Tensor | None = None,
    ) -> None:
        """Replaces the rows' state, the large frames with it, which are those of the starts if none are given."""
        self.full_window = put(self.full_window, to_frames(self._full_starts[index]) if full is None else full, rows)
        super()._enter(rows, index, obs, act, memory)

    def clone_state(self, include_rng: bool = False) -> TwoStageState:
        """Copies the dream's state, with the random streams if asked."""
        state = super().clone_state(include_rng)
        assert self.full_window is not None
        return TwoStageState(**vars(state), full=self.full_window.clone())

    def _any_state(self) -> TwoStageState:
        full = self._full_starts.new_zeros(self.num_envs, self._t_full, *self.frame_shape, dtype=torch.float32)
        return TwoStageState(**vars(super()._any_state()), full=full)

    @without_gradient()
    def restore_state(self, state: DreamState) -> None:
        """Goes back to a cloned state; see `Dream.restore_state`."""
        super().restore_state(state)
        assert isinstance(state, TwoStageState)  # another one's fingerprint knows no full-size frames
        self.full_window = put(self.full_window, state.full.to(self.device))
