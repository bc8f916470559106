"""The dreams of DIAMOND's outer loop: each epoch's world model, and which pieces of real play they begin from.

Alonso et al. 2024 (arXiv 2405.12399): algorithm 1, `train_actor_critic`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.starts import Starts
from diamond_gym.trainers.actor_critic import ActorCriticTrainer
from diamond_gym.trainers.batches import sampling_of
from diamond_gym.trainers.diamond_config import DiamondConfig
from diamond_gym.trainers.loop import Loop
from diamond_gym.trainers.run import Means
from diamond_gym.trainers.start_states import replay_starts
from diamond_gym.world_model import WorldModel


class AgentDreams:
    """Trains the agent of a loop, an epoch's windows at a time.

    Dreams begin anew with each epoch, and from other pieces of real play whenever `num_starts` of them have begun: the
    first epoch of the paper has 160,000 dreams.

    Args:
        agent: The agent's training.
        store: The experience.
        config: The whole training.
        seed: Of the dreams, the actions and the starts.
    """

    def __init__(self, agent: ActorCriticTrainer, store: EpisodeStore, config: DiamondConfig, seed: int) -> None:
        self._agent, self._store, self._config, self._seed = agent, store, config, seed
        self._epoch, self._draw = -1, 0  # the epoch in whose world model it dreams, and the draw of starts within it
        self._stored: Mapping[str, Any] | None = None  # of a checkpoint, until the epoch goes on
        self._dreamed_in: WorldModel | None = None

    def train(
        self,
        epoch: int,
        world_model: Callable[[], WorldModel],
        windows: tuple[int, int],
        loop: Loop,
        means: Means,
        progress: Callable[[int], None],
    ) -> bool:
        """Trains the agent to the end of an epoch; returns False where the loop was stopped before.

        Args:
            epoch: Which.
            world_model: Gives what to dream with, a copy; called when the epoch's dreams begin.
            windows: The agent's at the epoch's beginning and end.
            loop: Runs the training.
            means: Takes in the metrics.
            progress: Called after each window with its number.
        """
        begun, target = windows
        # each row begins a dream with every window
        per_draw = -(-self._config.num_starts // self._config.agent.optimizer.batch_size)
        if self._epoch != epoch:
            self._begin(epoch, world_model())
        while self._agent.step < target:
            draw = (self._agent.step - begun) // per_draw
            if draw != self._draw:
                self._draw = draw
                self._agent.dream_on(self._starts())
            if not loop.run(self._agent, min(begun + (draw + 1) * per_draw, target), means, progress):
                return False
        return True

    def _begin(self, epoch: int, model: WorldModel) -> None:
        agent, stored, self._stored = self._agent, self._stored, None
        self._epoch, self._draw = epoch, 0 if stored is None else stored["draw"]
        starts = self._starts()
        if agent.records and self._dreamed_in is not None:  # to record a step takes seconds: it stays
            self._dreamed_in.load_weights(model.weights())
            agent.dream_on(starts)
        else:
            model.starts, self._dreamed_in = starts, model
            model.use_kernels()  # on a CPU, where they are faster
            dream = model.dream(agent.num_dreams, sampler=self._config.sampler, horizon=self._config.agent.horizon)
            agent.dream_in(dream, int(np.random.default_rng([self._seed, epoch, 8]).integers(2**31)))
        if stored is not None and agent.imagination is not None and agent.keeps_dreams:
            agent.imagination.load_state_dict(stored["imagination"])

    def _starts(self) -> Starts:
        """Pieces of real play, of which the newest count most."""
        fit, rng = self._config.fit, np.random.default_rng([self._seed, self._epoch, 7, self._draw])
        t = fit.denoiser.inner_model.num_steps_conditioning
        return replay_starts(self._store, t, self._config.num_starts, rng, **sampling_of(fit))

    def state_dict(self, epoch: int) -> dict[str, Any] | None:
        """What the dreams of an epoch go on from; None where they have not begun, or begin anew from a checkpoint."""
        if self._epoch != epoch or self._agent.imagination is None or not self._agent.keeps_dreams:
            return None
        return {"draw": self._draw, "imagination": self._agent.imagination.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Goes back to a state when the epoch goes on."""
        self._stored = state
