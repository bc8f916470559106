"""Stable-Baselines3's agents: trained in dreams or games, scored, registered."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, resolve, with_agent_file
from diamond_gym.registry import game as find_game
from diamond_gym.trainers.evaluate import Scores, play, real_games
from diamond_gym.trainers.loop import Rhythm, train
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.sb3_agents import (
    AgentConfig,
    figures,
    learn_rollout,
    make_agent,
    recent_return,
    training_envs,
)
from diamond_gym.trainers.sb3_files import AgentCard, SavedAgent, open_agent, packed, save_agent
from diamond_gym.trainers.sb3_state import agent_state, load_agent_state
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


class SB3Trainer:
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
                run.settle(asdict(config) | self._world(), _FREE)
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


_TOLD = ("algo", "steps", "seconds", "seed", "frame_stack", "quality", "max_episode_steps", "settings")  # by a card


@dataclass(frozen=True)
class AgentTraining:
    """How a training went.

    Attributes:
        reason: "steps" when all are done, "minutes" when time was up, "interrupted" after Ctrl-C.
        steps: Steps done, over all rows and sittings.
        seconds: How long they took.
        recent_return: Mean return of the last hundred training episodes, if any has ended.
        card: What was written into the agent's file.
    """

    reason: str
    steps: int
    seconds: float
    recent_return: float | None
    card: AgentCard


def train_agent(
    config: AgentConfig,
    out: Path,
    minutes: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> AgentTraining:
    """Trains an agent in one sitting and saves it, also where Ctrl-C or the time ends the training early.

    Both end it after the rollout in hand. Nothing else is kept: a training that can go on another time is an
    `SB3Trainer`
    with a run's folder.

    Args:
        config: What to learn, and where.
        out: The .zip to write.
        minutes: Time limit of the training.
        progress: Called after each step of the batch with the steps so far.

    Raises:
        DiamondGymError: There is no such game or model, the model is of another game, or `out` cannot be
            written.
    """
    if out.suffix != ".zip" or out.is_dir():
        raise BadArgument(f"an agent is saved as a .zip, not as {out}")
    out.parent.mkdir(parents=True, exist_ok=True)  # better now than after hours
    with SB3Trainer(config, progress=progress) as fit:
        return save_training(fit, out, train(fit, None, minutes, RHYTHM).reason)


def save_training(fit: SB3Trainer, out: Path, reason: str) -> AgentTraining:
    """Writes the agent as it is by now, with its card.

    Args:
        fit: The training.
        out: The .zip to write.
        reason: Why it ended, see `AgentTraining`.
    """
    config, space = fit.config, fit.bridge.observation_space
    card = AgentCard(
        game=config.game,
        algo=config.algo,
        trained_in="real" if config.real else "dream",
        model="" if fit.entry is None else fit.entry.name,
        model_sha256="" if fit.entry is None else fit.entry.card.files["weights"].sha256,
        obs_shape=tuple(space.shape or ()),  # type: ignore[arg-type]
        num_actions=int(fit.bridge.action_space.n),  # type: ignore[attr-defined]
        frame_stack=config.frame_stack,
        steps=fit.step,
        seconds=round(fit.seconds, 1),
        seed=config.seed,
        quality=None if config.real else config.quality,
        max_episode_steps=None if config.real else config.max_episode_steps,
        settings=fit.settings,
    )
    save_agent(fit.agent, out, card)
    return AgentTraining(reason, fit.step, fit.seconds, recent_return(fit.agent), card)


def register_file(entry: Entry, path: Path) -> Entry:
    """Registers a model together with a saved agent as its own, made as small as it can be; `path` stays as it is.

    Raises:
        DiamondGymError: The agent cannot be opened, cannot play the model's game, or did not learn in this model's
            dreams.
    """
    saved, card = open_agent(path, "cpu"), entry.card
    saved.check(card.game, card.obs_shape, card.num_actions)
    if saved.card is None or saved.card.model_sha256 != card.files["weights"].sha256:
        raise BadArgument(f"{path} was not trained in the dreams of {entry.name} as it is now")
    told = asdict(saved.card)
    facts = {key: told[key] for key in _TOLD if told[key] is not None}
    return with_agent_file(entry, packed(path), facts)


def score_agent(
    agent: SavedAgent,
    game: str,
    episodes: int,
    num_envs: int = 10,
    seed: int = 0,
    deterministic: bool = False,
    max_episode_steps: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Scores an agent over full real games.

    Args:
        agent: Opened by `open_agent`.
        game: One of the 26.
        episodes: How many games.
        num_envs: How many of them side by side.
        seed: Of games and actions.
        deterministic: Whether to take the likeliest action; sampling, as the paper tests, is the default.
        max_episode_steps: Cuts longer games; None for ALE's own half hour of play.
        progress: Called with the number of finished games.

    Raises:
        BadArgument: The agent is of another game, sees other frames or has other actions.
    """
    rows = min(num_envs, episodes)
    envs = real_games(game, rows, max_episode_steps)
    try:
        agent.check(game, envs.single_observation_space.shape or (), find_game(game).num_actions)
        with torch.random.fork_rng():  # seeded, without touching the caller's stream
            torch.manual_seed(seed)
            return play(agent.playing(rows, deterministic, seed), envs, game, episodes, seed, progress)
    finally:
        envs.close()
