"""Terminals of other encodings than UTF-8: every character is printed, in letters that they have."""

import io
import os
import subprocess
import sys

import pytest
from stubs import save_tiny_model

from diamond_gym import cli


@pytest.fixture(params=["ascii", "cp1251", "utf-8"])
def said(request, monkeypatch):
    """Runs a command on a terminal of an encoding; returns the exit code, and what it printed."""

    def run(*words):
        sent = io.BytesIO()
        stream = io.TextIOWrapper(sent, encoding=request.param, write_through=True)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            code = cli.main(words)
        return code, sent.getvalue().decode(request.param)

    return run


@pytest.mark.parametrize("command", [None, *cli.commands()])
def test_help_is_printed(command, said):
    code, printed = said(*filter(None, [command]), "--help")
    assert code == 0 and "usage: diamond-gym" in printed


def test_tables_are_printed(said):
    code, printed = said("evaluate", "--published")
    assert code == 0 and ("games × runs" in printed or "games x runs" in printed)


@pytest.mark.parametrize(
    ("words", "code", "printed"),
    [
        (["list", "--games"], 0, "Breakout"),
        (["info", "tiny"], 0, "tiny"),
        (["verify", "tiny"], 0, "tiny"),
        (["info", "Éclair×λ"], 1, "no world model for"),
        (["info", "./\udcff\N{SNOWMAN}"], 1, "no folder"),  # bytes of a file's name that are no text
        (["dream", "--game", "Breakout", "--steps", "2×"], 2, "2"),
    ],
)
def test_whatever_is_said_is_printed(words, code, printed, said):
    save_tiny_model()
    ended, text = said(*words)
    assert ended == code and printed in text


def test_letters_stand_for_what_is_lacking(monkeypatch):
    sent = io.BytesIO()
    stream = io.TextIOWrapper(sent, encoding="ascii", write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert cli.main(["info", "64×64λé☃"]) == 1
    assert b"'64x64lambdae?'" in stream.buffer.getvalue()


@pytest.mark.slow
def test_a_process_of_another_encoding():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    words = [sys.executable, "-m", "diamond_gym", "evaluate", "--published"]
    done = subprocess.run(words, env=environment, capture_output=True, check=True)
    assert b"games x runs" in done.stdout and not done.stderr
