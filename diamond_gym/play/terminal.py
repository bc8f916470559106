"""Play in a terminal: half blocks in true colour, which goes through any SSH connection."""

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from diamond_gym.errors import DiamondGymError
from diamond_gym.play.game import Game

Frame = npt.NDArray[np.uint8]

# A terminal says that a key is down, and again while it is held, but never that it was let go.
_HELD_FIRST, _HELD_AGAIN = 0.45, 0.15  # seconds for which a key counts as held after its first and later arrivals
_MOUSE = 40  # pixels that an arrow key turns the view by, in worlds with a mouse
_BACK = 15  # steps that backspace goes back

_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}
_AS_LETTERS = {"up": "w", "down": "s", "left": "a", "right": "d"}
_NAMES = {" ": "space", "\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\x08": "backspace"}
_NAMES |= {"\x03": "quit", "\x04": "quit", "\x1b": "quit"}
_COMMANDS = {  # in the order of the help line
    "p": "pause", ".": "step", "enter": "reset", "n": "new", "backspace": "back", "tab": "agent", "v": "record",
    "q": "quit",
}  # fmt: skip


def read_keys(text: str) -> Iterator[str]:
    """Names of the keys in what a terminal sent: single characters, "space", "enter", "up", …, "quit"."""
    i = 0
    while i < len(text):
        if text[i] == "\x1b" and text[i + 1 : i + 2] in ("[", "O"):
            i += 2
            while i < len(text) and not text[i].isalpha() and text[i] != "~":
                i += 1
            if text[i : i + 1] in _ARROWS:
                yield _ARROWS[text[i]]
        else:
            yield _NAMES.get(text[i], text[i])
        i += 1


class HeldKeys:
    """The keys that count as held, judged by when they arrived."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def press(self, key: str, now: float) -> None:
        """Notes that a key has arrived."""
        again = self._until.get(key, 0.0) > now
        self._until[key] = max(self._until.get(key, 0.0), now + (_HELD_AGAIN if again else _HELD_FIRST))

    def down(self, now: float) -> list[str]:
        """The keys that are held."""
        self._until = {key: until for key, until in self._until.items() if until > now}
        return list(self._until)


def fit(frame: Frame, columns: int, rows: int) -> Frame:
    """A frame as large as it fits into a terminal, two pixels a character: uint8 (h, w, 3) with an even h.

    Args:
        frame: uint8 (H, W, C).
        columns: Characters in a row.
        rows: Rows.
    """
    h, w = frame.shape[:2]
    scale = min(columns / w, 2 * rows / h)
    if scale >= 1:
        scale = int(scale)
    size = max(1, int(w * scale)), max(2, int(h * scale) // 2 * 2)
    picture = Image.fromarray(frame if frame.shape[2] == 3 else np.repeat(frame, 3, 2))
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX), np.uint8)


def half_blocks(pixels: Frame) -> list[str]:
    """Rows of characters for pixels uint8 (2 * rows, columns, 3): each the upper pixel on the ground of the lower."""
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        parts, colours = [], None
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            if (top, bottom) != colours:
                colours = top, bottom
                parts.append("\x1b[38;2;{};{};{};48;2;{};{};{}m".format(*top, *bottom))
            parts.append("▀")
        lines.append("".join(parts) + "\x1b[0m")
    return lines


class Screen:
    """The terminal's screen; only rows that have changed are sent."""

    def __init__(self, out: Any = None) -> None:
        self._out = out or sys.stdout
        self._shown: list[str] = []
        self._size = (0, 0)

    def show(self, frame: Frame, status: list[str]) -> None:
        """Shows a frame and lines below it."""
        columns, rows = shutil.get_terminal_size()
        if (columns, rows) != self._size:
            self._size, self._shown = (columns, rows), []
            self._out.write("\x1b[2J")
        picture = half_blocks(fit(frame, columns, max(1, rows - len(status))))
        lines = [*picture, *(line[:columns] for line in status)]
        for row, line in enumerate(lines):
            if row >= len(self._shown) or self._shown[row] != line:
                self._out.write(f"\x1b[{row + 1};1H{line}\x1b[K")
        self._out.write("\x1b[J" if len(lines) < len(self._shown) else "")
        self._shown = lines
        self._out.flush()


@contextmanager
def raw_terminal() -> Iterator[int]:
    """Takes single keys and the whole screen, and gives both back; the descriptor to read keys from.

    Raises:
        DiamondGymError: This is no terminal, or none of the kind.
    """
    try:
        import termios
        import tty
    except ModuleNotFoundError:
        raise DiamondGymError("--terminal needs Linux or macOS: leave it out to play in a browser") from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise DiamondGymError("--terminal needs a terminal for both input and output")
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    terminated = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is below still runs
    try:
        tty.setcbreak(descriptor)
        sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[2J")  # another screen, no cursor
        yield descriptor
    finally:
        sys.stdout.write("\x1b[0m\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, terminated)


class TerminalPlayer:
    """Obeys keys, and advances a game by the clock.

    Args:
        game: What is played.
        fps: Steps a second.
    """

    def __init__(self, game: Game, fps: int) -> None:
        self._game, self.fps, self.paused, self.over = game, fps, False, False
        self._keys, self._message = HeldKeys(), ""
        self._mouse = game.session.codec.kind == "csgo"

    def obey(self, key: str, now: float) -> None:
        """Does what a key says, or holds it down for the next steps.

        The world's own keys come first, as on the page. Commands on letters answer to their capitals as well, which no
        world has.
        """
        try:
            if key == "quit":
                self.over = True
            elif self._mouse and key in _AS_LETTERS:
                turn = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[key]
                self._game.controls.move(_MOUSE * turn[0], _MOUSE * turn[1], 0)
            elif (held := _AS_LETTERS.get(key, key)) not in self._game.controls.keys and key.lower() in _COMMANDS:
                self._do(_COMMANDS[key.lower()], now)
            else:
                self._keys.press(held, now)
        except DiamondGymError as error:
            self._message = str(error)

    def _do(self, command: str, now: float) -> None:
        game = self._game
        match command:
            case "quit":
                self.over = True
            case "pause":
                self.paused = not self.paused
            case "step":
                self.paused = True
                self._step(now)
            case "reset":
                game.reset()
            case "new":
                game.new_start()
            case "back":
                game.rewind(max(game.session.first, game.session.now.step - _BACK))
                self.paused = True
            case "agent":
                game.take_over("human" if game.control == "agent" else "agent")
            case "record":
                done = game.record(game.recorder is None)
                where = "" if done is None or done["store"] is None else f" in {done['store']}"
                self._message = "" if done is None else f"{done['steps']} steps recorded{where}"

    @property
    def help(self) -> str:
        """The commands and their keys: a capital where the letter belongs to the world."""
        names = {key: key.upper() if key in self._game.controls.keys else key for key in _COMMANDS}
        names |= {"backspace": "⌫", "q": f"{names['q']}/esc/^C"}
        return "  ".join(f"{names[key]} {word}" for key, word in _COMMANDS.items())

    def advance(self, now: float) -> None:
        """Makes a step, unless the game stands still."""
        if not self.paused:
            self._step(now)

    def _step(self, now: float) -> None:
        self._game.controls.hold(self._keys.down(now))
        self._game.advance()

    def status(self, rate: float) -> list[str]:
        """The lines below the picture.

        Args:
            rate: Steps a second, measured.
        """
        game, now = self._game, self._game.session.now
        self._message = game.notices.pop(0) if game.notices else self._message
        action = now.action
        meanings = game.session.meanings
        word = meanings[action] if isinstance(action, int) and action < len(meanings) else ""
        if isinstance(action, np.ndarray):
            word = " ".join(f"{number:.3g}" for number in action.ravel())
        value = "" if now.value is None else f"  value {now.value:.2f}"
        flags = [word for word, on in (("● recording", game.recorder is not None), ("paused", self.paused)) if on]
        known = f"return {now.total:g}  end {now.end_prob:.0%}{value}"
        parts = [game.world, f"step {now.step}", *flags, known, f"{rate:.0f} fps", f"{now.by} {word}"]
        first = "  ".join(parts)
        return [first, self._message or self.help]


def play_in_terminal(game: Game, fps: int) -> None:
    """Plays a game in this terminal until it is quit.

    Raises:
        DiamondGymError: This is no terminal.
    """
    with raw_terminal() as descriptor:
        player, screen = TerminalPlayer(game, fps), Screen()
        due, began, rate = time.monotonic(), time.monotonic(), float(fps)
        while True:
            try:
                screen.show(game.view().step.obs, player.status(rate))
                due = max(due + 1 / player.fps, time.monotonic() - 0.25)  # behind by more, the pace begins anew
                while select.select([descriptor], [], [], max(0.0, due - time.monotonic()))[0]:
                    sent = os.read(descriptor, 1024)
                    for key in read_keys(sent.decode(errors="ignore")) if sent else ("quit",):
                        player.obey(key, time.monotonic())
                    if player.over:
                        return
                player.advance(time.monotonic())
            except KeyboardInterrupt:
                return
            now = time.monotonic()
            rate, began = 0.9 * rate + 0.1 / max(1e-3, now - began), now
