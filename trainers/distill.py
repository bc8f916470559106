"""Distillation: a student that dreams in one denoising step what its teacher dreams in several.

Where no chance enters on the way, a sampler gives one frame to each initial noise. A student that is fitted to that
frame by the squared error (Luhman & Luhman 2021, arXiv 2101.02388) draws the mean of all that it cannot tell from the
noise, and loses the teacher's spread: see docs/distillation.md. Fitted by a proper score, the energy distance, to the
distribution of the teacher's frames, it has no reason to.
"""

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.sampling import SegmentSampler
from diamond_gym.data.segments import to_tensors
from diamond_gym.device import PRECISIONS
from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.inference import prepared
from diamond_gym.networks.kernels.training import train_with_kernels
from diamond_gym.registry import Card
from diamond_gym.sampler import SamplerConfig, sample
from diamond_gym.schema import check_least, check_shares
from diamond_gym.trainers.batches import Appearances, Focus, FocusedSampler, find_events, split
from diamond_gym.trainers.loop import ALONE, Objective, Processes, own_rows
from diamond_gym.trainers.optim import OptimizerConfig, adamw, lr_factor, update
from diamond_gym.trainers.predictions import cell_errors
from diamond_gym.world_model import WorldModel

NOISES = 2  # frames of each start
LEVEL = 1 / 255  # half an 8-bit level of frames in [-1, 1]: smaller differences, which are rounding, count squared


@dataclass(frozen=True)
class DistillConfig:
    """How a student is fitted to its teacher."""

    teacher: SamplerConfig = field(default_factory=SamplerConfig)
    """How the teacher samples the frames that the student is shown; no noise may be drawn on the way."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-4, warmup_steps=20, batch_size=16))
    dream_length: int = 4
    """Frames that the student dreams on from each real start, each with an update: the first from real frames alone,
    the later ones from its own, as in its dreams."""
    same_noise: bool = False
    """Fit each frame to the teacher's from the same noise, by the squared error, instead of all of a start's frames to
    all of the teacher's, by the energy distance."""
    focus: float = 0.1
    """Share of the batches drawn around rewards and ends."""
    appearance_focus: float = 0.3
    """Share of the batches in which something appears where nothing moved, as when a ball is served."""
    decay_fraction: float = 0.8
    """Share of the steps, at the end, over which the learning rate falls to a twentieth."""

    def __post_init__(self) -> None:
        check_shares(self, "focus", "appearance_focus", "decay_fraction")
        check_least(self, dream_length=1)
        if not self.optimizer.lr:
            raise BadArgument("--optimizer.lr is 0: there is nothing to train")
        if self.optimizer.grad_acc_steps is not None:
            raise BadArgument("--optimizer.grad-acc-steps has no place here: take a larger --optimizer.batch-size")
        if self.optimizer.batch_size % 2:
            raise BadArgument("--optimizer.batch-size must be even: each start has two noises")
        check_teacher(self.teacher)

    @property
    def student(self) -> SamplerConfig:
        """How the student samples: one step from the teacher's highest level."""
        return SamplerConfig(num_denoising_steps=1, sigma_max=self.teacher.sigma_max)


def check_teacher(sampler: SamplerConfig) -> None:
    """Refuses a sampler from which nothing can be distilled.

    Raises:
        BadArgument: It draws noise on the way, so that a frame does not follow from its initial noise, or it takes one
            step itself.
    """
    if sampler.s_churn or sampler.s_cond or sampler.eta:
        raise BadArgument("the teacher must sample without --teacher.s-churn, --teacher.s-cond and --teacher.eta")
    if sampler.num_denoising_steps == 1:
        raise BadArgument("--teacher.num-denoising-steps must be at least 2: one step is what the student takes")


def check_can_teach(card: Card) -> None:
    """Refuses a model from which nothing can be distilled.

    Raises:
        BadArgument: It has two stages or another objective than EDM's, or is a student itself.
    """
    if card.upsampler is not None:
        raise BadArgument(f"{card.name} has two stages: only models of one can be distilled yet")
    if (objective := card.denoiser.get("objective") or "edm") != "edm":
        raise BadArgument(f"{card.name} was trained with the objective {objective}: only edm can be distilled yet")
    if card.is_student:
        raise BadArgument(f"{card.name} dreams in one step already: distil its teacher")


class DistillTrainer:
    """The state of a distillation, and one step of it: a start dreamed on, with an update for each frame.

    Attributes:
        config: How the student is fitted.
        step: Updates done.
        total_steps: The update at which the learning rate's decay ends.
        student: The denoiser in training; it began with the teacher's weights.
    """

    def __init__(
        self,
        config: DistillConfig,
        teacher: WorldModel,
        store: EpisodeStore,
        total_steps: int,
        seed: int = 0,
        fabric: Processes = ALONE,
    ) -> None:
        """Builds the student, its optimizer and its sampler of starts.

        Args:
            config: How the student is fitted.
            teacher: On the device and in the precision in which both are to compute; it stays as it is.
            store: Real play, for starts and actions.
            total_steps: See the attribute.
            seed: Seeds the noise and the batches.
            fabric: The processes that train together, each with a store of the same experience.
        """
        self.config, self.total_steps, self.step = config, total_steps, 0
        self.device, self._fabric, self._seed = teacher.device, fabric, seed
        enabled = teacher.precision == "bfloat16"
        self._autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=enabled)
        self.student = _copy(teacher.denoiser)
        if self.device.type == "cpu" and not enabled:
            train_with_kernels(self.student)
        teacher.use_kernels()
        self._teacher = prepared(teacher.denoiser, PRECISIONS[teacher.precision])
        self.optimizer = adamw(self.student, config.optimizer, self.device)
        self._objective = fabric.setup_module(Objective(self.student, self.loss))
        self._begin_chance(store)

    def _begin_chance(self, store: EpisodeStore) -> None:
        """Seeds the noise and the sampler of starts, for this process from this step on."""
        config, t = self.config, self.student.num_steps_conditioning
        seeds = np.random.SeedSequence([self._seed, self._fabric.global_rank, self.step])
        self._noise = torch.Generator(self.device).manual_seed(int(seeds.generate_state(1)[0]))
        rngs = list(map(np.random.default_rng, seeds.spawn(2)))
        rows = own_rows(self._fabric, config.optimizer.batch_size)
        rows, around, appearing = split(-(-rows // NOISES), config.focus, config.appearance_focus)
        places = (t - 1, t + config.dream_length - 2)  # the event comes with any of the frames that are dreamed
        focuses = [Focus(around, places, find_events), Focus(appearing, places, Appearances(across_lives=True))]
        base = SegmentSampler(store, t + config.dream_length - 1, rows, False, rngs[0], (1.0,), across_lives=True)
        self.batches = FocusedSampler(base, focuses, rngs[1])

    def train_step(self) -> dict[str, float | Tensor]:
        """Dreams on from one batch of starts, and fits each frame to the teacher's from the same noise and past.

        The metrics are means over the frames, of tensors that have not been waited for.
        """
        t = self.student.num_steps_conditioning
        batch = to_tensors(self.batches.sample(), self.device)
        obs, act = (part.repeat_interleave(NOISES, dim=0) for part in (batch.obs[:, :t], batch.act))
        figures = []
        for i in range(min(self.config.dream_length, max(1, self.total_steps - self.step))):
            step, frame = self._update(obs, act[:, i : i + t])
            figures.append(step)
            frame = frame[::NOISES].repeat_interleave(NOISES, dim=0)  # all noises of a start have the same past
            obs = torch.cat((obs[:, 1:], frame[:, None]), dim=1)
        return {name: torch.stack([step[name] for step in figures]).mean() for name in figures[0]}

    def _update(self, obs: Tensor, act: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """One step of the optimizer: its figures, and the student's frames."""
        config, decay_steps = self.config.optimizer, self.config.decay_fraction * self.total_steps
        noise = torch.randn(obs[:, 0].shape, generator=self._noise, device=self.device)
        with torch.no_grad(), self._autocast():
            target, _ = sample(self._teacher.condition, obs, act, noise, self.config.teacher)
        frames = []

        def loss() -> tuple[Tensor, dict[str, Tensor]]:
            with self._autocast():
                value, frame = self._objective(obs, act, noise, target)
            frames.append(frame)
            return value, {"student/loss": value.detach()}

        factor = lr_factor(self.step, config.warmup_steps, self.total_steps - self.step, decay_steps)
        figures = update("student", self._fabric, self._objective, self.optimizer, loss, config, factor)
        self.step += 1
        return figures, frames[0]

    def loss(self, obs: Tensor, act: Tensor, noise: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """How far the student's frames are from its teacher's.

        Args:
            obs: Past frames in [-1, 1], float32 (B, T, C, H, W); rows 2i and 2i + 1 are alike.
            act: Past actions, (B, T), likewise.
            noise: Standard normal, float32 (B, C, H, W).
            target: The teacher's frames of that noise, float32 (B, C, H, W).

        Returns:
            The loss, and the student's frames without gradient, float32 (B, C, H, W) on 8-bit levels.
        """
        student = self.student
        cs = student.precondition(noise.new_full((len(noise),), self.config.student.sigma_max))
        frame = student.base(noise, cs, obs) + cs.c_out * student.model_output(noise, cs, obs, act)
        loss = (frame - target).square().mean() if self.config.same_noise else energy_distance(frame, target)
        return loss, student.frame(frame.detach(), obs[:, -1])

    def averaged(self, teacher: WorldModel) -> WorldModel:
        """The teacher's model with the student for a denoiser, and without its agent."""
        reward_end = copy.deepcopy(teacher.reward_end)
        model = WorldModel(_copy(self.student), reward_end, starts=teacher.starts).eval().requires_grad_(False)
        return model.to_device(self.device, teacher.precision)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on; of several processes, what the first one's does."""
        return {
            "step": self.step,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state_dict(),
            "noise": self._noise.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state, after which the same steps follow as did then, in one process bit for bit."""
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        if not self._fabric.is_global_zero:  # whose chance was not stored
            self._begin_chance(self.batches.store)
            return
        self.batches.load_state_dict(state["batches"])
        self._noise.set_state(state["noise"])


def energy_distance(frames: Tensor, target: Tensor) -> Tensor:
    """The energy distance of two distributions of frames, from two of each, but for what the student cannot change.

    E d(X, Y) - E d(X, X') / 2 is least where X is distributed as Y (Gneiting & Raftery 2007, section 4.3): what is too
    alike is pushed apart, what is too different together. d is the root mean square of a cell of 8x8 pixels, which is
    about an object in a game, and the mean over all cells.

    Args:
        frames: The student's in [-1, 1], float32 (2N, C, H, W): rows 2i and 2i + 1 are of the same past.
        target: The teacher's, (2N, C, H, W), of the same pasts; row i of the noise of row i of the student's, which is
            why each is compared with the other one.
    """
    other = target.unflatten(0, (-1, NOISES)).flip(1).flatten(0, 1)
    return _distance(frames, other).mean() - _distance(frames[::NOISES], frames[1::NOISES]).mean() / 2


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Root mean squares of the difference of images (N, C, H, W), by cells."""
    return (cell_errors(a, b) + LEVEL**2).sqrt()


def _copy(denoiser: Denoiser) -> Denoiser:
    """A denoiser of the same weights, whose networks no kernels have changed, in the layout that convolutions like."""
    device = next(denoiser.parameters()).device
    with torch.random.fork_rng(devices=[]):  # it is filled with random weights first
        other = Denoiser(denoiser.config)
    other.load_state_dict({key: value.detach().clone() for key, value in denoiser.state_dict().items()})
    return other.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
