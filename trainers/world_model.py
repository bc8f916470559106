"""The training of a world model: a denoiser, and a reward/end model beside it.

Alonso et al. 2024 (arXiv 2405.12399): §3.1 for the denoiser's objective, appendix for the optimizers.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from diamond_gym.cuda_graphs import Draws
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.on_device import copies_of
from diamond_gym.data.segments import TensorBatch, normalised
from diamond_gym.device import PRECISIONS, prepare_to_compile
from diamond_gym.networks.denoiser import Denoiser, InnerModel
from diamond_gym.networks.inference import prepared
from diamond_gym.networks.preconditioning import TrainingNoise, training_levels
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.trainers.batches import denoiser_batches, motion_weight, reward_end_batches
from diamond_gym.trainers.loop import ALONE, Objective, Processes
from diamond_gym.trainers.optim import (
    Loss,
    OptimizerConfig,
    adamw,
    average,
    can_record,
    load_optimizer,
    lr_factor,
    parameter_groups,
    update,
)
from diamond_gym.trainers.predictions import PrioritizedSteps, dreamed
from diamond_gym.trainers.world_model_config import WorldModelConfig
from diamond_gym.world_model import WorldModel

if TYPE_CHECKING:
    from diamond_gym.trainers.recorded import RecordedUpdates

Arrays = tuple[npt.NDArray[Any], ...]
_RECORDED = "denoiser", "reward_end"  # not the upsampler, whose large frames keep a GPU busy without


class WorldModelTrainer:
    """The state of a world model's training, and one step of it.

    On one GPU the updates are CUDA graphs (`trainers.recorded`), with the same random numbers as without. A GPU keeps a
    copy of the store's frames, where they fit (`diamond_gym.data.on_device`).

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
        self._compile = compile
        self._by_kernels = self.device.type == "cpu" and precision == "float32" and not compile
        if compile:
            prepare_to_compile(self.device.type)
        self.ema: dict[str, AveragedModel] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._configs: dict[str, OptimizerConfig] = {}
        self._objectives: dict[str, nn.Module] = {}
        self._recorded: dict[str, RecordedUpdates] = {}
        self._draws = Draws(self.device)
        self._train("denoiser", denoiser, denoiser.inner_model, config.denoiser_optimizer, self._denoiser_loss)
        if reward_end is not None:
            self._train("reward_end", reward_end, reward_end.encoder, config.reward_end_optimizer, reward_end.loss)
        levels = training_levels(denoiser.objective, config.sigma, config.flow_times != "logit-normal")
        self.noise = TrainingNoise.of(levels, self._draws.normal, self._draws.uniform, config.past_noise or 0.0)
        self._frames = prepared(denoiser, PRECISIONS[precision])
        self._copies = copies_of(store, self.device, self._forget_recorded)
        self._begin_chance(store)

    def _train(
        self, name: str, part: nn.Module, core: nn.Module, config: OptimizerConfig, loss: Callable[..., Any]
    ) -> None:
        """Prepares a network's training: its average, its optimizer and its loss; `core` is what may be compiled."""
        if self._by_kernels:
            from diamond_gym.networks.kernels.training import train_with_kernels

            train_with_kernels(part)
        # of as many steps for a network that is updated every so many of them
        decay = self.config.ema_decay ** (self.config.reward_end_every if name == "reward_end" else 1)
        if decay:
            self.ema[name] = average(part, decay)
        if self._compile:
            core.compile()
        self._configs[name] = config
        records = name in _RECORDED and isinstance(self.world_model.denoiser.inner_model, InnerModel)
        if not (config.lr and records and can_record(self.device, self._fabric, config)):
            self.optimizers[name] = adamw(part, config, self.device)
        else:
            from diamond_gym.trainers.recorded import RecordedUpdates

            averaged = (self.ema[name], decay) if decay else None
            groups = parameter_groups(part, config.weight_decay)
            self._recorded[name] = recorded = RecordedUpdates(name, part, config, self._draws, groups, averaged)
            self.optimizers[name] = recorded.optimizer
        if config.lr:
            self._objectives[name] = self._fabric.setup_module(Objective(part, loss))

    def _begin_chance(self, store: EpisodeStore) -> None:
        """Builds the samplers of both networks' batches and seeds the noise, for this process from this step on."""
        seeds = np.random.SeedSequence([self._seed, self._fabric.global_rank, self.step])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        rngs = list(map(np.random.default_rng, seeds.spawn(5)))
        self.prioritized = PrioritizedSteps(rngs[4], self.config.across_lives) if self.config.prioritized else None
        self.denoiser_batches = denoiser_batches(
            self.config, store, self._fabric, rngs[:2], self.prioritized, self._copies
        )
        self.reward_end_batches = reward_end_batches(self.config, store, self._fabric, rngs[2:4], self._copies)

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
            load_optimizer(optimizer, state["optimizers"][name])
        for name, averaged in self.ema.items():
            averaged.load_state_dict(state["ema"][name])
        self._forget_recorded()  # the optimizer's state is elsewhere now
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

    def _denoiser_step(self) -> dict[str, Tensor]:
        if self.prioritized is not None and self.step % self.config.prioritized_every == 0:
            with self._autocast():
                self.prioritized.examine(self.denoiser_batches.store, self.world_model.denoiser, self.device)
            self.denoiser_batches.forget()
        t = self.world_model.denoiser.num_steps_conditioning
        early = self.step < self.config.autoregressive_from * self.total_steps
        seen = slice(0, t + 1 if early else None)

        def batch() -> Arrays:
            drawn = self.denoiser_batches.sample()
            return drawn.obs[:, seen], drawn.act[:, seen], drawn.mask_padding[:, seen]

        return self._update("denoiser", batch, self._loss_of_frames, self.step)

    def _forget_recorded(self) -> None:
        for recorded in self._recorded.values():
            recorded.forget()

    def _normalised(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Frames of a batch, or their numbers, as the networks take them."""
        return normalised(frames if self._copies is None else self._copies.pixels(frames), mask)

    def _loss_of_frames(self, frames: Tensor, act: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with self._autocast():
            loss = self._objectives["denoiser"](self._normalised(frames, mask), act, mask)
        return loss, {"denoiser/loss": loss.detach()}

    def _denoiser_loss(self, obs: Tensor, act: Tensor, mask: Tensor) -> Tensor:
        extra = self.config.motion_weight
        weight = partial(motion_weight, extra=extra) if extra else None
        return self.world_model.denoiser.loss(obs, act, mask, self.noise, pixel_weight=weight)

    def _reward_end_step(self) -> dict[str, Tensor]:
        updates = self.step // self.config.reward_end_every
        dreams_from = self.config.reward_end_dreams_from
        dreams = dreams_from < 1 and self.step >= dreams_from * self.total_steps  # a loop may go on beyond total_steps

        def batch() -> Arrays:
            drawn = self.reward_end_batches.sample()
            frames = drawn.obs, drawn.mask_padding, drawn.next_obs(), drawn.next_mask()
            even = drawn.mask_padding.astype(np.float32)
            weights = self.reward_end_batches.weights(drawn) if self.config.weigh_focus else even
            return *frames, drawn.act, drawn.rew, drawn.end, weights

        loss = self._losses_of_dreamed if dreams else self._losses_of_real
        return self._update("reward_end", batch, loss, updates)

    def _losses_of_real(self, *parts: Tensor, dreams: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        frames, mask, next_frames, next_mask, act, rew, end, weight = parts
        real, following = self._normalised(frames, mask), self._normalised(next_frames, next_mask)
        batch = TensorBatch(real, following, act, rew, end, mask)
        obs, next_obs = self._dreamed(batch) if dreams else (real[:, :-1], following)
        rest = (part[:, :-1] for part in (rew, end, weight))
        with self._autocast():
            loss_rew, loss_end, *_ = self._objectives["reward_end"](obs, act[:, :-1], next_obs, *rest)
        figures = {"reward_end/loss_rew": loss_rew.detach(), "reward_end/loss_end": loss_end.detach()}
        return loss_rew + loss_end, figures

    def _losses_of_dreamed(self, *parts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._losses_of_real(*parts, dreams=True)

    def _dreamed(self, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        t = self.world_model.denoiser.num_steps_conditioning
        rows, length, *shape = batch.obs.shape
        noise = self._draws.normal((rows, length - t, *shape))
        if "reward_end" in self._recorded:
            # Not folded, which is what the host does. Its weights are cast apart from those that the gradient goes to.
            with self._autocast():
                return dreamed(self.world_model.denoiser, batch, t, noise, self.config.reward_end_dream_length)
        if hasattr(self._frames, "refresh"):
            self._frames.refresh()  # the denoiser has been trained since
        return dreamed(self._frames, batch, t, noise, self.config.reward_end_dream_length)

    def _update(self, name: str, batch: Callable[[], Arrays], loss: Loss, updates: int) -> dict[str, Tensor]:
        """Updates a network, as a CUDA graph where it is recorded.

        Args:
            name: Of the network.
            batch: Draws a batch.
            loss: Gives the loss of a batch's tensors, and figures of it.
            updates: How many there have been.
        """
        config, decay_steps = self._configs[name], self.config.decay_fraction * self.total_steps
        factor = lr_factor(updates, config.warmup_steps, self.total_steps - self.step, decay_steps)
        if name in self._recorded:
            from diamond_gym.trainers.recorded import to_be_copied

            return self._recorded[name](loss, factor, *to_be_copied(batch(), self.device))

        def loss_of_batch() -> tuple[Tensor, dict[str, Tensor]]:
            arrays = map(np.ascontiguousarray, batch())
            return loss(*(torch.from_numpy(array).to(self.device, non_blocking=True) for array in arrays))

        objective, optimizer = self._objectives[name], self.optimizers[name]
        figures = update(name, self._fabric, objective, optimizer, loss_of_batch, config, factor)
        if name in self.ema:
            self.ema[name].update_parameters(self.world_model.parts[name])
        return figures
