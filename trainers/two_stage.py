"""The training of a world model of two stages: the dynamics of small frames, and the upsampler that makes them large.

Alonso et al. 2024 (arXiv 2405.12399), the CS:GO model. Both stages learn from real frames and apart from each other, so
that a step is an update of each.
"""

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.sampling import SegmentSampler
from diamond_gym.data.segments import normalised
from diamond_gym.frames import to_frames, to_pixels
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.preconditioning import TrainingNoise
from diamond_gym.trainers.batches import sampling_of
from diamond_gym.trainers.loop import own_rows
from diamond_gym.trainers.world_model import Arrays, WorldModelTrainer
from diamond_gym.trainers.world_model_config import Size, WorldModelConfig
from diamond_gym.two_stage import enlarge, shrink, shrink_planes


class SmallFrames(EpisodeStore):
    """A store as the dynamics of two stages see it: the same episodes with small frames, made when they are read.

    Args:
        folder: The store's.
        size: Height and width of the small frames; `about` goes on to tell of the large ones.
    """

    def __init__(self, folder: str | os.PathLike[str], size: Size) -> None:
        self._size = size
        super().__init__(folder)

    def frames(self, episode: npt.NDArray[np.int64] | int, t: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Frames `t` (...) of `episode`, one or (...): uint8 (..., C, h, w)."""
        return shrink_planes(super().frames(episode, t), self._size)


class TwoStageTrainer(WorldModelTrainer):
    """The state of a training of two stages, and one step of it; arguments and methods as `WorldModelTrainer`'s.

    The store holds the large frames. Denoiser and reward/end model see it through `SmallFrames`.
    """

    def __init__(self, config: WorldModelConfig, store: EpisodeStore, *rest: Any, **named: Any) -> None:
        height, width, _ = store.about.frame_shape
        self.small, self._large = config.upsampler.small((height, width)), store
        dynamics = SmallFrames(store.folder, self.small)
        dynamics.codec = store.codec
        super().__init__(config, dynamics, *rest, **named)
        own = config.upsampler
        with torch.random.fork_rng(devices=[]):  # the same weights in every process
            torch.manual_seed(int(np.random.SeedSequence([self._seed, 2]).generate_state(1)[0]))
            upsampler = Denoiser(own.denoiser)
        self.world_model.upsampler = upsampler
        self.world_model.to_device(self.device, self.precision)
        self._noise = TrainingNoise.on(self.device, own.sigma)
        self._train(
            "upsampler",
            upsampler,
            upsampler.inner_model,
            own.optimizer,
            lambda obs, mask: upsampler_loss(upsampler, obs, mask, self.small, self._noise),
        )

    def _begin_chance(self, store: EpisodeStore) -> None:
        super()._begin_chance(store)
        config, own = self.config, self.config.upsampler
        rng = np.random.default_rng([self._seed, self._fabric.global_rank, self.step, 1])
        length = own.denoiser.inner_model.num_steps_conditioning + 1 + own.num_autoregressive_steps
        rows = own_rows(self._fabric, own.optimizer.batch_size)
        self.upsampler_batches = SegmentSampler(
            self._large, length, rows, False, rng, final=True, **sampling_of(config)
        )

    def train_step(self) -> dict[str, float | Tensor]:
        """Updates both stages, each when it is its turn."""
        metrics: dict[str, float | Tensor] = {}
        own = self.config.upsampler
        if own.optimizer.lr and self.step % own.every == 0:
            metrics |= self._update("upsampler", self._large_frames, self._loss_of_large, self.step // own.every)
        return super().train_step() | metrics

    def _large_frames(self) -> Arrays:
        batch = self.upsampler_batches.sample()
        return batch.obs, batch.mask_padding

    def _loss_of_large(self, pixels: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with self._autocast():
            loss = self._objectives["upsampler"](normalised(pixels, mask), mask)
        return loss, {"upsampler/loss": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on; see `WorldModelTrainer.state_dict`."""
        return super().state_dict() | {"upsampler_batches": self.upsampler_batches.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state; see `WorldModelTrainer.load_state_dict`."""
        super().load_state_dict(state)
        if self._fabric.is_global_zero:
            self.upsampler_batches.load_state_dict(state["upsampler_batches"])


def upsampler_loss(upsampler: Denoiser, obs: Tensor, mask: Tensor, small: Size, noise: TrainingNoise) -> Tensor:
    """The denoising loss of large frames, given their small ones, enlarged, and the large ones before.

    Args:
        upsampler: The second stage.
        obs: Large frames in [-1, 1], float32 (B, T' + 1 + k, C, H, W).
        mask: bool (B, T' + 1 + k), true where they are real.
        small: Height and width of the small ones, which are made here, on 8-bit levels as they are in dreams.
        noise: Source of noise levels and of noise.
    """
    flat = obs.flatten(0, 1)
    low_res = enlarge(to_frames(shrink(to_pixels(flat), small)), obs.shape[-2] // small[0])
    return upsampler.loss(obs, None, mask, noise, low_res=low_res.unflatten(0, obs.shape[:2]))


def trainer_of(config: WorldModelConfig) -> type[WorldModelTrainer]:
    """What trains a configuration: both of two stages, or the one."""
    return TwoStageTrainer if config.upsampler.factor is not None else WorldModelTrainer
