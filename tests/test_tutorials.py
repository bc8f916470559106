"""The tutorials of the documentation work: their code is run as it stands there, in one empty folder for each page."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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


def do(page: Path) -> str:
    """Saves, types or runs every block, in the working folder; returns what the last block of Python printed."""
    printed = ""
    for language, text in blocks(page):
        assert language in ("python", "console"), language
        if name := re.match(r"# (\w+\.py)\n", text):
            Path(name[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            # a process of its own: an import registers the dreams that there are
            done = subprocess.run(
                [sys.executable, "-c", text], capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, done.stderr
            printed = done.stdout
        else:
            lines = text.splitlines()
            assert all(line.startswith("$ diamond-gym ") for line in lines), lines
            for line in lines:
                words = shlex.split(line.removeprefix("$ diamond-gym "), comments=True)
                assert cli.main(words) == 0, line
    return printed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", PLAYED)
def test_it_runs_from_start_to_end(name, home, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    printed = do(DOCS / name)
    assert re.search(PLAYED[name], printed), printed
