"""A world model's configuration and its training.

Alonso et al. 2024 (arXiv 2405.12399): §3.1 for the denoiser's objective, appendix for the optimizers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.segments import SegmentSampler, to_tensors
from diamond_gym.device import PRECISIONS, prepare_to_compile
from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig
from diamond_gym.networks.inference import prepared
from diamond_gym.networks.kernels.training import train_with_kernels
from diamond_gym.networks.preconditioning import SigmaDistribution, TrainingNoise, training_levels
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.schema import check_least
from diamond_gym.trainers.appearances import Appearances
from diamond_gym.trainers.focus import Focus, FocusedSampler, PrioritizedSteps, find_events, motion_weight, split
from diamond_gym.trainers.loop import ALONE, Objective, Processes, own_rows
from diamond_gym.trainers.optim import OptimizerConfig, adamw, average, lr_factor, update
from diamond_gym.trainers.scheduled_sampling import dreamed
from diamond_gym.trainers.upsampler import UpsamplerConfig
from diamond_gym.world_model import WorldModel

_PARTS: tuple[str, ...] = ("autoregressive_from", "reward_end_dreams_from", "decay_fraction", "ema_decay")
_PARTS += ("focus", "denoiser_focus", "appearance_focus", "prioritized")
LEAD = 10  # how many steps before a reward or an end a focused denoiser segment may stop


@dataclass(frozen=True)
class WorldModelConfig:
    """A training; the defaults are the paper's but for the number of steps, which there follows from its outer loop."""

    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    reward_end: RewardEndConfig = field(default_factory=RewardEndConfig)
    denoiser_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    reward_end_optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(max_grad_norm=100.0))
    sigma: SigmaDistribution = field(default_factory=SigmaDistribution)
    flow_times: Literal["uniform", "logit-normal"] | None = None
    """Times that a rectified flow is trained at (None: uniform); logit-normal ones have logits as --sigma.loc and
    --sigma.scale say."""
    num_autoregressive_steps: int = 1
    """k: predictions of a segment beyond the first, each on the model's own frames."""
    autoregressive_from: float = 0.0
    """Part of the steps, at the beginning, that do without those (0: the paper's)."""
    past_noise: float | None = None
    """Noise on the past frames in training, of a level drawn for each row: for one half uniform from 0 to this, for the
    other 0, as in dreams (None: none at all, the paper's). --denoiser.inner-model.noise-cond tells the network the
    level."""
    reward_end_length: int = 19
    """Steps per segment of the reward/end model (horizon 15 + T)."""
    reward_end_every: int = 1
    """Denoiser steps per step of the reward/end model."""
    reward_end_dreams_from: float = 1.0
    """Scheduled sampling: part of the steps, at the beginning, in which the reward/end model sees real frames follow;
    afterwards those that the denoiser predicts, as in dreams (1: always real ones, the paper's)."""
    reward_end_dream_length: int = 1
    """Of those, so many in a row are predicted, each on the ones before, until real frames follow again."""
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
    across_lives: bool = False
    """Whether segments that reach over their episode's beginning show the life before, as dreams do that go on, instead
    of padding (the paper's)."""
    prioritized: float = 0.0
    """Part of the denoiser's batches drawn in proportion to how badly it has predicted them, as when a ball bounces."""
    prioritized_every: int = 1000
    """Steps after which these errors are measured anew."""
    age_weights: tuple[float, ...] | None = None
    """Chances of the episodes by age, in as many classes, oldest first: 1 for steps drawn evenly from all recordings
    (None: the paper's 0.1 0.1 0.1 0.7, for play that gets better)."""
    without_rewards: bool = False
    """Leave out the reward/end model, as where recordings have neither rewards nor ends: dreams pay 0, unending."""
    upsampler: UpsamplerConfig = field(default_factory=UpsamplerConfig)

    def __post_init__(self) -> None:
        """Refuses what makes no sense, in one line, by the flag's name."""
        for name in _PARTS:
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise BadArgument(f"--{name.replace('_', '-')} is a part, from 0 to 1, not {value}")
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
        if self.past_noise is not None and not 0 <= self.past_noise <= 1:
            raise BadArgument(f"--past-noise is a noise level, from 0 to 1, not {self.past_noise}")
        remembered = self.denoiser.inner_model.num_steps_conditioning
        if self.reward_end_dreams_from < 1 and self.reward_end_length <= remembered:
            raise BadArgument(f"--reward-end-dreams-from needs a --reward-end-length of more than {remembered} steps")
        stages = (self.denoiser_optimizer, self.reward_end_optimizer)
        if not any(part.lr for part in (*stages, *([self.upsampler.optimizer] if self.upsampler.factor else []))):
            raise BadArgument("all learning rates are 0: there is nothing to train")
        if self.age_weights is not None and (min(self.age_weights) < 0 or abs(sum(self.age_weights) - 1) > 1e-6):
            raise BadArgument(f"--age-weights are chances that sum to 1, not {self.age_weights}")

    def for_frames(self, frame_shape: tuple[int, int, int], num_actions: int) -> Self:
        """The same with a world's frames (H, W, C) and actions (`ActionCodec.num_inputs`) filled in."""
        h, w, c = frame_shape
        image: dict[str, Any] = {"img_channels": c, "num_actions": num_actions}
        denoiser = replace(self.denoiser, inner_model=replace(self.denoiser.inner_model, **image))
        h, w = self.upsampler.small((h, w))
        image |= {"img_size": h, "img_width": None if w == h else w}
        reward_end, upsampler = replace(self.reward_end, **image), self.upsampler.for_frames(c)
        return replace(self, denoiser=denoiser, reward_end=reward_end, upsampler=upsampler)


class WorldModelTrainer:
    """The state of a world model's training, and one step of it.

    Attributes:
        config: What is trained, and how.
        step: Steps done.
        total_steps: The step at which the learning rates' decay ends.
        world_model: The networks in training.
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
        fabric: Processes = ALONE,
    ) -> None:
        """Builds networks, optimizers and samplers.

        Args:
            config: What is trained, and how.
            store: The experience.
            total_steps: See the attribute.
            seed: Seeds the weights, the noise and the batches. It seeds torch's global stream, from which a training
                draws: trainers have a process to themselves, and nothing else in the package touches that stream.
            device: Where the networks live.
            precision: "float32" or "bfloat16" (autocast; weights and optimizer stay float32).
            compile: Compile the networks with torch.compile, which takes a minute or two at the first step.
            fabric: The processes that train together, each with a store of the same experience.
        """
        torch.manual_seed(seed)
        self.config, self.total_steps, self.step = config, total_steps, 0
        self.device, self.precision = torch.device(device), precision
        self._seed, self._fabric = seed, fabric
        self._autocast = partial(torch.autocast, self.device.type, torch.bfloat16, enabled=precision == "bfloat16")
        denoiser = Denoiser(config.denoiser)
        reward_end = None if config.without_rewards else RewardEnd(config.reward_end)
        self.world_model = WorldModel(denoiser, reward_end).to_device(self.device, precision)
        networks = self.world_model.parts
        if self.device.type == "cpu" and precision == "float32" and not compile:
            train_with_kernels(self.world_model)
        self.ema = {name: average(part, config.ema_decay) for name, part in networks.items() if config.ema_decay}
        if compile:
            prepare_to_compile(self.device.type)
            denoiser.inner_model.compile()
            if reward_end is not None:
                reward_end.encoder.compile()
        self._configs = {"denoiser": config.denoiser_optimizer, "reward_end": config.reward_end_optimizer}
        self.optimizers = {name: adamw(part, self._configs[name], self.device) for name, part in networks.items()}
        losses: dict[str, Callable[..., Any]] = {"denoiser": self._denoiser_loss}
        if reward_end is not None:
            losses["reward_end"] = reward_end.loss
        trained = [name for name in networks if self._configs[name].lr]
        self._objectives = {n: fabric.setup_module(Objective(networks[n], losses[n])) for n in trained}
        levels = training_levels(denoiser.objective, config.sigma, config.flow_times != "logit-normal")
        self.noise = TrainingNoise.on(self.device, levels, past_noise=config.past_noise or 0.0)
        self._frames = prepared(denoiser, PRECISIONS[precision])
        self._begin_chance(store)

    def _begin_chance(self, store: EpisodeStore) -> None:
        """Builds the samplers of both networks' batches and seeds the noise, for this process from this step on."""
        config, seeds = self.config, np.random.SeedSequence([self._seed, self._fabric.global_rank, self.step])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        rngs = list(map(np.random.default_rng, seeds.spawn(5)))
        t = config.denoiser.inner_model.num_steps_conditioning
        length = t + 1 + config.num_autoregressive_steps
        # from the step that brings the event back to those that lead to it, each as a predicted frame
        leading, predicted = (t - 1, length - 2 + LEAD), (t - 1, t - 1)
        self.prioritized = PrioritizedSteps(rngs[4], config.across_lives) if config.prioritized else None
        batch = own_rows(self._fabric, config.denoiser_optimizer.batch_size)
        parts = config.denoiser_focus, config.appearance_focus, config.prioritized
        batch, around, appearing, prioritized = split(batch, *parts)
        focuses = [
            Focus(around, leading, find_events),
            Focus(appearing, predicted, Appearances(config.across_lives)),
            Focus(prioritized, predicted, self.prioritized or find_events),
        ]
        how: dict[str, Any] = {"across_lives": config.across_lives}
        if config.age_weights is not None:
            how["weights"] = config.age_weights
        base = SegmentSampler(store, length, batch, False, rngs[0], **how)
        self.denoiser_batches = FocusedSampler(base, focuses, rngs[1])
        length = config.reward_end_length
        batch, around = split(own_rows(self._fabric, config.reward_end_optimizer.batch_size), config.focus)
        base = SegmentSampler(store, length, batch, True, rngs[2], **how)
        self.reward_end_batches = FocusedSampler(base, [Focus(around, (0, length - 2), find_events)], rngs[3])

    def train_step(self) -> dict[str, float | Tensor]:
        """Updates the denoiser, and the reward/end model when it is its turn; not what has a learning rate of 0.

        The metrics are tensors that have not been waited for.
        """
        metrics: dict[str, float | Tensor] = {}
        if self.config.denoiser_optimizer.lr:
            metrics |= self._denoiser_step()
        if "reward_end" in self._objectives and self.step % self.config.reward_end_every == 0:
            metrics |= self._reward_end_step()
        self.step += 1
        return metrics

    def averaged(self) -> WorldModel:
        """The model to dream with: the averaged weights if there is an average, else the trained ones."""
        parts: dict[str, Any] = {}
        with torch.random.fork_rng(devices=[]):  # they are built with random weights first
            for name, part in self.world_model.parts.items():
                state = self.ema[name].module.state_dict() if name in self.ema else part.state_dict()
                parts[name] = type(part)(part.config)
                parts[name].load_state_dict({k: v.detach().clone() for k, v in state.items()})
                parts[name].eval().requires_grad_(False)
        return WorldModel(**parts).to_device(self.device, self.precision)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on; of several processes, what the first one's does."""
        state: dict[str, Any] = {
            "step": self.step,
            "weights": self.world_model.weights(),
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.items()},
            "ema": {k: v.state_dict() for k, v in self.ema.items()},
            "batches": [self.denoiser_batches.state_dict(), self.reward_end_batches.state_dict()],
            "torch_rng": torch.get_rng_state(),
        }
        if self.prioritized is not None:
            state["prioritized"] = self.prioritized.state_dict()
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state, after which the same steps follow as did then, in one process bit for bit."""
        self.step = state["step"]
        self.world_model.load_weights(state["weights"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, averaged in self.ema.items():
            averaged.load_state_dict(state["ema"][name])
        if not self._fabric.is_global_zero:  # whose chance was not stored
            self._begin_chance(self.denoiser_batches.store)
            return
        if self.prioritized is not None:
            self.prioritized.load_state_dict(state["prioritized"])
        self.denoiser_batches.load_state_dict(state["batches"][0])
        self.reward_end_batches.load_state_dict(state["batches"][1])
        torch.set_rng_state(state["torch_rng"])
        if "cuda_rng" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def _denoiser_step(self) -> dict[str, float | Tensor]:
        if self.prioritized is not None and self.step % self.config.prioritized_every == 0:
            with self._autocast():
                self.prioritized.examine(self.denoiser_batches.store, self.world_model.denoiser, self.device)
            self.denoiser_batches.forget()
        t = self.world_model.denoiser.num_steps_conditioning
        early = self.step < self.config.autoregressive_from * self.total_steps
        seen = slice(0, t + 1 if early else None)

        def loss() -> Tensor:
            batch = to_tensors(self.denoiser_batches.sample(), self.device)
            parts = (part[:, seen] for part in (batch.obs, batch.act, batch.mask_padding))
            with self._autocast():
                return self._objectives["denoiser"](*parts)  # type: ignore[no-any-return]

        mean, norm = self._update("denoiser", loss, self.step)
        return {"denoiser/loss": mean, "denoiser/grad_norm": norm}

    def _denoiser_loss(self, obs: Tensor, act: Tensor, mask: Tensor) -> Tensor:
        extra = self.config.motion_weight
        weight = partial(motion_weight, extra=extra) if extra else None
        return self.world_model.denoiser.loss(obs, act, mask, self.noise, pixel_weight=weight)

    def _reward_end_step(self) -> dict[str, float | Tensor]:
        updates = self.step // self.config.reward_end_every
        (loss_rew, loss_end), norm = self._update("reward_end", self._reward_end_losses, updates)
        return {"reward_end/loss_rew": loss_rew, "reward_end/loss_end": loss_end, "reward_end/grad_norm": norm}

    def _reward_end_losses(self) -> Tensor:
        batch = to_tensors(self.reward_end_batches.sample(), self.device, next_obs=True)
        assert batch.next_obs is not None
        obs, next_obs = batch.obs[:, :-1], batch.next_obs
        dreams_from = self.config.reward_end_dreams_from
        if dreams_from < 1 and self.step >= dreams_from * self.total_steps:  # a loop may go on beyond total_steps
            t = self.world_model.denoiser.num_steps_conditioning
            rows, length, *shape = batch.obs.shape
            noise = torch.randn(rows, length - t, *shape, dtype=torch.float32, device=self.device)
            if hasattr(self._frames, "refresh"):
                self._frames.refresh()  # the denoiser has been trained since
            obs, next_obs = dreamed(self._frames, batch, t, noise, self.config.reward_end_dream_length)
        rest = (part[:, :-1] for part in (batch.rew, batch.end, batch.mask_padding))
        with self._autocast():
            loss_rew, loss_end, *_ = self._objectives["reward_end"](obs, batch.act[:, :-1], next_obs, *rest)
        return torch.stack((loss_rew, loss_end))

    def _update(self, name: str, loss: Callable[[], Tensor], updates: int) -> tuple[Tensor, Tensor]:
        """One step of an optimizer; see `update`."""
        config, decay_steps = self._configs[name], self.config.decay_fraction * self.total_steps
        factor = lr_factor(updates, config.warmup_steps, self.total_steps - self.step, decay_steps)
        result = update(self._fabric, self._objectives[name], self.optimizers[name], loss, config, factor)
        if name in self.ema:
            self.ema[name].update_parameters(self.world_model.parts[name])
        return result
