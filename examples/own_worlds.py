"""Two worlds of one's own, one steered by numbers and one by buttons: from the environment to an agent of its dreams.

Each is recorded by random play, checked, learned, dreamed in by PPO, and then PPO is scored in the environment itself
beside random play. An agent goes where random play never was, and there the dream is a guess that it learns to exploit;
so in further rounds what it does in the environment is recorded as well, the world model learns on, and a new agent is
trained. `python examples/own_worlds.py` does all of it for both; the commands it runs are printed.
"""

import shlex
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.utils.env_checker import check_env

from diamond_gym import cli, register_ids
from diamond_gym.registry import home_folder

Pixels = npt.NDArray[np.uint8]


class _Ground(gym.Env[Pixels, Any]):
    """A player on a ground of some pixels, who has to be near a mark; each step there pays 1."""

    height, width, channels, steps = 40, 40, 3, 60
    near = 7.0  # pixels between the centres that count as being there

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (self.height, self.width, self.channels), np.uint8)
        self._low, self._high = np.array([4.0, 4.0]), np.array([self.height - 4.0, self.width - 4.0])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Pixels, dict[str, Any]]:
        """Puts player and mark somewhere."""
        super().reset(seed=seed)
        self._player, self._mark = self.np_random.uniform(self._low + 4, self._high - 4, (2, 2))
        self._speed, self._drift, self._t = np.zeros(2), self.np_random.choice([-0.7, 0.7], 2), 0
        return self._frame(), {}

    def _outcome(self, over: bool) -> tuple[Pixels, float, bool, bool, dict[str, Any]]:
        self._t += 1
        there = float(np.linalg.norm(self._player - self._mark) < self.near)
        return self._frame(), -1.0 if over else there, over, self._t >= self.steps, {}

    def _frame(self) -> Pixels:
        image = np.full((self.height, self.width, 3), (20, 20, 60), np.uint8)
        for place, colour, half in ((self._mark, (230, 60, 60), 4), (self._player, (120, 255, 120), 3)):
            y, x = np.round(place).astype(int)
            image[max(0, y - half) : y + half, max(0, x - half) : x + half] = colour
        return image if self.channels == 3 else image.max(-1, keepdims=True)


class Chase(_Ground):
    """The mark drifts and bounces; two numbers from -1 to 1 move the player by up to 2.5 pixels down and right."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,))

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Pixels, float, bool, bool, dict[str, Any]]:
        """Moves the player, and the mark on its way."""
        self._player = np.clip(self._player + 2.5 * np.asarray(action, np.float64), self._low, self._high)
        self._mark = self._mark + self._drift
        self._drift = np.where((self._mark < self._low) | (self._mark > self._high), -self._drift, self._drift)
        return self._outcome(False)


class Thrust(_Ground):
    """Four buttons push the player down, up, right and left; the mark stands, and a wall ends the game with -1.

    Grey frames of 36x48 pixels, and a player with momentum.
    """

    height, width, channels = 36, 48, 1

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.MultiBinary(4)

    def step(self, action: npt.NDArray[np.int8]) -> tuple[Pixels, float, bool, bool, dict[str, Any]]:
        """Pushes the player."""
        down, up, right, left = np.asarray(action, np.float64)
        self._speed = 0.7 * self._speed + 0.9 * np.array([down - up, right - left])
        self._player = self._player + self._speed
        over = bool((self._player < self._low).any() or (self._player > self._high).any())
        return self._outcome(over)


for world in (Chase, Thrust):
    if (made := f"Own/{world.__name__}-v0") not in gym.registry:
        gym.register(made, f"{__name__}:{world.__name__}")


@dataclass(frozen=True)
class Args:
    """How much is done; a tiny network is enough for either world."""

    worlds: tuple[str, ...] = ("Chase", "Thrust")
    rounds: int = 3
    collect: int = 12_000
    """Real steps of a round that the world model learns from."""
    updates: tuple[int, int] = (4000, 1500)
    """Of the world model: in the first round, and in each one after it."""
    fit: str = (
        "--denoiser.inner-model.channels 16 32 32 --denoiser.inner-model.cond-channels 64 "
        "--reward-end.channels 16 16 16 --reward-end.lstm-dim 64 --windows 200"
    )
    dream: str = "--steps 60000 --n-envs 16 --max-episode-steps 30 --quality fast"
    epsilon: float = 0.2
    """Chance of a random action where an agent is recorded."""
    episodes: int = 100
    seed: int = 0


def run(words: str) -> None:
    """Runs a command of diamond-gym, and stops if it fails (1 says that `data check` has found something)."""
    print(f"$ diamond-gym {words}", flush=True)
    if (code := cli.main(shlex.split(words))) > words.startswith("data check"):
        raise SystemExit(code)


def main(args: Args = Args()) -> None:  # frozen
    """Goes the whole way with each world."""
    for name in args.worlds:
        env, same = f"--env Own/{name}-v0", f"--seed {args.seed}"
        for number in range(args.rounds):
            agent = f"--agent {home_folder() / 'agents' / f'{name.lower()}-ppo.zip'} --epsilon {args.epsilon}"
            run(f"collect {env} --steps {args.collect} {agent if number else ''} --seed {args.seed + number}")
            steps = f"--steps {args.updates[0] + number * args.updates[1]}"
            play = f"--collect-steps {args.collect} --test-steps 1500"
            run(f"train-wm {env} --preset nano {play} {steps} {args.fit} {same}")
            if not number:
                run(f"data check {name.lower()}")
                register_ids()  # models that were registered since the package was imported
                dream = gym.make(f"DiamondDream-{name}-v0", device="cpu")
                check_env(dream.unwrapped)
                print(f"check_env has nothing to say against {dream.unwrapped.action_space}")
            kept = home_folder() / "runs" / f"{name.lower()}-ppo-{number}"
            run(f"train-agent {env} --algo ppo {args.dream} --episodes {args.episodes} --run {kept} {same}")


if __name__ == "__main__":
    main()
