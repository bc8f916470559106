"""One game's world model and agent in training on a GPU: every update is a CUDA graph, the data lie on the device.

Losses, dreams, imagination and returns are the package's. Here is what graphs need besides: random numbers that are
drawn before each replay, optimizers and averages in place, and a stream for each world.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.experience import Experience
from benchmarks.gpu.graph import Graph
from benchmarks.gpu.play import Play
from benchmarks.gpu.recipe import Recipe
from benchmarks.gpu.trained import Trained
from diamond_gym.chance import Chance, OutsideRandom
from diamond_gym.data.segments import TensorBatch
from diamond_gym.dream import Dream
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig
from diamond_gym.networks.preconditioning import TrainingNoise
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.starts import Starts
from diamond_gym.trainers.actor_critic import window_loss
from diamond_gym.trainers.focus import motion_weight
from diamond_gym.trainers.imagination import Imagination
from diamond_gym.trainers.scheduled_sampling import ONE_STEP, dreamed, predicted
from diamond_gym.world_model import WorldModel

_AGENT_FIGURES = "loss_actions", "loss_values", "policy_entropy", "lambda_return", "reward_per_step", "ends_per_step"


class World:
    """Experience, networks and updates of one game.

    Args:
        game: Its name, for whoever reads the results.
        num_actions: Of the game.
        recipe: How it is fitted.
        device: Where.
        seed: Of the weights.
        shape: (C, H, W) of the frames.
        experience: What it is fitted to; its own, and empty, by default.
        begin: Whose networks and sizes to begin with, in place of the recipe's.
        compiled: Compile the U-Net and the encoders (torch.compile), whose code all worlds of one size share.
    """

    def __init__(
        self,
        game: str,
        num_actions: int,
        recipe: Recipe,
        device: torch.device,
        seed: int = 0,
        shape: tuple[int, int, int] = (3, 64, 64),
        experience: Experience | None = None,
        begin: WorldModel | None = None,
        compiled: bool = False,
    ) -> None:
        self.game, self.recipe, self.device, self.seed = game, recipe, device, seed
        torch.manual_seed(seed)
        inner = replace(recipe.inner, num_actions=num_actions, img_channels=shape[0], noise_cond=recipe.noise_cond)
        config = DenoiserConfig(inner, residual=recipe.residual, change_threshold=recipe.change_threshold)
        if begin is not None:
            config, inner = begin.denoiser.config, begin.denoiser.config.inner_model
        size = {"img_channels": shape[0], "img_size": shape[1], "num_actions": num_actions}
        denoiser = Denoiser(config)
        to = {"device": device, "memory_format": torch.channels_last}
        if begin is not None:
            denoiser.load_state_dict(begin.denoiser.state_dict())
        reward_end = RewardEnd(replace(recipe.reward_end, **size))
        if begin is not None and begin.reward_end is not None:
            reward_end = RewardEnd(begin.reward_end.config)
            reward_end.load_state_dict(begin.reward_end.state_dict())
        self.reward_end = Trained(reward_end.to(**to), recipe.reward_lr, recipe.weight_decay, 10.0, recipe.ema)
        self.denoiser = Trained(denoiser.to(**to), recipe.lr, recipe.weight_decay, 1.0, recipe.ema)
        agent = ActorCritic(replace(recipe.agent, **size))
        if begin is not None and begin.actor_critic is not None:
            agent = ActorCritic(begin.actor_critic.config)
            agent.load_state_dict(begin.actor_critic.state_dict())
        self.agent = Trained(agent.to(**to), recipe.agent_lr, 0.0, 100.0, 0.0)
        encode = self.agent.module.encoder.forward
        self.agent.module.encoder.forward = self._in_half(encode)
        if compiled:
            for part in (self.denoiser.module, self.denoiser.average):
                part.inner_model.unet.compile(dynamic=False)
            for part in (self.reward_end.module, self.reward_end.average):
                part.encoder.compile()
            self.agent.module.encoder.compile(dynamic=False)
        self.experience = experience or Experience(recipe.capacity, shape, device)
        self.t = t = inner.num_steps_conditioning
        k = recipe.autoregressive
        self._segments = self.experience.segments(t + 1 + k, (t - 1, t - 1 + k), t - 1)
        self._rewards = self.experience.segments(t + recipe.reward_horizon + 1, (t - 1, t + recipe.reward_horizon - 1))
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.figures = {name: torch.zeros((), device=device) for name in ("denoiser", "reward", "end", *_AGENT_FIGURES)}
        self.updates, self.windows, self._dreamed_from, self.early = 0, 0, -1, False
        names = "denoiser", "denoiser early", "reward_end", "agent"
        self._chances = {name: Chance(device, 1000 * seed + i) for i, name in enumerate(names)}
        self._random = OutsideRandom(recipe.num_dreams, device)
        self._graphs: dict[str, Graph[None]] = {}

    # What is done, a graph each

    def fit(self, updates: int) -> None:
        """Updates the denoiser, and now and then the reward and end model."""
        for _ in range(updates):
            self.fit_denoiser()
            if self.updates % self.recipe.reward_every == 0:
                self._run("reward_end", self._fit_reward_end)

    def fit_denoiser(self) -> None:
        """Updates the denoiser once."""
        if self.early:
            self._run("denoiser early", partial(self._fit_denoiser, early=True))
        else:
            self._run("denoiser", self._fit_denoiser)
        self.updates += 1

    def record(self, play: Play) -> None:
        """Records all graphs on a play that is forgotten afterwards, with the weights and the optimizers as they were.

        It takes seconds, in which real play can be collected.
        """
        parts = self.denoiser, self.reward_end, self.agent
        self.experience.add(play)
        with self.on_stream():
            for part in parts:
                part.set_lr(0.0)  # no weight moves
        for self.early in (True, False):
            self.fit_denoiser()
        self._run("reward_end", self._fit_reward_end)
        self.imagine(1)
        self.updates, self.windows, self._dreamed_from = 0, 0, 0
        with self.on_stream():
            for part in parts:
                part.forget()
                part.set_lr(1.0)
            for figure in self.figures.values():
                figure.zero_()
        self.experience.forget()

    def imagine(self, windows: int) -> None:
        """Updates the agent on windows of dreams."""
        for _ in range(windows):
            if self.windows % self.recipe.dreams_every == 0:
                self._begin_dreams()
            self._run("agent", self._train_agent)
            self.windows += 1

    def _begin_dreams(self) -> None:
        with self.on_stream():
            if self._dreamed_from < 0:
                settled = ONE_STEP, self.recipe.horizon, self.device, "bfloat16" if self.stream else "float32"
                networks = self.denoiser.average, self.reward_end.average
                dream = Dream(*networks, self.starts(), self.recipe.num_dreams, *settled)
                dream.draw_from(self._random)
                self._imagination = Imagination(self.agent.module, dream, self.seed, self._chances["agent"].uniform)
            else:  # all in place: a graph goes on reading there
                if self._dreamed_from < len(self.experience):
                    self._imagination.dream.replace_starts(self.starts())
                self._imagination.begin()
            self._dreamed_from = len(self.experience)

    def _run(self, name: str, function: Any) -> None:
        chance = self._chances[name]
        if name not in self._graphs:
            self._graphs[name] = Graph(partial(function, chance), self.stream, chance=chance)
        self._graphs[name]()

    def on_stream(self) -> contextlib.AbstractContextManager[Any]:
        """Everything that touches this world's tensors belongs here."""
        return contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def set_lr(self, factor: float, agent: float = 1.0) -> None:
        """Scales the learning rates of the world model, and of the agent."""
        with self.on_stream():
            self.denoiser.set_lr(factor)
            self.reward_end.set_lr(factor)
            self.agent.set_lr(agent)

    # What a graph holds

    def _fit_denoiser(self, chance: Chance, early: bool = False) -> None:
        recipe = self.recipe
        drawn, seen = chance.uniform((3, recipe.batch)), slice(0, self.t + 1 if early else None)
        first, _ = self._segments.draw(drawn, recipe.denoiser_focus, recipe.appearance_focus)
        obs, act, *_ = self.experience.segment(first, self._segments.offsets[seen])
        noise = TrainingNoise.of(recipe.sigma, chance.normal, chance.uniform, recipe.past_noise)
        weight = partial(motion_weight, extra=recipe.motion_weight)
        with self._autocast():
            real = torch.ones_like(act, dtype=torch.bool)
            loss = self.denoiser.module.loss(obs, act, real, noise, pixel_weight=weight)
        self.denoiser.update(loss)
        self.figures["denoiser"].lerp_(loss.detach(), 0.02)

    def predict(self, window: Tensor, act: Tensor, noise: Tensor) -> Tensor:
        """The next frames (B, C, H, W) in one denoising step, from (B, T, C, H, W), (B, T) and standard noise."""
        with self._autocast():
            return predicted(self.denoiser.average, window, act, noise)

    def _fit_reward_end(self, chance: Chance) -> None:
        recipe, t, offsets = self.recipe, self.t, self._rewards.offsets
        first, weight = self._rewards.draw(chance.uniform((3, recipe.reward_batch)), recipe.reward_focus)
        frames, act, rew, end = self.experience.segment(first, offsets)
        batch = TensorBatch(frames, frames[:, 1:], act, rew, end, torch.ones_like(act, dtype=torch.bool))
        noise = chance.normal(frames[:, t:].shape)
        counts = weight[:, None] * (offsets[:-1] >= t - 1)  # what dreams begin with is only for the memory
        with self._autocast():
            obs, next_obs = frames[:, :-1], frames[:, 1:]
            if recipe.reward_dream:
                obs, next_obs = dreamed(self.denoiser.average, batch, t, noise, recipe.reward_dream)
            steps = (part[:, :-1] for part in (rew, end))
            loss_rew, loss_end, *_ = self.reward_end.module.loss(obs, act[:, :-1], next_obs, *steps, counts)
        self.reward_end.update(loss_rew + loss_end)
        self.figures["reward"].lerp_(loss_rew.detach(), 0.02)
        self.figures["end"].lerp_(loss_end.detach(), 0.02)

    def _train_agent(self, chance: Chance) -> None:
        self._random.chance = chance
        with torch.autocast(self.device.type, enabled=False):  # keeps the cast weights from one use to the next
            loss, figures = window_loss(self._imagination.window(self.recipe.horizon), self.recipe.loss)
        self._random.chance = None
        self.agent.update(loss)
        for name in _AGENT_FIGURES:
            self.figures[name].lerp_(figures[f"agent/{name}"], 0.02)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def _in_half(self, encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """An encoder in the arithmetic of the fittings."""

        def encoded(x: Tensor) -> Tensor:
            with self._autocast():
                return encode(x).float()

        return encoded

    def state(self) -> dict[str, Tensor]:
        """The averaged weights and the agent's, by the keys of a model's file, on the CPU."""
        if self.stream is not None:
            self.stream.synchronize()
        model = WorldModel(self.denoiser.average, self.reward_end.average, self.agent.module)
        return {key: value.detach().cpu().contiguous() for key, value in model.weights().items()}

    def read(self) -> dict[str, float]:
        """Running means of the figures; waits for the device."""
        if self.stream is not None:
            self.stream.synchronize()
        return {name: round(float(value), 5) for name, value in self.figures.items()}

    def starts(self) -> Starts:
        """Starts from anywhere in the play, more of them where it is new, a quarter from beginnings of games."""
        n, rng, t, goes_on = (
            self.recipe.num_starts,
            np.random.default_rng([self.seed, self.windows]),
            self.t,
            self.experience.goes_on,
        )
        begins = goes_on & np.concatenate(([True], ~goes_on[:-1]))
        whole = np.convolve(goes_on.astype(np.int64), np.ones(t - 1, np.int64), "valid") == t - 1  # steps i..i+t-2
        first = np.flatnonzero(begins[: len(whole)] & whole)
        first = np.sort(rng.permutation(first)[: n // 4])
        places = np.flatnonzero(whole)
        newest = rng.choice(places[-max(1, len(places) // 3) :], round(self.recipe.recent * (n - len(first))))
        anywhere = np.sort(np.concatenate((newest, rng.choice(places, n - len(first) - len(newest)))))
        chosen = torch.from_numpy(np.concatenate((first, anywhere))).to(self.device)
        where = chosen[:, None] + torch.arange(t, device=self.device)
        obs = self.experience.frames[where].permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()
        return Starts(obs, self.experience.act[where[:, :-1]].cpu().numpy(), np.arange(n) < len(first))
