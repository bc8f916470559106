"""A world model's configuration and its training.

Alonso et al. 2024 (arXiv 2405.12399): §3.1 for the denoiser's objective, appendix for the optimizers.

The new one begins as the old one: what it is shown besides has weight 0. So a memory can be lengthened where a dream
turns out to need it, without fitting anew what was learnt.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import SegmentSampler, take, to_tensors
from diamond_gym.device import PRECISIONS, prepare_to_compile
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.inference import FoldedDenoiser
from diamond_gym.networks.preconditioning import SigmaDistribution, TrainingNoise
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.trainers.appearances import Appearances
from diamond_gym.trainers.ema import Ema
from diamond_gym.trainers.focus import FocusedSampler, PrioritisedSteps, split
from diamond_gym.trainers.loop import ALONE, Processes
from diamond_gym.trainers.optim import OptimizerConfig, adamw
from diamond_gym.trainers.pixel_weights import PixelWeights
from diamond_gym.trainers.scheduled_sampling import dreamed
from diamond_gym.world_model import COMPILED, WorldModel

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
class WorldModelConfig:
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


_DOOR = "denoiser.inner_model.conv_in.weight"


def lengthened(weights: Mapping[str, Tensor], config: InnerModelConfig) -> dict[str, Tensor]:
    """The weights, with zeros for the frames that the network of `config` sees and the one they were fitted as did not.

    Args:
        weights: A world model's, the denoiser's input convolution being (channels, (T + 1) * C * patch_size^2, 3, 3).
        config: The network that they are for. It has to be told as many past actions as the old one
            (`num_actions_conditioning`), or they will not fit.
    """
    grown = dict(weights)
    if (door := grown.get(_DOOR)) is not None:
        images = config.num_steps_conditioning + config.num_extra_images + 1
        missing = images * config.img_channels * config.patch_size**2 - door.shape[1]
        if missing > 0:  # the oldest frames come first
            zeros = torch.zeros(door.shape[0], missing, *door.shape[2:], dtype=door.dtype, device=door.device)
            grown[_DOOR] = torch.cat((zeros, door), dim=1)
    return grown


LEAD = 10
"""How many steps before a reward or an end a focused denoiser segment may stop."""


class WorldModelTrainer:
    """The state of a fitting, and one step of it.

    Attributes:
        config: What is fitted, and how.
        step: Steps done.
        world_model: The networks in training.
        processes: Who shares the batches; all of them hold the same weights.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        store: EpisodeStore,
        total_steps: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        compile: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        """Builds networks, optimizers and samplers.

        Args:
            config: What is fitted, and how.
            store: The experience.
            total_steps: The step at which the learning rates' decay ends.
            seed: Seeds the weights, the noise and the batches. It seeds torch's global stream, from which a fitting
                draws: trainers have a process to themselves, and nothing else in the package touches that stream.
            device: Where the networks live.
            precision: "float32" or "bfloat16" (autocast; weights and optimizer stay float32).
            compile: Compile the networks with torch.compile, which takes a minute or two at the first step.
            processes: Who shares the batches, each process with a store of the same experience.
        """
        torch.manual_seed(seed)
        self.processes = processes
        self.config, self.total_steps = config, total_steps
        self.device, self.precision = torch.device(device), precision
        denoiser, reward_end = Denoiser(config.denoiser), RewardEnd(config.reward_end)
        self.world_model = WorldModel(denoiser, reward_end).to_device(self.device, precision)
        self.ema = {name: Ema(part, config.ema_decay) for name, part in self.world_model.parts.items()}
        if compile:
            prepare_to_compile(self.device.type)
            denoiser.inner_model.compile()
            reward_end.encoder.compile()
        self.optimizers = {
            "denoiser": adamw(denoiser, config.denoiser_optimizer, self.device),
            "reward_end": adamw(reward_end, config.reward_end_optimizer, self.device),
        }
        seeds = np.random.SeedSequence(seed).spawn(7)
        rngs = [np.random.default_rng(s) for s in seeds]
        t = denoiser.num_steps_conditioning
        length = t + 1 + config.num_autoregressive_steps
        optimizer = config.denoiser_optimizer
        parts = config.denoiser_focus, config.appearance_focus, config.surprise_focus
        batch, focused, appearing, surprising = split(optimizer.batch_size, *parts)
        base = SegmentSampler(store, length, batch, False, rngs[0], across_lives=config.across_lives)
        # from the step that brings the event back to those that lead to it, each as a predicted frame
        self.denoiser_batches = FocusedSampler(base, focused, rngs[1], (t - 1, length - 2 + LEAD))
        places = (t - 1, t - 1)  # it happens in the first frame that is predicted
        self.appearances = Appearances(config.across_lives)
        if appearing:
            self.denoiser_batches = FocusedSampler(self.denoiser_batches, appearing, rngs[4], places, self.appearances)
        self.surprises = PrioritisedSteps(rngs[5], config.across_lives) if surprising else None
        if self.surprises is not None:
            self.denoiser_batches = FocusedSampler(self.denoiser_batches, surprising, rngs[6], places, self.surprises)
        batch, focused = split(config.reward_end_optimizer.batch_size, config.focus)
        base = SegmentSampler(store, config.reward_end_length, batch, True, rngs[2], across_lives=config.across_lives)
        self.reward_end_batches = FocusedSampler(base, focused, rngs[3])
        self.noise = TrainingNoise.on(self.device, config.sigma, config.start_focus)
        self._frames = FoldedDenoiser(denoiser, PRECISIONS[precision])
        self._pixel_weights = PixelWeights(config, self._frames, self.appearances)
        self.step = 0

    def train_step(self) -> dict[str, float | Tensor]:
        """Updates the denoiser, and the reward/end model when it is its turn; not what has a learning rate of 0.

        Returns:
            Losses and gradient norms, as tensors that have not been waited for.

        Raises:
            DiamondGymError: A loss is not finite (looked at now and then); the checkpoint before is whole.
        """
        metrics: dict[str, float | Tensor] = {}
        if self.config.denoiser_optimizer.lr:
            metrics |= self._denoiser_step()
        if self.config.reward_end_optimizer.lr and self.step % self.config.reward_end_every == 0:
            metrics |= self._reward_end_step()
        self.step += 1
        return metrics

    def lr_factor(self, config: OptimizerConfig, updates: int) -> float:
        """Warm-up, plateau, and the decay at the end."""
        warmup = min(1.0, (updates + 1) / max(1, config.warmup_steps))
        decay_steps = self.config.decay_fraction * self.total_steps
        left = self.total_steps - self.step
        if decay_steps < 1 or left >= decay_steps:
            return warmup
        progress = 1 - max(0, left) / decay_steps
        return warmup * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))

    def averaged(self) -> WorldModel:
        """The model to dream with: the averaged weights if there is an average, else the trained ones."""
        parts: dict[str, Any] = {}
        for name, part in self.world_model.parts.items():
            copy = type(part)(part.config)
            state = self.ema[name].average if self.config.ema_decay else part.state_dict()
            copy.load_state_dict({k: v.detach().clone() for k, v in state.items()})
            parts[name] = copy.eval().requires_grad_(False)
        return WorldModel(**parts).to_device(self.device, self.precision)

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Takes another model's weights, its reward/end model and denoiser, to begin with.

        One that sees fewer past frames will do, if as many past actions are told.

        Raises:
            DiamondGymError: They are those of networks of another kind.
        """
        own = {key: value for key, value in weights.items() if not key.startswith(("actor_critic.", "upsampler."))}
        try:
            self.world_model.load_weights(lengthened(own, self.config.denoiser.inner_model))
        except RuntimeError as error:
            line = " ".join(str(error).split())[:200]
            raise DiamondGymError(f"these weights do not fit the networks of this run ({line})") from None
        for name, part in self.world_model.parts.items():
            for key, value in part.state_dict().items():
                self.ema[name].average[key.replace(COMPILED, "")].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        state: dict[str, Any] = {
            "step": self.step,
            "weights": self.world_model.weights(),
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.items()},
            "ema": {k: v.state_dict() for k, v in self.ema.items()},
            "batches": [self.denoiser_batches.state_dict(), self.reward_end_batches.state_dict()],
            "torch_rng": torch.get_rng_state(),
        }
        if self.surprises is not None:
            state["surprises"] = self.surprises.state_dict()
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state, after which the same steps follow as did then."""
        self.step = state["step"]
        self.world_model.load_weights(state["weights"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
            self.ema[name].load_state_dict(state["ema"][name])
        self.denoiser_batches.load_state_dict(state["batches"][0])
        self.reward_end_batches.load_state_dict(state["batches"][1])
        if self.surprises is not None:
            self.surprises.load_state_dict(state["surprises"])
            self.denoiser_batches.forget()
        torch.set_rng_state(state["torch_rng"])
        if "cuda_rng" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def _denoiser_step(self) -> dict[str, float | Tensor]:
        if self.surprises is not None and self.step % self.config.surprise_every == 0:
            with self._autocast():
                self.surprises.examine(self.denoiser_batches.store, self.world_model.denoiser, self.device)
            self.denoiser_batches.forget()
        joint = self.denoiser_batches.sample()
        share = self.processes.share(len(joint))
        batch = to_tensors(take(joint, share.rows), self.device)
        denoiser = self.world_model.denoiser
        num_targets = None
        t = denoiser.num_steps_conditioning
        early = self.step < self.config.autoregressive_from * self.total_steps
        seen = slice(0, t + 1 if early else None)
        if not self.processes.alone:
            counts = joint.mask_padding[:, seen][:, t:].sum(axis=0)
            num_targets = torch.from_numpy(counts).to(self.device, torch.float32)
        if self.config.agency_weight:
            self._frames.refresh()
        with self._autocast():
            loss = denoiser.loss(
                batch.obs[:, seen],
                batch.act[:, seen],
                batch.mask_padding[:, seen],
                share.noise(self.noise),
                pixel_weight=self._pixel_weights.of(share, batch),
                num_targets=num_targets,
            )
        norm, total = self._update("denoiser", denoiser, loss, self.config.denoiser_optimizer, self.step)
        return {"denoiser/loss": total, "denoiser/grad_norm": norm}

    def _reward_end_step(self) -> dict[str, float | Tensor]:
        joint = self.reward_end_batches.sample()
        rows = self.processes.share(len(joint)).rows
        own = take(joint, rows)
        batch = to_tensors(own, self.device, next_obs=True)
        model = self.world_model.reward_end
        assert model is not None
        assert batch.next_obs is not None
        obs, next_obs = batch.obs[:, :-1], batch.next_obs
        dreams_from = self.config.reward_end_dreams_from
        if dreams_from < 1 and self.step >= dreams_from * self.total_steps:  # a loop may go on beyond total_steps
            t = self.world_model.denoiser.num_steps_conditioning
            count = batch.obs.shape[1] - t
            noise = torch.randn(len(joint), count, *batch.obs.shape[2:], dtype=torch.float32, device=self.device)[rows]
            self._frames.refresh()  # the denoiser has been trained since
            obs, next_obs = dreamed(self._frames, batch, t, noise, self.config.reward_end_dream_length)
        with self._autocast():
            loss_rew, loss_end, logits_rew, logits_end = model.loss(
                obs,
                batch.act[:, :-1],
                next_obs,
                batch.rew[:, :-1],
                batch.end[:, :-1],
                batch.mask_padding[:, :-1],
            )
        if not self.processes.alone:  # means over the real steps here, as parts of the means over all of them
            here, all_steps = own.mask_padding[:, :-1].sum(), joint.mask_padding[:, :-1].sum()
            if not here:  # the mean of nothing is NaN
                loss_rew, loss_end = logits_rew.sum(), logits_end.sum()
            fraction = float(here / max(1, all_steps))
            loss_rew, loss_end = loss_rew * fraction, loss_end * fraction
        updates = self.step // self.config.reward_end_every
        config = self.config.reward_end_optimizer
        norm, total_rew, total_end = self._update(
            "reward_end", model, loss_rew + loss_end, config, updates, loss_rew, loss_end
        )
        return {"reward_end/loss_rew": total_rew, "reward_end/loss_end": total_end, "reward_end/grad_norm": norm}

    def _update(
        self, name: str, module: nn.Module, loss: Tensor, config: OptimizerConfig, updates: int, *parts: Tensor
    ) -> tuple[Tensor, ...]:
        """One step of an optimizer; the gradient's norm, and the parts of the loss (or it) over all processes."""
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = config.lr * self.lr_factor(config, updates)
        optimizer.zero_grad()
        loss.backward()
        figures = self.processes.sum_gradients(module, *(part.detach() for part in parts or (loss,)))
        norm = nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
        optimizer.step()
        if self.config.ema_decay:
            self.ema[name].update(module)
        return norm, *figures

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
