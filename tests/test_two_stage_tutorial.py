"""The tutorial of docs/two-stages.md, word for word."""

import re
import shlex
from pathlib import Path

import pytest

import diamond_gym
from diamond_gym.cli import main
from diamond_gym.registry import resolve

PAGE = Path(__file__).parents[1] / "docs" / "two-stages.md"


@pytest.mark.slow
def test_the_tutorial_of_two_stages(tmp_path, home, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8").split("## A first world of two stages")[1]
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "console", "python"]
    for language, block in blocks:
        if language == "python":
            diamond_gym.register_ids()  # as a new process does when it imports the package
            exec(compile(block, "tutorial", "exec"), {})
        else:
            for line in re.findall(r"^\$ diamond-gym (.*)$", block, re.MULTILINE):
                assert main(shlex.split(line)) == 0, line
    figures = resolve("hills").card.figures
    assert resolve("hills").card.upsampler is not None and "16 episodes" in capsys.readouterr().out
    assert Path("hills.gif").stat().st_size and (not figures or figures["low_res"]["mse_over_copy_1"] > 0)
