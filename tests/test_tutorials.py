"""The tutorials of the documentation work: their code is run as it stands there, in one empty folder for each page."""

import re
import shlex
from pathlib import Path

import pytest

import diamond_gym
from diamond_gym import cli

DOCS = Path(__file__).parents[1] / "docs"
HEADING = re.compile(r"^## Tutorial.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)

# What a tutorial's player prints at the end, after a training so short that only the frames are learnt.
PLAYED = {
    "your-own-environment.md": r"the lamp's side was reached in ([89]|10) of 10 dreams",
    "your-own-recordings.md": r"the paddle came below the ball in ([4-9]|10) of 10 dreams",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block of code under the page's heading `Tutorial`."""
    (tutorial,) = HEADING.findall(page.read_text(encoding="utf-8"))
    return re.findall(r"^```(\w+)\n(.*?)^```$", tutorial, re.MULTILINE | re.DOTALL)


def do(blocks: list[tuple[str, str]]) -> None:
    """Saves, types or runs every block, in the working folder."""
    for language, text in blocks:
        assert language in ("python", "console"), language
        if name := re.match(r"# (\w+\.py)\n", text):
            Path(name[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            diamond_gym.register_ids()  # as a new process does when it imports the package
            exec(compile(text, "tutorial", "exec"), {})
        else:
            lines = text.splitlines()
            assert all(line.startswith("$ diamond-gym ") for line in lines), lines
            for line in lines:
                words = shlex.split(line.removeprefix("$ diamond-gym "), comments=True)
                assert cli.main(words) == 0, line


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working folder, whose modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_recordings_up_to_the_training(work, home, capsys):
    (python, record), (console, commands), *_ = blocks(DOCS / "your-own-recordings.md")
    before = "".join(line for line in commands.splitlines(True) if line.startswith("$ diamond-gym data "))
    do([(python, record), (console, before)])
    assert "in 200 episodes" in capsys.readouterr().out
    assert (work / "MyCatch.gif").exists() and (home / "data" / "MyCatch-test").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", PLAYED)
def test_it_runs_from_start_to_end(name, work, capsys):
    do(blocks(DOCS / name))
    assert re.search(PLAYED[name], capsys.readouterr().out)
