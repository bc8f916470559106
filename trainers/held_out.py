"""Test collections: whole games that nothing learns from, and how well the world model knows them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv

from diamond_gym.data.about import About
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.data.sampling import SegmentSampler
from diamond_gym.data.segments import to_tensors
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.trainers.collect import CollectConfig, Collector
from diamond_gym.trainers.fidelity import detection
from diamond_gym.trainers.policies import AgentPolicy
from diamond_gym.trainers.predictions import dreamed
from diamond_gym.trainers.world_model import WorldModelTrainer

_BATCHES = 8
_STEPS = 50  # of each game between two looks at whether all are over


class HeldOut:
    """The experience of test collections, in a store of its own, and what is measured on it.

    Nothing of it touches the training: neither its experience nor its randomness.

    Args:
        folder: The store's.
        about: The game.
        envs: Makes so many environments of the world, as `Collector` takes them.
        seed: Seeds games, actions and batches.
        known: What the store holds beyond this mark is deleted.
    """

    def __init__(
        self, folder: Path, about: About, envs: Callable[[int], VectorEnv[Any, Any, Any]], seed: int, known: int = 0
    ) -> None:
        self.store = EpisodeStore(folder, "a", about, known)
        self._envs, self._seed = envs, seed

    def close(self) -> None:
        """Lets go of the store."""
        self.store.close()

    def measure(
        self,
        epoch: int,
        fit: WorldModelTrainer,
        agent: ActorCritic,
        episodes: int,
        steps_at_most: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:
        """Plays whole games with the policy sampled and nothing random besides, and measures the model on them.

        Args:
            epoch: Tells one test from another.
            fit: The world model's.
            agent: Plays.
            episodes: How many games, side by side.
            steps_at_most: After so many steps a game is left as it stands.
            stop: Asked now and then whether to leave it; then there are no figures.
        """
        policy = AgentPolicy(agent, episodes, np.random.default_rng([self._seed, epoch, 11]))
        config = CollectConfig(seed=self._seed + 1, life_loss_ends=False)
        with Collector(self.store, self._envs(episodes), config, policy) as collector:
            for played in range(0, steps_at_most, _STEPS):
                collector.collect(episodes * min(_STEPS, steps_at_most - played))
                if stop():
                    return None
                if not np.isnan(collector.first_scores).any():
                    break
        # The first game of each row counts, so that short ones count no more than long ones.
        over = ~np.isnan(collector.first_scores)
        scores = np.where(over, collector.first_scores, collector.scores)
        figures = {"test/score": float(scores.mean()), "test/games_over": float(over.mean())}
        losses = self._losses(epoch, fit, stop)
        return None if losses is None else figures | losses

    @torch.no_grad()
    def _losses(self, epoch: int, fit: WorldModelTrainer, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Losses of the model that is dreamed with, and how well it finds rewards and ends, newest games first.

        Figures that are undefined are left out: a precision where nothing was found, a recall where nothing happened.
        None where `stop` says so.
        """
        config, device = fit.config, fit.device
        model = fit.averaged()
        assert model.reward_end is not None
        rng = np.random.default_rng([self._seed, epoch, 13])
        t = model.denoiser.num_steps_conditioning
        length = t + 1 + config.num_autoregressive_steps
        frames = SegmentSampler(self.store, length, config.denoiser_optimizer.batch_size, False, rng)
        steps = SegmentSampler(self.store, config.reward_end_length, config.reward_end_optimizer.batch_size, True, rng)
        dreams = (config.denoiser.objective or "edm") == "edm" and config.reward_end_length > t
        sums = np.zeros(3)
        real: list[npt.NDArray[Any]] = []
        result: list[npt.NDArray[Any]] = []
        chances: list[npt.NDArray[Any]] = []
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.autocast(device.type, torch.bfloat16, enabled=fit.precision == "bfloat16"),
        ):
            torch.manual_seed(epoch)
            for _ in range(_BATCHES):
                if stop():
                    return None
                batch = to_tensors(frames.sample(), device)
                loss = model.denoiser.loss(batch.obs, batch.act, batch.mask_padding, fit.noise)
                batch = to_tensors(steps.sample(), device, next_obs=True)
                assert batch.next_obs is not None
                obs, act, rew, end, mask = (
                    part[:, :-1] for part in (batch.obs, batch.act, batch.rew, batch.end, batch.mask_padding)
                )
                loss_rew, loss_end, *logits = model.reward_end.loss(obs, act, batch.next_obs, rew, end, mask)
                sums += [float(loss), float(loss_rew), float(loss_end)]
                real.append(torch.stack((rew.sign(), end.float()))[:, mask].cpu().numpy())
                likely = logits[0].argmax(-1) - 1, logits[1].argmax(-1)
                result.append(torch.stack([part.float() for part in likely])[:, mask].cpu().numpy())
                if dreams:
                    noise = torch.randn(*batch.obs[:, t:].shape, device=device)
                    obs, following = dreamed(model.denoiser, batch, t, noise, config.reward_end_length)
                    paid, ended, _ = model.reward_end(obs, act, following)
                    likely = 1 - paid.softmax(-1)[..., 1], ended.softmax(-1)[..., 1]
                    chances.append(torch.stack([part.float() for part in likely])[:, mask].cpu().numpy())
        names = "denoiser_loss", "reward_loss", "end_loss"
        figures = {f"test/{name}": float(value) for name, value in zip(names, sums / _BATCHES, strict=True)}
        reals, founds = np.concatenate(real, axis=1), np.concatenate(result, axis=1)
        for i, name in enumerate(("reward", "end")):
            score = detection(reals[i], founds[i])
            found = {f"test/{name}_precision": score.precision, f"test/{name}_recall": score.recall}
            figures |= {key: value for key, value in found.items() if not np.isnan(value)}
            if dreams:  # how often there is one, and how often the same play dreamed again would have one
                dreamed_rate = float(np.concatenate(chances, axis=1)[i].mean())
                figures |= {
                    f"test/{name}_rate": float((reals[i] != 0).mean()),
                    f"test/dreamed_{name}_rate": dreamed_rate,
                }
        return figures
