"""Play in a terminal: pictures of half blocks, keys that are never let go, and the terminal as it was before."""

import io
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time

import numpy as np
import pytest
from stubs import save_tiny_model

from diamond_gym.actions import Box, MultiBinary, MultiDiscrete
from diamond_gym.play import terminal
from diamond_gym.play.game import Game
from diamond_gym.play.settings import Begin
from diamond_gym.play.terminal import HeldKeys, Screen, TerminalPlayer, fit, half_blocks, read_keys
from diamond_gym.play.worlds import Worlds
from diamond_gym.registry import resolve


def test_keys_are_named():
    sent = "w \r\x1b[A\x1b[D\x1bOC\x7f\tq\x1b[3~x"
    assert list(read_keys(sent)) == ["w", "space", "enter", "up", "left", "right", "backspace", "tab", "q", "x"]
    assert list(read_keys("\x1b")) == ["quit"]


def test_a_key_is_held_until_it_arrives_no_more():
    keys = HeldKeys()
    keys.press("w", 10.0)
    assert keys.down(10.3) == ["w"]
    for t in (10.4, 10.43, 10.46):  # repeated by the terminal
        keys.press("w", t)
    assert keys.down(10.55) == ["w"]
    assert keys.down(10.7) == []


def test_half_blocks_show_two_pixels_a_character():
    pixels = np.array([[[1, 2, 3], [1, 2, 3]], [[4, 5, 6], [7, 8, 9]]], np.uint8)
    (line,) = half_blocks(pixels)
    assert line == "\x1b[38;2;1;2;3;48;2;4;5;6m▀\x1b[38;2;1;2;3;48;2;7;8;9m▀\x1b[0m"


def test_equal_colours_are_sent_once():
    (line,) = half_blocks(np.zeros((2, 40, 3), np.uint8))
    assert line.count("\x1b[38") == 1
    assert line.count("▀") == 40


@pytest.mark.parametrize(
    ("shape", "columns", "rows", "size"),
    [
        ((64, 64, 3), 80, 40, (64, 64)),
        ((64, 64, 3), 200, 80, (128, 128)),
        ((64, 64, 3), 80, 22, (44, 44)),
        ((210, 160, 3), 80, 22, (44, 33)),
        ((8, 8, 1), 20, 10, (16, 16)),
        ((64, 64, 3), 1, 1, (2, 1)),
    ],
)
def test_frames_fit_the_terminal(shape, columns, rows, size):
    shown = fit(np.full(shape, 9, np.uint8), columns, rows)
    assert shown.shape == (*size, 3)
    assert (shown == 9).all()


def test_only_what_changed_is_sent(monkeypatch):
    monkeypatch.setattr(terminal.shutil, "get_terminal_size", lambda: os.terminal_size((8, 6)))
    out = io.StringIO()
    screen, frame = Screen(out), np.zeros((8, 8, 3), np.uint8)
    screen.show(frame, ["first", "second line that is too long"])
    assert "second l\x1b[K" in out.getvalue()
    out.seek(0)
    out.truncate()
    screen.show(frame, ["first", "second line that is too long"])
    assert out.getvalue() == ""
    frame[2] = 200
    screen.show(frame, ["first", "other"])
    assert out.getvalue().count("\x1b[K") == 2  # one row of the picture and one of the lines


def player_of(codec=None):
    """Somebody at a terminal, in a world of these actions, by default Breakout's."""
    save_tiny_model("it", "Breakout" if codec is None else "Somewhere", codec=codec)
    game = Game(Worlds("cpu", "float32").take(resolve("it")), Begin(seed=4))
    return TerminalPlayer(game, 15), game


def held(player, game, keys):
    """The action while these keys are held."""
    for key in keys:
        player.obey(key, 1.0)
    game.controls.hold(player._keys.down(1.1))
    player._keys = HeldKeys()
    return np.asarray(game.controls.take()).tolist()


BOX = Box([-1, 0, -2, -3, 1], [1, 0.5, 2, 3, 2])
CHOICES = MultiDiscrete([4, 11, 3, 9])


@pytest.mark.parametrize(
    ("codec", "keys", "action"),
    [
        (BOX, "q", [0, 0, -2, 0, 1]), (BOX, "e", [0, 0, 2, 0, 1]), (BOX, "qd", [1, 0, -2, 0, 1]),
        (BOX, ["up", "left"], [-1, 0.5, 0, 0, 1]), (BOX, "qe", [0, 0, 0, 0, 1]), (BOX, "qed", [1, 0, 0, 0, 1]),
        (BOX, "zc", [0, 0, 0, 0, 1]), (BOX, "12", [0, 0, 0, 0, 1]), (BOX, "1", [0, 0, 0, 0, 1]),
        (BOX, "2", [0, 0, 0, 0, 2]),
        (CHOICES, "q", [0, 1, 0, 0]), (CHOICES, "p", [0, 10, 0, 0]), (CHOICES, "ws", [0, 2, 2, 0]),
        (CHOICES, "nv", [0, 0, 0, 0]), (CHOICES, "n", [0, 0, 0, 6]), (CHOICES, "3v", [3, 0, 0, 4]),
        (CHOICES, "ad", [0, 0, 1, 0]), (CHOICES, "12", [0, 0, 0, 0]), (CHOICES, "qwe1", [1, 0, 0, 0]),
        (MultiBinary([3]), "12", [1, 1, 0]), (None, "ws", 0), (None, "w ", 2), (None, ["w", "space"], 3),
    ],
)  # fmt: skip
def test_a_world_s_keys_are_its_own_and_cancel_out_where_they_set_the_same(codec, keys, action):
    player, game = player_of(codec)
    assert held(player, game, keys) == action
    assert (player.over, player.paused, game.recorder) == (False, False, None)
    assert [name for name, _ in game.session.operations] == ["reset"]


def test_commands_answer_to_capitals_where_the_world_has_their_letters():
    player, game = player_of(CHOICES)
    assert player.help == "P pause  . step  enter reset  N new  ⌫ back  tab agent  V record  Q/esc/^C quit"
    player.obey("P", 1.0)
    player.obey("V", 1.0)
    player.obey("N", 1.0)
    assert player.paused and game.recorder is not None and game.session.now.episode == 1
    player.obey("V", 1.0)
    assert player.status(15.0)[1] == "0 steps recorded"
    for key in ("Q", "quit"):
        player.over = False
        player.obey(key, 1.0)
        assert player.over
    assert list(read_keys("\x1b")) == list(read_keys("\x03")) == ["quit"]


def test_the_help_fits_a_terminal_and_q_quits_where_no_world_has_it():
    player, _ = player_of()
    assert player.help == "p pause  . step  enter reset  n new  ⌫ back  tab agent  v record  q/esc/^C quit"
    assert player.status(15.0)[1] == player.help and len(player.help) <= 80
    player.obey("q", 1.0)
    assert player.over


def run(*arguments, keys=(), env=None):
    """The command in a terminal of its own: exit status, what it wrote, and whether the terminal is as before."""
    here, there = pty.openpty()
    before = termios.tcgetattr(there)
    command = [sys.executable, "-m", "diamond_gym", "play", *arguments, "--terminal", "--device", "cpu"]
    environ = {**os.environ, "COLUMNS": "80", "LINES": "40", **(env or {})}
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=environ, start_new_session=True)
    written, keys, deadline = "", list(keys), time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([here], [], [], 0.1)[0]:
            written += os.read(here, 65536).decode(errors="ignore")
        if keys and re.search(keys[0][0], written):
            os.write(here, keys.pop(0)[1])
    process.kill()
    status = process.wait()
    while select.select([here], [], [], 0)[0]:
        written += os.read(here, 65536).decode(errors="ignore")
    same = termios.tcgetattr(there) == before
    os.close(here)
    os.close(there)
    return status, written, same


def test_a_dream_is_played_and_left():
    keys = [("step 2", b"d"), ("human RIGHT", b"v"), ("step 9 .*recording", b"v\x7f"), ("paused", b"q")]
    status, written, same = run("Breakout", "--seed", "1", keys=keys)
    assert (status, same) == (0, True)
    assert "\x1b[38;2;" in written
    assert "Breakout  step 1" in written
    assert "● recording" in written
    assert "steps recorded in" in written
    assert "paused" in written
    assert written.rstrip().endswith("\x1b[?1049l")


def test_without_a_terminal_it_is_one_line():
    command = [sys.executable, "-m", "diamond_gym", "play", "Breakout", "--terminal"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode != 0
    assert "--terminal needs a terminal" in done.stderr
    assert "Traceback" not in done.stderr
