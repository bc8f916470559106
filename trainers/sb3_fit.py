"""The training of an agent of Stable-Baselines3, rollout by rollout, for a sitting to do and a run's folder to keep."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, resolve
from diamond_gym.sampler import SamplerConfig
from diamond_gym.sb3_agents import AgentConfig, figures, learn_rollout, make_agent, training_envs
from diamond_gym.sb3_state import agent_state, load_agent_state
from diamond_gym.trainers.processes import ALONE
from diamond_gym.trainers.run_folder import RunFolder
from diamond_gym.trainers.sitting import Rhythm
from diamond_gym.world_model import WorldModel

# A checkpoint of a DQN has its replay buffer in it, 250 MB when full.
RHYTHM = Rhythm(log_steps=500, checkpoint_seconds=300.0)
# What a resumed run may be told differently. Which model it is, its fingerprint says.
_FREE = frozenset({"steps", "device", "precision", "compile", "model"})


def world_of(config: AgentConfig) -> Entry | None:
    """The model whose dreams are meant; None for the real game.

    Raises:
        DiamondGymError: There is no such model, or it is of another game.
    """
    if config.real:
        return None
    entry = resolve(config.model or config.game)
    if entry.card.game != config.game:
        raise BadArgument(f"the model {entry.name} dreams {entry.card.game}, not {config.game}")
    return entry


class SB3Fit:
    """The state of an agent's training, and one rollout of it; a context manager, which closes its environments.

    A training that goes on from a run's checkpoint does the steps that it would have done: in dreams bit for bit, on
    a CPU with the same number of threads and the same precision, which "auto" measures anew. Real games cannot be
    stored: they begin anew. If it goes on with more steps in all than it began with, its algorithm keeps the settings
    it began with, while DQN's exploration falls over the new number of steps.

    Attributes:
        config: What is learnt, and where.
        entry: The model dreamed in; None for the real game.
        settings: What the algorithm is told.
        step: Steps done, over all rows.
        total_steps: Steps wanted.
        seconds: How long they took, over all sittings.
        agent: The agent in training.
        bridge: The dreams or games, single frames (H, W, C).
    """

    processes = ALONE

    def __init__(
        self, config: AgentConfig, run: RunFolder | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        """Begins a training, or goes on with the one in the folder.

        Args:
            config: What to learn, and where.
            run: The folder with its settings and checkpoint, if it is kept in one.
            progress: Called after each step of the batch with the steps so far.

        Raises:
            DiamondGymError: There is no such game or model, or the run was begun with other options.
        """
        self.config, self.total_steps, self._progress = config, config.steps, progress
        self.entry = world_of(config)
        self._envs, self.bridge = training_envs(config)
        with ExitStack() as opened:
            opened.callback(self.close)
            state = None
            if run is not None:
                run.settle(asdict(config) | self._world(), _FREE, self._defaults())
                state = run.load()
            self.settings: dict[str, Any] = config.settings() if state is None else state["settings"]
            self.seconds: float = 0.0 if state is None else state["seconds"]
            self.agent = make_agent(config, self._envs, self.settings)
            if state is not None:
                load_agent_state(self.agent, state["agent"])
            self.step = self.agent.num_timesteps
            opened.pop_all()

    def _world(self) -> dict[str, Any]:
        """What the dreams depend on, as plain data: of the model its networks, but not the agent it may have."""
        if self.entry is None:
            return {}
        model = self.bridge.envs.world_model
        alone = WorldModel(model.denoiser, model.reward_end, upsampler=model.upsampler)
        return {"world_model": alone.fingerprint, "sampler": asdict(self.bridge.envs.dream.sampler)}

    def _defaults(self) -> dict[str, Any]:
        return {} if self.entry is None else {"sampler": asdict(SamplerConfig())}

    def train_step(self) -> dict[str, float | Tensor]:
        """Plays one rollout and learns from it."""
        began = time.monotonic()
        learn_rollout(self.agent, self.total_steps, self._progress)
        self.seconds += time.monotonic() - began
        self.step = self.agent.num_timesteps
        return {**figures(self.agent)}

    def state_dict(self) -> dict[str, Any]:
        """Everything the next rollout depends on, but for the world model."""
        return {"step": self.step, "settings": self.settings, "seconds": self.seconds, "agent": agent_state(self.agent)}

    def close(self) -> None:
        """Lets go of the model, or ends the games."""
        self._envs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
