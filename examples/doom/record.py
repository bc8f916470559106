"""Records a walker in a scenario of ViZDoom, one `.npz` file an episode, as `diamond-gym data import` reads them.

Needs `pip install vizdoom numpy` and nothing of diamond-gym:

    python record.py recordings

The walker changes every few seconds between what it does on purpose (it aims at what it sees, or goes there) and
actions drawn at random, each held for a while; where it is stuck it turns away. So the recordings hold both what play
looks like and what happens after mistakes.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import vizdoom

WIDTH, HEIGHT = 160, 120

# Words of Atari's actions, which the keys of `diamond-gym play` are made for, and the buttons that they press.
ACTIONS = {
    "NOOP": (),
    "FIRE": ("ATTACK",),
    "UP": ("MOVE_FORWARD",),
    "RIGHT": ("TURN_RIGHT",),
    "LEFT": ("TURN_LEFT",),
    "UPRIGHT": ("MOVE_FORWARD", "TURN_RIGHT"),
    "UPLEFT": ("MOVE_FORWARD", "TURN_LEFT"),
    "UPFIRE": ("MOVE_FORWARD", "ATTACK"),
}
BUTTONS = ("ATTACK", "MOVE_FORWARD", "TURN_RIGHT", "TURN_LEFT")
SCENARIOS = ("defend_the_center", "health_gathering", "my_way_home")


class Walker:
    """Chooses an action from what is seen: a mixture of purpose and chance.

    Args:
        rng: The source of all chance.
        armed: Whether what is seen is shot at; else it is walked to.
    """

    def __init__(self, rng: np.random.Generator, armed: bool) -> None:
        self._rng, self._armed = rng, armed
        self._on_purpose, self._left = True, 0  # what it does at present, and for how many steps more
        self._held, self._hold = "NOOP", 0  # a drawn action, and for how many steps more

    def __call__(self, seen: list[tuple[float, float]], stuck: bool) -> str:
        """The next action.

        Args:
            seen: What is worth going to: places across the screen, -1 (left) to 1, and sizes as parts of the screen.
            stuck: Whether the walker went ahead and did not move.
        """
        rng = self._rng
        if self._left <= 0:
            self._on_purpose, self._left = rng.random() < 0.5, int(rng.integers(15, 60))
        self._left, self._hold = self._left - 1, self._hold - 1
        if self._hold > 0:
            return self._held
        if stuck:
            self._held, self._hold = str(rng.choice(["LEFT", "RIGHT"])), int(rng.integers(6, 20))
        elif self._on_purpose and seen:
            x, _ = max(seen, key=lambda each: each[1])  # the largest is the nearest
            turn = "" if abs(x) < 0.1 else "RIGHT" if x > 0 else "LEFT"
            return turn or "FIRE" if self._armed else f"UP{turn}"
        else:
            self._held, self._hold = str(rng.choice(list(ACTIONS))), 1 + int(rng.geometric(0.15))
        return self._held


@dataclass
class Game:
    """A scenario that is stepped by the numbers of actions."""

    name: str
    skip: int
    seed: int

    def __post_init__(self) -> None:
        game = self._game = vizdoom.DoomGame()
        game.load_config(str(Path(vizdoom.scenarios_path) / f"{self.name}.cfg"))
        game.set_available_buttons([getattr(vizdoom.Button, button) for button in BUTTONS])
        game.set_available_game_variables(
            [getattr(vizdoom.GameVariable, word) for word in ("HEALTH", "POSITION_X", "POSITION_Y")]
        )
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_labels_buffer_enabled(True)
        game.set_window_visible(False)
        game.set_living_reward(0.0)  # a reward for every step says nothing
        game.set_seed(self.seed)
        game.init()
        self.armed = game.get_game_variable(vizdoom.GameVariable.AMMO2) > 0

    def reset(self) -> None:
        """Begins an episode."""
        self._game.new_episode()
        if self.armed:
            self._game.send_game_command("give ammo")  # else there is nothing left to shoot with after a few seconds
        self._look()

    def _look(self) -> None:
        state = self._game.get_state()
        self.frame = np.array(state.screen_buffer)
        self.health, *self.place = state.game_variables
        labels = [label for label in state.labels if label.object_name != "DoomPlayer"]
        self.seen = [
            ((label.x + label.width / 2) / (WIDTH / 2) - 1, label.width * label.height / (WIDTH * HEIGHT))
            for label in labels
            if not label.object_name.startswith("Dead")
        ]

    def step(self, action: str) -> tuple[float, bool, bool]:
        """Plays a step: its reward (-1, 0 or 1), whether the game is over, and whether its time was up.

        ViZDoom shows nothing after the end; the last frame stays.
        """
        health = self.health
        reward = self._game.make_action([button in ACTIONS[action] for button in BUTTONS], self.skip)
        if self._game.is_episode_finished():
            in_time = self._game.get_episode_time() < self._game.get_episode_timeout()
            over = self._game.is_player_dead() or in_time
            return float(np.sign(reward)), over, not over
        self._look()
        return float(np.sign(reward)) or float(self.health > health), False, False


def play(game: Game, walker: Walker, steps: int) -> dict[str, np.ndarray]:
    """The arrays of an episode of at most so many steps."""
    game.reset()
    obs, act, rew, end, trunc, stuck = [game.frame], list[str](), list[float](), False, False, False
    while len(act) < steps and not (end or trunc):
        place = game.place
        act.append(walker(game.seen, stuck))
        reward, end, trunc = game.step(act[-1])
        obs.append(game.frame)
        rew.append(reward)
        stuck = "UP" in act[-1] and float(np.hypot(*np.subtract(game.place, place))) < 1.0
    words, last = list(ACTIONS), np.arange(1, len(act) + 1) == len(act)
    return {
        "obs": np.stack(obs),
        "act": np.array([words.index(word) for word in act]),
        "rew": np.array(rew, np.float32),
        "end": last & end,
        "trunc": last & trunc,
        "meanings": np.array(words),
    }


def main() -> None:
    """Records until there are enough steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenario", choices=SCENARIOS, default=SCENARIOS[0])
    parser.add_argument("--steps", type=int, default=40_000, help="in all")
    parser.add_argument("--episode", type=int, default=600, help="steps of an episode, at most")
    parser.add_argument("--skip", type=int, default=3, help="tics of a step; Doom has 35 a second")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    game = Game(words.scenario, words.skip, words.seed)
    done = number = 0
    while done < words.steps:
        walker = Walker(np.random.default_rng([words.seed, number]), game.armed)
        arrays = play(game, walker, min(words.episode, words.steps - done))
        np.savez_compressed(words.folder / f"{words.scenario}-{number:04d}.npz", **arrays)
        done, number = done + len(arrays["act"]), number + 1
        print(f"\r{done:,} of {words.steps:,} steps in {number} episodes", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
