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

from diamond_gym.play import terminal
from diamond_gym.play.terminal import HeldKeys, Screen, fit, half_blocks, read_keys


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
