"""How much of a game can be predicted by a model that knows everything but its random numbers?

Some games draw random numbers from bytes of their memory that no frame shows. Put back to the same state, with other
numbers there, and played on with the same actions, the game itself then goes other ways. What it does most often is
the best that can be foreseen; a world model, which sees frames alone, has to guess all else that is hidden, too.

    python benchmarks/foreseeable.py --game Boxing --find          # which bytes those may be
    python benchmarks/foreseeable.py --game Boxing --dice 93 94    # what can be foreseen without them

The second command scores rewards as `diamond-gym evaluate-wm` does, half of the windows under random and half under
sticky-random play: the likeliest sign, at the exact step. Errors are over those of repeating the last frame: of the
mean of all futures, the smallest that can be had, and of a single one, as sharp as the game is.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

from diamond_gym.cli.terminal import counting
from diamond_gym.envs import RealEnv
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.trainers.collect import CollectConfig
from diamond_gym.trainers.fidelity import detection
from diamond_gym.trainers.policies import StickyPolicy

RAM_BYTES = 128
HIDDEN, FELT = 0.9, 0.5  # of a die: first frames at least this often as before, last ones at most
RESAMPLES = 2_000


@dataclass(frozen=True)
class Foreseeable:
    """Plays a game on from the same states with other dice."""

    game: str = "Boxing"
    """One of the 26 Atari 100k games."""
    dice: Annotated[tuple[int, ...], tyro.conf.arg(metavar="BYTE ...")] = ()
    """The bytes of the game's memory, 0 to 127, that are drawn anew."""
    find: bool = False
    """Instead, say which bytes change few of the next frames and most of the later ones."""
    windows: int = 500
    """States to play on from (with --find: a tenth of them)."""
    futures: int = 32
    """How often from each of them."""
    horizon: int = 16
    """Steps of each future."""
    seed: int = 0
    """Seeds play and dice."""

    def __post_init__(self) -> None:
        if bool(self.dice) == self.find:
            raise BadArgument("either --dice or --find")
        if not all(0 <= byte < RAM_BYTES for byte in self.dice):
            raise BadArgument(f"a byte of --dice lies in 0..{RAM_BYTES - 1}")
        if min(self.windows, self.futures, self.horizon) < 1 or self.seed < 0:
            raise BadArgument("--windows, --futures and --horizon must be at least 1, --seed not negative")


class Player:
    """A game under random play by turns uniform and sticky, which can be taken back.

    Args:
        game: One of the 26 games.
        seed: Seeds its no-ops and actions.
    """

    def __init__(self, game: str, seed: int) -> None:
        self._env = RealEnv(game=game)
        self._ale: Any = self._env.ale
        self.rng = np.random.default_rng(seed)
        keep = 1 - 1 / CollectConfig().sticky_steps
        num_actions = self._env.action_space.n  # type: ignore[attr-defined]
        self._policies = [StickyPolicy(num_actions, np.array([p]), self.rng) for p in (0.0, keep)]
        self.frame, _ = self._env.reset(seed=seed)

    def actions(self, steps: int, sticky: bool) -> list[int]:
        """The next actions."""
        first = np.zeros(1, np.bool_)
        return [int(self._policies[sticky](self.frame[None], first)[0]) for _ in range(steps)]

    def go_on(self, window: int, horizon: int) -> tuple[Any, list[int]]:
        """Plays to where the next window begins: the state there, and the actions of `horizon` steps."""
        sticky = bool(window % 2)
        self.play(self.actions(int(self.rng.integers(20, 60)), sticky))
        return self.state(), self.actions(horizon, sticky)

    def play(self, actions: list[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Frames (H, 64, 64, 3) in [0, 1] and signs of rewards (H,); a game that is over begins anew."""
        frames, signs = [], []
        for act in actions:
            self.frame, rew, end, trunc, _ = self._env.step(act)
            frames.append(self.frame)
            signs.append(np.sign(rew))
            if end or trunc:
                self.frame, _ = self._env.reset()
        return np.stack(frames).astype(np.float32) / 255, np.array(signs, np.int64)

    def state(self) -> Any:
        """The emulator's state, to go back to."""
        return self._ale.cloneSystemState()

    def go_back(self, state: Any, dice: tuple[int, ...] = ()) -> None:
        """Goes back to a state, but for these bytes, which are drawn."""
        self._ale.restoreSystemState(state)
        for byte in dice:
            self._ale.setRAM(byte, int(self.rng.integers(256)))


def find(check: Foreseeable) -> None:
    """Prints bytes that may be dice, and what makes them suspicious."""
    player, same = Player(check.game, check.seed), np.zeros((RAM_BYTES, check.horizon))
    windows = -(-check.windows // 10)
    with counting("looking for dice", windows, "states") as advance:
        for window in range(windows):
            state, actions = player.go_on(window, check.horizon)
            frames, _ = player.play(actions)
            for byte in range(RAM_BYTES):
                player.go_back(state, (byte,))
                other, _ = player.play(actions)
                same[byte] += (other == frames).all(axis=(1, 2, 3))
            player.go_back(state)
            advance(window + 1)
    print(f"bytes that change few of the next frames and most of those after {check.horizon} steps:")
    for byte, (first, *_, last) in enumerate(same / windows):
        if first >= HIDDEN and last <= FELT:
            print(f"{byte}: {first:.2f} of the first frames as they were, {last:.2f} of the last")


def foresee(check: Foreseeable) -> None:
    """Prints what can be foreseen."""
    player, shape = Player(check.game, check.seed), (check.windows, check.horizon)
    real, chances = np.zeros(shape, np.int64), np.zeros((*shape, 3))
    mean_error, one_error, copy_error = np.zeros((3, check.horizon))
    with counting(f"{check.game}, played on", check.windows, "windows") as advance:
        for window in range(check.windows):
            state, actions = player.go_on(window, check.horizon)
            last = player.frame.astype(np.float32) / 255
            frames, real[window] = player.play(actions)
            after, mean = player.state(), np.zeros_like(frames)
            for _ in range(check.futures):
                player.go_back(state, check.dice)
                future, signs = player.play(actions)
                mean += future / check.futures
                chances[window, np.arange(check.horizon), signs + 1] += 1 / check.futures
            for error, guess in ((mean_error, mean), (one_error, future), (copy_error, last)):
                error += ((guess - frames) ** 2).mean(axis=(1, 2, 3))
            player.go_back(after)
            advance(window + 1)
    print("squared error over that of repeating the last frame, after so many steps:")
    for h in (1, 4, 16):
        if h <= check.horizon:
            mean_part, one_part = (error[h - 1] / copy_error[h - 1] for error in (mean_error, one_error))
            print(f"{h}: {mean_part:.3f} of the mean future, {one_part:.3f} of one")
    likely = chances.argmax(axis=-1) - 1
    found = detection(real, likely)
    print(f"rewards at their exact step, {found.events} of them, foreseen where they are the likeliest outcome:")
    low, high = interval(real, likely)
    print(f"precision {found.precision:.2f}, recall {found.recall:.2f}, F1 {found.f1:.2f} ({low:.2f} to {high:.2f})")
    either = np.where(chances[..., 2] > chances[..., 0], 1, -1)
    best, threshold = max(
        (np.nan_to_num(detection(real, np.where(1 - chances[..., 1] >= level, either, 0)).f1), level)
        for level in np.linspace(0.05, 0.95, 19)
    )
    print(f"with hindsight, where their chance is at least {threshold:.2f}: F1 {best:.2f}")


def interval(real: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The 95 % bootstrap interval of F1, over windows; of resamples in which it is defined."""
    rows = np.random.default_rng(0).integers(len(real), size=(RESAMPLES, len(real)))
    scores = [detection(real[chosen], found[chosen]).f1 for chosen in rows]
    low, high = np.nanquantile(scores, (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    try:
        check = tyro.cli(Foreseeable)
        (find if check.find else foresee)(check)
    except DiamondGymError as error:
        raise SystemExit(str(error)) from None
