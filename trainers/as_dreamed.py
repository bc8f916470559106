"""A real game as a world model learns it, for Stable-Baselines3's agents that learn in the game for comparison."""

import numpy as np
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class AsDreamed(VecEnvWrapper):
    """A game as world models learn it: rewards are signs, and the loss of a life is an end.

    The game itself goes on after the loss of a life; the next episode begins with the frame in which it happened.
    """

    def reset(self) -> VecEnvObs:
        """Begins new games."""
        obs = self.venv.reset()
        self._lives = np.array([info.get("lives", 0) for info in self.unwrapped.reset_infos])
        return obs

    def step_wait(self) -> VecEnvStepReturn:
        """Plays the step."""
        obs, rewards, dones, infos = self.venv.step_wait()
        assert isinstance(obs, np.ndarray)
        lives = np.array([info.get("lives", 0) for info in infos])
        lost = (lives < self._lives) & ~dones
        for row in np.flatnonzero(lost):
            infos[row]["terminal_observation"] = obs[row].copy()
        # where a game has ended, info is of its end, and the new game's is in reset_infos
        self._lives = np.where(dones, [info.get("lives", 0) for info in self.unwrapped.reset_infos], lives)
        return obs, np.sign(rewards).astype(np.float32), dones | lost, infos
