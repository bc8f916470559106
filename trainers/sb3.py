"""Trainings of Stable-Baselines3's agents: trained, saved, registered and scored."""

import io
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch import Tensor

from diamond_gym.errors import BadArgument, DamagedModel
from diamond_gym.registry import Entry, resolve, with_agent_file
from diamond_gym.registry import game as find_game
from diamond_gym.trainers.evaluate import Scores, play, real_games
from diamond_gym.trainers.loop import Rhythm
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.sb3_agents import ALGORITHMS, AgentConfig, training_envs
from diamond_gym.trainers.sb3_files import AgentCard, SavedAgent, open_agent, packed, save_agent
from diamond_gym.world_model import WorldModel

RHYTHM = Rhythm(log_steps=500, checkpoint_seconds=600.0)  # a DQN's checkpoint holds its replay buffer, up to 2 GB
_FREE = frozenset({"steps", "device", "precision", "compile", "model"})  # what a resumed run may change
_LEAST_SIDE = 36  # of the frames that the Nature CNN, SB3's default for images, can take


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
    """The training of an agent, a rollout a step; a context manager, which closes its environments.

    A resumed run has the agent, its optimizer and DQN's replay buffer as SB3 saves them. It is not equal to the bit
    to a run that was left alone: dreams, games and random streams begin anew.

    Attributes:
        config: What is learnt, and where.
        entry: The model dreamed in; None for the real game.
        settings: The algorithm's hyperparameters.
        step: Steps done, over all rows.
        total_steps: Steps wanted.
        seconds: How long they took, over all parts of the run.
        agent: The agent in training.
        bridge: The dreams or games, single frames (H, W, C).
    """

    def __init__(
        self, config: AgentConfig, run: RunFolder | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        """Begins a training, or resumes the one in the folder.

        Args:
            config: What to learn, and where.
            run: The folder with its settings and checkpoint, if it is kept in one.
            progress: Called after each step of the batch with the steps so far.

        Raises:
            DiamondGymError: There is no such game or model, or the run was begun with other options.
        """
        self.config, self.total_steps, self._progress = config, config.steps, progress
        self.entry, self.seconds = world_of(config), 0.0
        self._envs, self.bridge = training_envs(config)
        with ExitStack() as opened:
            opened.callback(self.close)
            height, width, _ = self._envs.observation_space.shape or ()
            if min(height, width) < _LEAST_SIDE:
                raise BadArgument(
                    f"Stable-Baselines3's networks see frames of at least {_LEAST_SIDE}x{_LEAST_SIDE} pixels, "
                    f"not {height}x{width}: train with --algo diamond"
                )
            if run is not None:
                run.settle(asdict(config) | self._world(), _FREE)
            self.agent = self._agent(None if run is None else run.load())
            self.agent.set_logger(Logger(None, []))  # its own would leave a folder in the system's temporary one
            self.step = self.agent.num_timesteps
            opened.pop_all()

    def _world(self) -> dict[str, Any]:
        """What the dreams depend on, as plain data: the model's networks, but not the agent it may have by now."""
        if self.entry is None:
            return {}
        model = self.bridge.envs.world_model
        return {"world_model": WorldModel(model.denoiser, model.reward_end, upsampler=model.upsampler).fingerprint}

    def _agent(self, state: dict[str, Any] | None) -> BaseAlgorithm:
        """A new agent, with SB3's convolutions for images, or the one of a checkpoint."""
        config, algorithm = self.config, ALGORITHMS[self.config.algo]
        if state is None:
            self.settings = config.settings()
            return algorithm("CnnPolicy", self._envs, seed=config.seed, device=config.device, **self.settings)
        try:
            self.settings, self.seconds = state["settings"], state["seconds"]
            usual = {"replay_buffer_class": None}  # chosen anew, as at the beginning
            agent = algorithm.load(_file(state["agent"]), self._envs, config.device, custom_objects=usual)
            if isinstance(agent, DQN):
                agent.load_replay_buffer(_file(state["replay"]))
        except KeyError as error:
            raise DamagedModel(
                f"the checkpoint of this run has no {error}; begin the run anew in another --run"
            ) from None
        agent.set_random_seed(config.seed + agent.num_timesteps)
        return agent

    def train_step(self) -> dict[str, float | Tensor]:
        """Plays one rollout (of PPO and A2C `n_steps` steps of the batch, of DQN one) and learns from it."""
        began = time.monotonic()
        with suppress(_RolloutDone):
            left = self.total_steps - self.agent.num_timesteps  # schedules run over all steps
            once = _OneRollout(self._progress)
            self.agent.learn(left, callback=once, log_interval=sys.maxsize, reset_num_timesteps=False)
        self.seconds += time.monotonic() - began
        self.step = self.agent.num_timesteps
        losses = {name: value for name, value in self.agent.logger.name_to_value.items() if name.endswith("loss")}
        figures = {f"agent/{name.rpartition('/')[2]}": float(value) for name, value in losses.items()}
        if isinstance(self.agent, DQN):
            figures["agent/exploration_rate"] = float(self.agent.exploration_rate)
        mean = self.recent_return
        return {**figures} if mean is None else {"agent/return": mean, **figures}

    @property
    def recent_return(self) -> float | None:
        """The mean return of the last hundred training episodes; None before the first has ended."""
        returns = [float(episode["r"]) for episode in self.agent.ep_info_buffer or ()]
        return sum(returns) / len(returns) if returns else None

    def state_dict(self) -> dict[str, Any]:
        """The agent and the replay buffer as SB3 saves them. They hold pickles: resume none but your own runs."""
        state = {
            "step": self.step,
            "settings": self.settings,
            "seconds": self.seconds,
            "agent": _bytes(self.agent.save),
        }
        if isinstance(self.agent, DQN):
            state["replay"] = _bytes(self.agent.save_replay_buffer)
        return state

    def save(self, out: Path) -> AgentCard:
        """Writes the agent as it is by now to a .zip, with the card that is returned."""
        config, space, entry = self.config, self.bridge.observation_space, self.entry
        card = AgentCard(
            game=config.game,
            algo=config.algo,
            trained_in="real" if config.real else "dream",
            model="" if entry is None else entry.name,
            model_sha256="" if entry is None else entry.card.files["weights"].sha256,
            obs_shape=tuple(space.shape or ()),  # type: ignore[arg-type]
            num_actions=int(self.bridge.action_space.n),  # type: ignore[attr-defined]
            frame_stack=config.frame_stack,
            steps=self.step,
            seconds=round(self.seconds, 1),
            seed=config.seed,
            quality=None if config.real else config.quality,
            max_episode_steps=None if config.real else config.max_episode_steps,
            settings=self.settings,
        )
        save_agent(self.agent, out, card)
        return card

    def close(self) -> None:
        """Lets go of the model, or ends the games."""
        self._envs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _bytes(save: Callable[[io.BytesIO], None]) -> Tensor:
    file = io.BytesIO()
    save(file)
    return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)


def _file(content: Tensor) -> io.BytesIO:
    return io.BytesIO(content.numpy().tobytes())


class _RolloutDone(Exception):
    """A second rollout would begin."""


class _OneRollout(BaseCallback):
    """Ends the training where a second rollout would begin, when all that was played has been learnt from."""

    def __init__(self, progress: Callable[[int], None] | None) -> None:
        super().__init__()
        self._progress, self._begun = progress, False

    def _on_rollout_start(self) -> None:
        if self._begun:
            raise _RolloutDone
        self._begun = True

    def _on_step(self) -> bool:
        if self._progress is not None:
            self._progress(self.num_timesteps)
        return True


_FACTS = ("algo", "steps", "seconds", "seed", "frame_stack", "quality", "max_episode_steps", "settings")


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
    facts = asdict(saved.card)
    return with_agent_file(entry, packed(path), {key: facts[key] for key in _FACTS if facts[key] is not None})


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
