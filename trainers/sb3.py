"""Trainings of Stable-Baselines3's agents in dreams or in real games."""

import io
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecMonitor
from torch import Tensor

from diamond_gym.action_spaces import codec_of_space
from diamond_gym.envs.checks import open_model
from diamond_gym.errors import BadArgument
from diamond_gym.registry import Entry, resolve
from diamond_gym.registry.loading import Precision
from diamond_gym.sb3 import DreamVecEnv, make_dream_vec_env
from diamond_gym.schema import check_least
from diamond_gym.trainers.as_dreamed import AsDreamed
from diamond_gym.trainers.loop import Rhythm
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.sb3_files import AgentCard, save_agent
from diamond_gym.trainers.start_states import recorded_starts
from diamond_gym.trainers.worlds import check_rewarded, find_world
from diamond_gym.world_model import WorldModel

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "sac": SAC}
_TAKES = {"dqn": ("discrete", "numbered actions"), "sac": ("box", "numbers within bounds (Box)")}  # the others take all
RHYTHM = Rhythm(log_steps=500, checkpoint_seconds=600.0)  # a DQN's checkpoint holds its replay buffer, up to 2 GB
_REPLAY = 80_000  # frames in that buffer, before and after a step: 2 GB of 64x64
_FREE = frozenset({"steps", "device", "precision", "compile", "model"})  # what a resumed run may change
_LEAST_SIDE = 36  # of the frames that the Nature CNN, SB3's default for images, can take


@dataclass(frozen=True)
class AgentConfig:
    """What an agent learns, and where.

    Attributes:
        game: The game's name.
        algo: The algorithm.
        model: A world model's name or folder; None for the one that the game's id means.
        steps: Steps of training, over all rows.
        n_envs: Dreams or games side by side.
        seed: Of networks, dreams and actions.
        frame_stack: How many frames the agent sees at once.
        real: Whether to learn in the real game instead of dreams.
        max_episode_steps: The dreams' horizon, -1 to dream on.
        quality: How carefully frames are sampled; None for the model's own way.
        device: Of the world model and the agent.
        precision: Of the world model: "auto" (measured), "float32" or "bfloat16".
        compile: Whether to compile the world model.
        env: Of `real`, the id of the environment where it is no game of Atari; `size` and `render_obs` as those of
            `worlds.find_world`.
        data: Of dreams, the folder of recordings to begin from; None for the model's own starts.
    """

    game: str
    algo: Literal["ppo", "a2c", "dqn", "sac"] = "ppo"
    model: str | None = None
    steps: int = 100_000
    n_envs: int = 16
    seed: int = 0
    frame_stack: int = 4
    real: bool = False
    max_episode_steps: int = 50
    quality: str | None = None
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    env: str | None = None
    size: tuple[int, int] | None = None
    render_obs: bool | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        check_least(self, steps=1, n_envs=1, frame_stack=1, seed=0)

    def settings(self) -> dict[str, Any]:
        """The algorithm's hyperparameters, meant for budgets of ten thousand to a million steps."""
        if self.algo == "ppo":
            # a small budget gets shorter rollouts, so that it has some ten of them all the same
            rollout = min(128, max(8, self.steps // (10 * self.n_envs) // 8 * 8))
            return {
                "n_steps": rollout, "batch_size": max(2, rollout * self.n_envs // 8), "n_epochs": 4,
                "learning_rate": 4e-4, "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.2, "ent_coef": 0.01,
            }  # fmt: skip
        if self.algo == "a2c":
            return {"n_steps": 8, "learning_rate": 7e-4, "gamma": 0.99, "gae_lambda": 0.95, "ent_coef": 0.01}
        replay = {
            "train_freq": 1, "gradient_steps": max(1, self.n_envs // 2), "gamma": 0.98,
            "buffer_size": max(self.n_envs, min(self.steps, _REPLAY // self.frame_stack)),
        }  # fmt: skip
        if self.algo == "sac":
            return replay | {"batch_size": 64, "learning_starts": min(1_000, self.steps // 10), "learning_rate": 3e-4}
        return replay | {
            # an update every two steps and returns of ten, for few steps (as in van Hasselt et al. 2019, 1906.05243)
            "n_steps": 10, "learning_starts": min(3_000, self.steps // 10), "target_update_interval": 2_000,
            "exploration_fraction": 0.25, "exploration_final_eps": 0.02, "learning_rate": 2e-4,
        }  # fmt: skip


def training_envs(config: AgentConfig) -> tuple[VecEnv, DreamVecEnv]:
    """The dreams or games to learn in, frames stacked (H, W, C × frame_stack), and the bridge to SB3 beneath.

    Raises:
        DiamondGymError: There is no such game or model.
    """
    if config.real:
        world = find_world(None if config.env else config.game, config.env, None, config.size, bool(config.render_obs))
        bridge = DreamVecEnv(world.envs(config.n_envs, AutoresetMode.SAME_STEP))  # type: ignore[arg-type]  # the same keys
    else:
        which: dict[str, Any] = {"id": f"DiamondDream-{config.game}-v0"}
        if config.model is not None:
            which = {"id": "DiamondDream-v0", "model": config.model}
        same = ("n_envs", "device", "precision", "compile", "quality", "max_episode_steps")
        how = {name: getattr(config, name) for name in same}
        if config.data is not None:
            which = {"id": "DiamondDream-v0", "model": _dreams_of_recordings(config, Path(config.data))}
            how["compile"] = False  # which it is by now, if it is to be
        bridge = make_dream_vec_env(**which, **how)
    envs: VecEnv = VecFrameStack(bridge, config.frame_stack) if config.frame_stack > 1 else bridge
    if config.real:  # above the stack, which a lost life does not clear, as in the games that score agents
        envs = AsDreamed(envs)
    return VecMonitor(envs), bridge


def _dreams_of_recordings(config: AgentConfig, folder: Path) -> WorldModel:
    """The world model, with starts from recordings instead of its own."""
    model, _ = open_model(None, config.model or config.game, config.device, config.precision, config.compile)
    model.starts = recorded_starts(model, folder)
    if config.precision == "auto":
        model.settle_precision(config.n_envs)
    return model


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

    def __init__(self, config: AgentConfig, run: RunFolder) -> None:
        """Begins a training, or resumes the one in the folder `run`.

        Raises:
            DiamondGymError: There is no such game or model, or the run was begun with other options.
        """
        self.config, self.total_steps = config, config.steps
        self.entry: Entry | None = None
        if not config.real:
            self.entry = entry = resolve(config.model or config.game)
            entry.card.check_game(config.game)
            check_rewarded(entry)
        self.seconds = 0.0
        self._envs, self.bridge = training_envs(config)
        self._codec, (kind, takes) = codec_of_space(self.bridge.action_space), _TAKES.get(config.algo, ("", ""))
        height, width, _ = self._envs.observation_space.shape or ()
        if min(height, width) < _LEAST_SIDE:
            larger = f"train a world model with --size {_LEAST_SIDE} or more"
            raise BadArgument(
                f"Stable-Baselines3's networks see frames of at least {_LEAST_SIDE}x{_LEAST_SIDE} pixels, not "
                f"{height}x{width}: {larger if self._codec.is_vector else 'train with --algo diamond'}"
            )
        if kind and self._codec.kind != kind:
            raise BadArgument(
                f"--algo {config.algo} takes {takes}, and the actions of {config.game} are {self._codec.space}: "
                "train with --algo ppo"
            )
        settings = asdict(config)
        if self.entry is not None:  # not the agent that the model may have by now
            model = self.bridge.envs.world_model
            dreamed_in = WorldModel(model.denoiser, model.reward_end, upsampler=model.upsampler)
            settings["world_model"] = dreamed_in.fingerprint
        run.settle(settings, _FREE)
        self.agent = self._agent(run)
        self.agent.set_logger(Logger(None, []))  # its own would leave a folder in the system's temporary one
        self.step = self.agent.num_timesteps

    def _agent(self, run: RunFolder) -> BaseAlgorithm:
        """A new agent, with SB3's convolutions for images, or the one of the run's checkpoint."""
        config, algorithm = self.config, ALGORITHMS[self.config.algo]
        if (state := run.load()) is None:
            self.settings = config.settings()
            return algorithm("CnnPolicy", self._envs, seed=config.seed, device=config.device, **self.settings)
        with run.resuming():
            self.settings, self.seconds = state["settings"], state["seconds"]
            usual = {"replay_buffer_class": None}  # chosen anew, as at the beginning
            agent = algorithm.load(io.BytesIO(state["agent"].numpy()), self._envs, config.device, custom_objects=usual)
            if isinstance(agent, OffPolicyAlgorithm):
                agent.load_replay_buffer(io.BytesIO(state["replay"].numpy()))
                _part(agent)
        agent.set_random_seed(config.seed + agent.num_timesteps)
        return agent

    def train_step(self) -> dict[str, float | Tensor]:
        """Plays one rollout (of PPO and A2C `n_steps` steps of the batch, of DQN one) and learns from it."""
        began = time.monotonic()
        with suppress(_RolloutDone):
            left = self.total_steps - self.agent.num_timesteps  # schedules run over all steps
            self.agent.learn(left, callback=_OneRollout(), log_interval=sys.maxsize, reset_num_timesteps=False)
        self.seconds += time.monotonic() - began
        self.step = self.agent.num_timesteps
        logged = self.agent.logger.name_to_value
        figures = {f"agent/{k.rpartition('/')[2]}": float(v) for k, v in logged.items() if k.endswith("loss")}
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
        agent = _bytes(self.agent.save)
        state = {"step": self.step, "settings": self.settings, "seconds": self.seconds, "agent": agent}
        if isinstance(self.agent, OffPolicyAlgorithm):
            state["replay"] = _bytes(self.agent.save_replay_buffer)
        return state

    def save(self, out: Path) -> AgentCard:
        """Writes the agent as it is by now to a .zip, with the card that is returned."""
        config, entry, real = self.config, self.entry, self.config.real
        card = AgentCard(
            game=config.game,
            algo=config.algo,
            trained_in="real" if real else "dream",
            model="" if entry is None else entry.name,
            model_sha256="" if entry is None else entry.card.files["weights"].sha256,
            obs_shape=self.bridge.observation_space.shape,  # type: ignore[arg-type]
            num_actions=self._codec.num_inputs,
            actions=self._codec.table,
            frame_stack=config.frame_stack,
            steps=self.step,
            seconds=round(self.seconds, 1),
            seed=config.seed,
            quality=None if real else config.quality,
            max_episode_steps=None if real else config.max_episode_steps,
            settings=self.settings,
            data=config.data and Path(config.data).name,
        )
        save_agent(self.agent, out, card)
        return card

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._envs.close()


def _part(agent: OffPolicyAlgorithm) -> None:
    """Marks the last stored steps as truncated, as dreams begin anew: a return of n steps would run into others."""
    buffer = agent.replay_buffer
    if isinstance(buffer, ReplayBuffer):
        last = buffer.pos - 1
        buffer.timeouts[last] = np.logical_or(buffer.timeouts[last], buffer.dones[last] == 0)


def _bytes(save: Callable[[io.BytesIO], None]) -> Tensor:
    save(file := io.BytesIO())
    return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)


class _RolloutDone(Exception):
    """A second rollout would begin."""


class _OneRollout(BaseCallback):
    """Ends the training where a second rollout would begin, when all that was played has been learnt from."""

    _begun = False

    def _on_rollout_start(self) -> None:
        if self._begun:
            raise _RolloutDone
        self._begun = True

    def _on_step(self) -> bool:
        return True
