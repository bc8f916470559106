"""One game's world model and agent in training on a GPU: every update is a CUDA graph, the data lie on the device.

The networks, the preconditioning and the lambda-returns are the package's; only the loop is written for graphs.
Alonso et al. 2024 (arXiv 2405.12399), §3 and appendices.
"""

import contextlib
import copy
import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.experience import Experience
from benchmarks.gpu.graph import Chance, Graph
from diamond_gym.dream import draw_category
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig, quantise
from diamond_gym.networks.preconditioning import SigmaDistribution
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.trainers.actor_critic import ActorCriticLossConfig, lambda_returns
from diamond_gym.trainers.focus import motion_weight
from diamond_gym.trainers.optim import parameter_groups
from diamond_gym.world_model import WorldModel


@dataclass(frozen=True)
class Recipe:
    """How a world is fitted; the sizes are those of the presets `nano`."""

    inner: InnerModelConfig = field(
        default_factory=partial(
            InnerModelConfig,
            cond_channels=128,
            depths=[1, 1, 1],
            channels=[32, 64, 64],
            attn_depths=[0, 0, 0],
            patch_size=2,
        )
    )
    reward_end: RewardEndConfig = field(default_factory=partial(
        RewardEndConfig, lstm_dim=128, cond_channels=64, depths=[1, 1, 1], channels=[32, 32, 32], attn_depths=[0, 0, 0],
        patch_size=4, difference=True,
    ))  # fmt: skip
    agent: ActorCriticConfig = field(default_factory=partial(
        ActorCriticConfig, lstm_dim=256, channels=[16, 32, 32, 16], down=[1, 1, 1, 1]
    ))  # fmt: skip
    residual: bool = True
    """Predict the change of the last frame, else the paper's output."""
    past_noise: str = "none"
    """What is done to the past frames of half of the rows: "none", "gauss" (noise of up to a level, the network is
    not told), "blobs" (blocks of another colour besides) or "told" (noise of which the network is told)."""
    past_noise_level: float = 0.3
    autoregressive: int = 1
    start_focus: float = 0.2
    sigma: SigmaDistribution = field(default_factory=partial(SigmaDistribution, loc=0.4, scale=1.4))
    motion_weight: float = 4.0
    batch: int = 64
    lr: float = 7e-4
    denoiser_focus: float = 0.3
    reward_batch: int = 32
    reward_lr: float = 1e-3
    reward_focus: float = 0.5
    reward_horizon: int = 15
    reward_dream: int = 5
    """Steps of a dream to which the reward and end model is fitted, before it begins from real frames again."""
    reward_every: int = 4
    weight_decay: float = 1e-2
    ema: float = 0.999
    agent_lr: float = 5e-4
    num_dreams: int = 64
    horizon: int = 15
    loss: ActorCriticLossConfig = field(default_factory=lambda: ActorCriticLossConfig(weight_entropy_loss=0.003))
    capacity: int = 200_000


class Trained:
    """A network with its optimizer, its average, and one update in place."""

    def __init__(self, module: nn.Module, lr: float, weight_decay: float, max_norm: float, ema: float) -> None:
        self.module, self._max_norm, self._ema = module, max_norm, ema
        parameters = next(module.parameters())
        on_gpu = parameters.is_cuda
        self.lr = torch.tensor(lr, device=parameters.device)
        self.base_lr = lr
        groups = parameter_groups(module, weight_decay)
        rate: Any = self.lr if on_gpu else lr
        self.optimizer = torch.optim.AdamW(groups, lr=rate, eps=1e-8, fused=on_gpu or None, capturable=on_gpu)
        self.average = copy.deepcopy(module).requires_grad_(False) if ema else module
        self.parameters = list(module.parameters())
        self._averaged = list(self.average.parameters())

    def set_lr(self, factor: float) -> None:
        """Scales the learning rate."""
        self.lr.fill_(self.base_lr * factor)
        if not self.lr.is_cuda:
            for group in self.optimizer.param_groups:
                group["lr"] = self.base_lr * factor

    def update(self, loss: Tensor) -> None:
        """One step of the optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self._max_norm)
        self.optimizer.step()
        if self._ema:
            torch._foreach_lerp_(self._averaged, self.parameters, 1 - self._ema)


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
        told = recipe.past_noise == "told"
        inner = replace(recipe.inner, num_actions=num_actions, img_channels=shape[0], noise_cond=told)
        config = DenoiserConfig(inner, residual=recipe.residual, noise_previous_obs=told)
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
        self.agent = Trained(ActorCritic(replace(recipe.agent, **size)).to(**to), recipe.agent_lr, 0.0, 100.0, 0.0)
        if compiled:
            for part in (self.denoiser.module, self.denoiser.average):
                part.inner_model.unet.compile(dynamic=False)
            for part in (self.reward_end.module, self.reward_end.average):
                part.encoder.compile()
            self.agent.module.encoder.compile(dynamic=False)
        self.t, self.shape = inner.num_steps_conditioning, shape
        self.experience = experience or Experience(recipe.capacity, shape, device)
        t, k = self.t, recipe.autoregressive
        self._segments = self.experience.segments(t + 1 + k, (t - 1, t - 1 + k))
        self._rewards = self.experience.segments(t + recipe.reward_horizon + 1, (t - 1, t + recipe.reward_horizon - 1))
        self._starts = self.experience.segments(t, (0, 0))
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        names = ("denoiser", "reward", "end", "actions", "values", "entropy", "rew", "ends", "returns")
        self.figures = {name: torch.zeros((), device=device) for name in names}
        self.updates, self.reward_updates, self.windows = 0, 0, 0
        self._graphs: dict[str, Graph[None]] = {}

    # What is done, a graph each

    def fit(self, updates: int) -> None:
        """Updates the denoiser, and now and then the reward and end model."""
        for _ in range(updates):
            self.fit_denoiser()
            if self.updates % self.recipe.reward_every == 0:
                self._run("reward_end", self._fit_reward_end)
                self.reward_updates += 1

    def fit_denoiser(self) -> None:
        """Updates the denoiser once."""
        self._run("denoiser", self._fit_denoiser)
        self.updates += 1

    def imagine(self, windows: int) -> None:
        """Updates the agent on windows of dreams."""
        for _ in range(windows):
            self._run("agent", self._train_agent)
            self.windows += 1

    def _run(self, name: str, function: Any) -> None:
        if name not in self._graphs:
            chance = Chance(self.device, 1000 * self.seed + len(self._graphs))
            self._graphs[name] = Graph(partial(function, chance), self.stream, chance=chance)
        self._graphs[name]()

    def on_stream(self) -> contextlib.AbstractContextManager[Any]:
        """Everything that touches this world's tensors belongs here."""
        return contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def set_lr(self, factor: float) -> None:
        """Scales the learning rates of the world model."""
        with self.on_stream():
            self.denoiser.set_lr(factor)
            self.reward_end.set_lr(factor)

    # Denoiser

    def _fit_denoiser(self, chance: Chance) -> None:
        recipe, t = self.recipe, self.t
        first, _ = self._segments.draw(chance.uniform(3, recipe.batch), recipe.denoiser_focus)
        obs = self.experience.images(first, self._segments.offsets)
        act = self.experience.act[first[:, None] + self._segments.offsets]
        denoiser, config = self.denoiser.module, self.denoiser.module.config
        frames, losses = list(obs.unbind(1)), []
        for i in range(1 + recipe.autoregressive):
            window, target = torch.stack(frames[i : i + t], dim=1), frames[i + t]
            past, sigma_cond = self._worsen(window, chance)
            sigma = (chance.normal(len(obs)) * recipe.sigma.scale + recipe.sigma.loc).exp()
            sigma = sigma.clip(recipe.sigma.sigma_min, recipe.sigma.sigma_max)
            offset = config.sigma_offset_noise * chance.normal(*target.shape[:2], 1, 1)
            noisy = target + offset + sigma[:, None, None, None] * chance.normal(*target.shape)
            starts = chance.uniform(len(obs)) < recipe.start_focus
            sigma = torch.where(starts, 5.0, sigma)
            noisy = torch.where(starts[:, None, None, None], chance.normal(*target.shape), noisy)
            cs = denoiser.precondition(sigma)
            with self._autocast():
                output = denoiser.model_output(noisy, cs, past, act[:, i : i + t], sigma_cond)
            base = denoiser.base(noisy, cs, past)
            error = (output.float() - (target - base) / cs.c_out) ** 2
            weight = motion_weight(window, recipe.motion_weight)
            losses.append((error * (weight / weight.mean())).mean())
            frames[i + t] = quantise((base + cs.c_out * output).detach().float(), nearest=config.residual)
        loss = torch.stack(losses).mean()
        self.denoiser.update(loss)
        self.figures["denoiser"].lerp_(loss.detach(), 0.02)

    def _worsen(self, window: Tensor, chance: Chance) -> tuple[Tensor, Tensor | None]:
        """The past frames (B, T, C, H, W) as the recipe shows them, and the noise level told of them."""
        recipe, (b, _, c, h, w) = self.recipe, window.shape
        if recipe.past_noise == "none":
            return window, None
        if recipe.past_noise == "told":
            level = (chance.normal(b) * 1.2 - 3.0).exp().clip(2e-3, 1.0)
            return window + level[:, None, None, None, None] * chance.normal(*window.shape), level
        drawn = chance.uniform(2, b, 1, 1, 1, 1)
        level = recipe.past_noise_level * drawn[0] * (drawn[1] < 0.5)
        past = window + level * chance.normal(*window.shape)
        if recipe.past_noise == "blobs":  # up to a tenth of the blocks of 4x4 pixels, the same in all past frames
            side = -(-h // 4), -(-w // 4)
            odds = 0.1 * chance.uniform(b, 1, 1, 1) * (chance.uniform(b, 1, 1, 1) < 0.3)
            blocks = chance.uniform(b, 1, *side) < odds
            colour = (chance.uniform(b, c, *side) * 2 - 1) * 0.5
            change = F.interpolate(blocks * colour, size=(h, w), mode="nearest")
            past = (past + change[:, None]).clamp(-1, 1)
        return past, None

    def predict(self, window: Tensor, act: Tensor, noise: Tensor, denoiser: Denoiser | None = None) -> Tensor:
        """The next frames (B, C, H, W) in one denoising step, from (B, T, C, H, W), (B, T) and standard noise."""
        denoiser = denoiser or self.denoiser.average
        sigma = torch.full((len(window),), 5.0, device=self.device)
        sigma_cond = torch.full_like(sigma, 5e-3) if self.recipe.past_noise == "told" else None
        with self._autocast():
            return denoiser.condition(window, act, sigma_cond)(noise, sigma).float()

    # Reward and end

    def _fit_reward_end(self, chance: Chance) -> None:
        recipe, t, steps = self.recipe, self.t, self.t + self.recipe.reward_horizon
        first, weight = self._rewards.draw(chance.uniform(3, recipe.reward_batch), recipe.reward_focus)
        frames = self.experience.images(first, self._rewards.offsets)  # steps + 1 of them
        where = first[:, None] + self._rewards.offsets[:steps]
        act, rew, end = (part[where] for part in (self.experience.act, self.experience.rew, self.experience.end))
        obs, next_obs = self._dreamed(frames, act, chance)
        model = self.reward_end.module
        with self._autocast():
            features = self._encode(model, obs, act, next_obs)
        out, _ = model.lstm(features.float())
        logits = model.head(out)[:, t - 1 :].flatten(0, 1)  # what dreams begin with is only for the memory
        rew, end = rew[:, t - 1 :].flatten(), end[:, t - 1 :].flatten()
        weight = (weight / weight.mean())[:, None].expand(-1, steps - t + 1).flatten()
        loss_rew = (F.cross_entropy(logits[:, :3], rew + 1, reduction="none") * weight).mean()
        loss_end = (F.cross_entropy(logits[:, 3:], end, reduction="none") * weight).mean()
        self.reward_end.update(loss_rew + loss_end)
        self.figures["reward"].lerp_(loss_rew.detach(), 0.02)
        self.figures["end"].lerp_(loss_end.detach(), 0.02)

    @torch.no_grad()
    def _dreamed(self, frames: Tensor, act: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
        """obs and next_obs (B, T + H, C, H, W) of which those after the first T are dreamed, from real frames anew."""
        t, length = self.t, self.recipe.reward_dream
        total = self.recipe.reward_horizon + 1  # the last of the first T steps leads to the first dreamed frame
        obs, next_obs = frames[:, :-1].clone(), frames[:, 1:].clone()
        for s in range(0, total, length):
            window = frames[:, s : s + t]
            for i in range(s, min(s + length, total)):
                frame = self.predict(window, act[:, i : i + t], chance.normal(*frames[:, 0].shape))
                next_obs[:, i + t - 1] = frame
                if i + t < obs.shape[1] and i + 1 < min(s + length, total):
                    obs[:, i + t] = frame
                window = torch.cat((window[:, 1:], frame[:, None]), dim=1)
        return obs, next_obs

    @staticmethod
    def _encode(model: RewardEnd, obs: Tensor, act: Tensor, next_obs: Tensor) -> Tensor:
        """Features (B, L, F) of transitions."""
        second = next_obs - obs if model.config.difference else next_obs
        x = model.encoder(torch.cat((obs, second), dim=2).flatten(0, 1), model.act_emb(act.flatten()))
        return x.reshape(*act.shape, -1)  # type: ignore[no-any-return]

    # Agent

    def _train_agent(self, chance: Chance) -> None:
        recipe, b = self.recipe, self.recipe.num_dreams
        agent, model = self.agent.module, self.reward_end.average
        first, _ = self._starts.draw(chance.uniform(3, b), 0.0)
        window = self.experience.images(first, self._starts.offsets)
        act = self.experience.act[first[:, None] + self._starts.offsets]
        hx, cx = agent.initial_state(b, self.device)
        with torch.no_grad(), self._autocast():
            for earlier in window[:, :-1].unbind(1):
                _, _, (hx, cx) = agent(earlier, (hx, cx))
                hx, cx = hx.float(), cx.float()
            features = self._encode(model, window[:, :-1], act[:, :-1], window[:, 1:])
        with torch.no_grad():
            _, memory = model.lstm(features.float())
        alive = torch.ones(b, dtype=torch.bool, device=self.device)
        logits_of, acts, vals, rews, ends, alives = [], [], [], [], [], []
        for _ in range(recipe.horizon):
            with self._autocast():
                logits, val, (hx, cx) = agent(window[:, -1], (hx, cx))
            hx, cx = hx.float(), cx.float()
            with torch.no_grad():
                drawn = chance.uniform(3, b)
                chosen = draw_category(logits.float().softmax(-1), drawn[0])
                act = torch.cat((act[:, :-1], chosen[:, None]), dim=1)
                frame = self.predict(window, act, chance.normal(*window[:, 0].shape))
                with self._autocast():
                    features = self._encode(model, window[:, -1:], chosen[:, None], frame[:, None])
                out, memory = model.lstm(features.float(), memory)
                outcome = model.head(out)[:, 0]
                rew = (draw_category(outcome[:, :3].float().softmax(-1), drawn[1]) - 1).float()
                end = draw_category(outcome[:, 3:].float().softmax(-1), drawn[2]).bool()
                window = torch.cat((window[:, 1:], frame[:, None]), dim=1)
                act = torch.cat((act[:, 1:], torch.zeros_like(act[:, :1])), dim=1)
            for kept, value in ((logits_of, logits), (acts, chosen), (vals, val), (rews, rew), (ends, end)):
                kept.append(value)
            alives.append(alive)
            alive = alive & ~end
        with torch.no_grad(), self._autocast():
            _, last, _ = agent(window[:, -1], (hx, cx))
        val = torch.stack(vals, dim=1)
        rew, end, real = (torch.stack(part, dim=1) for part in (rews, ends, alives))
        trunc = torch.zeros_like(end)
        trunc[:, -1] = True
        bootstrap = torch.cat((val[:, 1:].detach(), last[:, None]), dim=1)
        config = recipe.loss
        returns = lambda_returns(rew, end, trunc, bootstrap, config.gamma, config.lambda_)
        rows = real.flatten().float()  # steps after an end do not count
        parts = actor_critic_parts(torch.stack(logits_of, dim=1), torch.stack(acts, dim=1), val, returns)
        actions, values, entropy = ((part.flatten() * rows).sum() / rows.sum() for part in parts)
        self.agent.update(actions + config.weight_value_loss * values - config.weight_entropy_loss * entropy)
        for name, value in (("actions", actions), ("values", values), ("entropy", entropy),
                            ("rew", (rew * real).sum() / rows.sum()), ("ends", (end & real).sum() / rows.sum()),
                            ("returns", returns.mean())):  # fmt: skip
            self.figures[name].lerp_(value.detach().float(), 0.02)

    def _autocast(self) -> Any:
        on = self.device.type == "cuda"  # without the cache, which would keep what a graph overwrites
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on, cache_enabled=False)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights and the agent's, by the keys of a model's file, on the CPU."""
        if self.stream is not None:
            self.stream.synchronize()
        parts = {"denoiser.": self.denoiser.average, "rew_end_model.": self.reward_end.average,
                 "actor_critic.": self.agent.module}  # fmt: skip
        return {prefix + key: value.detach().cpu().contiguous()
                for prefix, part in parts.items() for key, value in part.state_dict().items()}  # fmt: skip

    def read(self) -> dict[str, float]:
        """Running means of the figures; waits for the device."""
        if self.stream is not None:
            self.stream.synchronize()
        return {name: round(float(value), 5) for name, value in self.figures.items()}


def actor_critic_parts(logits: Tensor, act: Tensor, val: Tensor, returns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Policy loss, squared value error and entropy of each step, (B, T) each."""
    log = logits.log_softmax(-1)
    chosen = log.gather(-1, act[..., None])[..., 0]
    return -chosen * (returns - val).detach(), (val - returns) ** 2, -(log.exp() * log).sum(-1)


def cosine(progress: float, floor: float = 0.05) -> float:
    """The learning rate's factor, from 1 down to the floor."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
