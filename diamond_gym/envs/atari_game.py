"""One Atari game in ALE behind the preprocessing of Atari 100k, whose state is the way it was played.

ALE's own state leaves out part of the television chip (in ale-py 0.12 a restored Breakout or Road Runner may draw, and
a restored Q*bert play, otherwise than the original), and some games begin otherwise after one that was played before.
So every game here begins from the same power-on, nothing in it is random but the number of no-ops, and its state is
that number with the actions since: going back to a state plays them again, which is exact.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.envs.arguments import is_whole
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.registry.games import game as find_game

SIZE, FRAME_SKIP = 64, 4
MAX_FRAMES = 108_000  # half an hour of play, after which ALE truncates
MISSING = "the real games need ale_py and opencv: pip install 'diamond-gym[atari]'"

Frame = npt.NDArray[np.uint8]
Info = dict[str, int]


@dataclass(frozen=True)
class GameState:
    """A game at one moment, as plain data.

    Attributes:
        noops: The no-ops it began with, in the game's frames.
        actions: Those of all steps since, a byte each.
        frames_before: The frames of the games before it.
        rng: The state of the random stream that draws the no-ops; None to leave that where it is.
    """

    noops: int
    actions: bytes
    frames_before: int
    rng: dict[str, Any] | None


@dataclass(frozen=True)
class RealState:
    """Real games at one moment, as plain data.

    Attributes:
        game: The game's name.
        life_ends: Whether the loss of a life ends an episode.
        rows: The games.
    """

    game: str
    life_ends: bool
    rows: tuple[GameState, ...]


class AtariGame:
    """One game; as Gymnasium's `AtariPreprocessing` around `ale_py.AtariEnv`, to the pixel and the no-op.

    Attributes:
        ale: The emulator. Who plays or restores it behind the game's back makes the game's state another game's.
        over: Whether the episode has ended.
    """

    def __init__(self, game: str, noop_max: int = 30, terminal_on_life_loss: bool = False, size: int = SIZE) -> None:
        """Loads the game; `reset` begins it.

        Raises:
            DiamondGymError: There is no such game, or the extra is not installed, or `noop_max` is impossible.
        """
        if not is_whole(noop_max) or not 0 <= noop_max <= MAX_FRAMES:
            raise BadArgument(f"noop_max must be a whole number from 0 to {MAX_FRAMES}, got {noop_max!r}.")
        ale_id = find_game(game).ale_id
        try:
            import ale_py
            import cv2
        except ModuleNotFoundError as error:
            raise DiamondGymError(MISSING) from error
        self._resize, self._area = cv2.resize, cv2.INTER_AREA
        self._noop_max, self._life_ends, self._size = noop_max, terminal_on_life_loss, (size, size)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.setInt("max_num_frames_per_episode", MAX_FRAMES)
        rom = ale_py.roms.get_rom_path(ale_id)
        assert rom is not None  # ale_py brings those of all 26 games
        self._rom = rom
        self.ale.loadROM(self._rom)
        self._power_on = self.ale.cloneState()
        self.ale.reset_game()
        self._first = self.ale.cloneState().serialize()
        self._actions = self.ale.getMinimalActionSet()
        self._pooled, self._screen = (np.zeros((*self.ale.getScreenDims(), 3), np.uint8) for _ in range(2))
        self._rng = np.random.default_rng()
        self._noops, self._played, self._frames_before = 0, bytearray(), 0
        self.over, self.lives = False, 0

    def seed(self, seed: int) -> None:
        """Begins the random stream of the no-ops anew, as `ale_py.AtariEnv` seeds it."""
        self._rng = np.random.default_rng(int(np.random.SeedSequence(seed).generate_state(2)[0]))
        self._frames_before = -self.ale.getFrameNumber()  # which counts from zero after a seed

    def reset(self) -> None:
        """Begins a new game, and lets the no-ops pass."""
        self._begin(int(self._rng.integers(1, self._noop_max + 1)) if self._noop_max else 0)

    def _begin(self, noops: int) -> None:
        self._frames_before += self.ale.getFrameNumber()
        self._noops, self._played, self.over = noops, bytearray(), False
        self._power()
        for _ in range(noops):
            self.ale.act(self._actions[0])
            if self.ale.game_over():
                self._power()
        self.lives = self.ale.lives()
        self.ale.getScreenRGB(self._pooled)

    def _power(self) -> None:
        """Begins from the state that a freshly loaded game begins from, at a tenth of the cost of loading it."""
        self.ale.restoreState(self._power_on)
        self.ale.reset_game()
        if self.ale.cloneState().serialize() != self._first:
            self.ale.loadROM(self._rom)
            self.ale.reset_game()

    def screen(self) -> Frame:
        """The game's own screen, uint8 (210, 160, 3) for most games."""
        screen: Frame = self.ale.getScreenRGB()
        return screen

    def step(self, action: int) -> tuple[float, bool, bool]:
        """Plays four frames: the reward, whether the game ended, and whether it was cut off."""
        self._played.append(action)
        reward, terminated, truncated, ale = 0.0, False, False, self.ale
        for t in range(FRAME_SKIP):
            reward += ale.act(self._actions[action])
            terminated, truncated = ale.game_over(with_truncation=False), ale.game_truncated()
            lives = ale.lives()
            terminated, self.lives = terminated or (self._life_ends and lives < self.lives), lives
            if terminated or truncated:
                break
            if t == FRAME_SKIP - 2:
                ale.getScreenRGB(self._screen)
            elif t == FRAME_SKIP - 1:
                ale.getScreenRGB(self._pooled)
        if t >= FRAME_SKIP - 2:
            np.maximum(self._pooled, self._screen, out=self._pooled)
        self.over = terminated or truncated
        return reward, terminated, truncated

    def obs(self) -> Frame:
        """The current frame, uint8 (64, 64, 3) or of the other size."""
        return np.asarray(self._resize(self._pooled, self._size, interpolation=self._area), np.uint8)

    def info(self) -> Info:
        """The lives, and the frames of this game and of all since the seed."""
        frames = self._frames_before + self.ale.getFrameNumber()
        return {
            "lives": self.lives, "episode_frame_number": self.ale.getEpisodeFrameNumber(), "frame_number": frames
        }  # fmt: skip

    @property
    def steps(self) -> int:
        """Steps of this game so far."""
        return len(self._played)

    def clone_state(self, include_rng: bool = False) -> GameState:
        """The game's state, with the random stream of its no-ops if asked."""
        rng = dict(self._rng.bit_generator.state) if include_rng else None
        return GameState(self._noops, bytes(self._played), self._frames_before, rng)

    def check_state(self, state: GameState) -> None:
        """Checks a state as far as that can be done without playing it.

        Raises:
            ValueError: It is no state of this game.
        """
        if not isinstance(state, GameState):
            raise ValueError(f"restore_state needs what clone_state returned, got {type(state).__name__} for a game.")
        counts = (state.noops, state.frames_before)
        if any(type(count) is not int or count < 0 for count in counts) or state.noops > MAX_FRAMES:
            raise ValueError(f"this state of a game is damaged: its counts are {counts}.")
        longest, actions = MAX_FRAMES // FRAME_SKIP, state.actions
        if not isinstance(actions, bytes) or len(actions) > longest or max(actions, default=0) >= len(self._actions):
            raise ValueError(f"this state of a game is damaged: its actions must be at most {longest} bytes below "
                             f"{len(self._actions)}.")  # fmt: skip
        if state.rng is not None:
            try:
                np.random.default_rng().bit_generator.state = state.rng
            except (TypeError, ValueError, KeyError, OverflowError, AttributeError):
                raise ValueError("this state of a game is damaged: its random stream is not one of NumPy's.") from None

    def restore_state(self, state: GameState) -> None:
        """Goes back to a state that `check_state` found no fault with, by playing it again.

        Raises:
            ValueError: It ended before its last action; the game is then another one.
        """
        self._begin(state.noops)
        for step, action in enumerate(state.actions):
            if self.over:
                left = len(state.actions) - step
                raise ValueError(f"this state of a game is damaged: it ended {left} actions before.")
            self.step(action)
        self._frames_before = state.frames_before
        if state.rng is not None:
            self._rng.bit_generator.state = state.rng
