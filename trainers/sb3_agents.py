"""What an agent of Stable-Baselines3 learns, and the dreams or real games it learns in."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecMonitor

from diamond_gym.envs.atari import RealVectorEnv
from diamond_gym.errors import BadArgument
from diamond_gym.sb3 import DreamVecEnv, make_dream_vec_env

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN}
_REPLAY = 80_000  # frames in DQN's replay buffer, before and after a step: 2 GB of 64x64
Step = tuple[npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.bool_], list[dict[str, Any]]]


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
    """

    game: str
    algo: Literal["ppo", "a2c", "dqn"] = "ppo"
    model: str | None = None
    steps: int = 100_000
    n_envs: int = 16
    seed: int = 0
    frame_stack: int = 4
    real: bool = False
    max_episode_steps: int = 50
    quality: str | None = None
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuses what makes no sense, in one line."""
        if self.algo not in ALGORITHMS:
            raise BadArgument(f"algo must be one of {', '.join(ALGORITHMS)}, not {self.algo!r}")
        for name in ("steps", "n_envs", "frame_stack"):
            if getattr(self, name) < 1:
                raise BadArgument(f"{name} must be at least 1, not {getattr(self, name)}")

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
        return {
            # an update every two steps and returns of ten, for few steps (as in van Hasselt et al. 2019, 1906.05243)
            "train_freq": 1, "gradient_steps": max(1, self.n_envs // 2), "n_steps": 10, "gamma": 0.98,
            "buffer_size": max(self.n_envs, min(self.steps, _REPLAY // self.frame_stack)),
            "learning_starts": min(3_000, self.steps // 10), "target_update_interval": 2_000,
            "exploration_fraction": 0.25, "exploration_final_eps": 0.02, "learning_rate": 2e-4,
        }  # fmt: skip


class AsDreamed(VecEnvWrapper):
    """A game as world models learn it: rewards are signs, and the loss of a life is an end.

    The game itself goes on after the loss of a life; the next episode begins with the frame in which it happened.
    """

    def reset(self) -> npt.NDArray[Any]:
        """Begins new games."""
        obs = self.venv.reset()
        self._lives = np.array([info["lives"] for info in self.venv.reset_infos])
        assert isinstance(obs, np.ndarray)
        return obs

    def step_wait(self) -> Step:
        """Plays the step."""
        obs, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(obs, np.ndarray)
        lives = np.array([info["lives"] for info in infos])
        lost = (lives < self._lives) & ~dones
        for row in np.flatnonzero(lost):
            infos[row]["terminal_observation"] = obs[row].copy()
        # where a game has ended, info is of its end, and the new game's is in reset_infos
        self._lives = np.where(dones, [info.get("lives", 0) for info in self.venv.reset_infos], lives)
        return obs, np.sign(rewards).astype(np.float32), dones | lost, infos


def training_envs(config: AgentConfig) -> tuple[VecEnv, DreamVecEnv]:
    """The dreams or games to learn in, frames stacked (H, W, C × frame_stack), and the bridge to SB3 beneath.

    Raises:
        DiamondGymError: There is no such game or model.
    """
    if config.real:
        games = RealVectorEnv(game=config.game, num_envs=config.n_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        bridge = DreamVecEnv(games)  # type: ignore[arg-type]  # both are vector environments with the same keys
        envs: VecEnv = AsDreamed(bridge)
    else:
        which: dict[str, Any] = {"id": f"DiamondDream-{config.game}-v0"}
        if config.model is not None:
            which = {"id": "DiamondDream-v0", "model": config.model}
        same = ("n_envs", "device", "precision", "compile", "quality", "max_episode_steps")
        bridge = envs = make_dream_vec_env(**which, **{name: getattr(config, name) for name in same})
    envs = VecMonitor(envs)
    return (VecFrameStack(envs, config.frame_stack) if config.frame_stack > 1 else envs), bridge
