"""Files that commands write: what could not be written, or shows what is not measured, is refused before the work."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import worlds
from stubs import save_tiny_model

from diamond_gym.cli import evaluate_wm, main
from diamond_gym.cli.options import check_can_write, check_files
from diamond_gym.errors import BadArgument
from diamond_gym.registry import resolve
from diamond_gym.trainers.measuring import Fidelity


@dataclass
class Command:
    first_picture: Path | None = None
    table: Path | None = None


def check(**paths: Path) -> None:
    check_files(Command(**paths), first_picture=(".png", ".gif"), table=())


def test_what_can_be_written_passes(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(b"")
    check()
    check(first_picture=tmp_path / "old.png", table=tmp_path / "new" / "deep" / "any.suffix")
    check(first_picture=Path("here.gif"))
    assert not (tmp_path / "new").exists(), "it is only looked at"


def test_what_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    with pytest.raises(BadArgument, match=r"^--first-picture must end in \.png or \.gif, not a\.pdf$"):
        check(first_picture=Path("a.pdf"))
    with pytest.raises(BadArgument, match=r"^--first-picture is a file to write, but .*folder\.png is a folder$"):
        check(first_picture=tmp_path / "folder.png")
    for place in (tmp_path / "file" / "a.json", tmp_path / "file" / "deep" / "a.json"):
        with pytest.raises(BadArgument, match=r"^--table needs a folder, but .*file is a file$"):
            check(table=place)
    with pytest.raises(BadArgument, match=r"^--first-picture and --table are the same file"):
        check(first_picture=tmp_path / "link.png", table=tmp_path / "real.png")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(BadArgument, match=r"^--save cannot be written: nothing may be changed in"):
        check_can_write("--save", tmp_path / "new")


@pytest.fixture
def nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_model(game="Walk")  # which nothing can play
    monkeypatch.setattr(evaluate_wm, "measure", lambda *_: pytest.fail("it measured first"))


@pytest.mark.usefixtures("nothing_is_measured")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--video", "x.mp4", "--dreams-per-start", "0"], "--video shows dreams of --starts"),
        (["--video", "x.mp4", "--windows", "0"], "--windows 0 left out held-out play, and the game cannot be played"),
        (["--sheet", "s.png"], "--sheet shows the game beside its dreams, and the game cannot be played here"),
        (["--page", "p.png", "--windows", "0"], "--page shows figures, and none is measured"),
        (["--picture", "adir.png"], "--picture is a file to write, but adir.png is a folder"),
        (["--page", "a.png", "--picture", "a.png"], "--picture and --page are the same file: a.png"),
    ],
)
def test_evaluate_wm_refuses_first(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    (tmp_path / "adir.png").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate-wm", "tiny", *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "--published"),
        ("benchmark",),
        ("study", "--game", "Pong"),
        ("dream", "Pong"),
        ("train-agent", "Pong"),
    ],
)
def test_every_command_looks_at_its_output_first(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    name = {"dream": "a.gif", "train-agent": "a.zip", "study": ""}.get(words[0], "a.json")
    assert main([*words, "--out", str(tmp_path / "file" / name)]) == 2
    assert "--out needs a folder, but" in capsys.readouterr().err


def test_figures_are_saved_and_printed_before_pictures_are_drawn(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skimage")
    save_tiny_model(game="Walk")
    worlds.store(home / "data" / "walk-test", 2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate_wm.EvaluateWm, "_held_out", lambda *_: {})
    monkeypatch.setattr(evaluate_wm, "measure", lambda *_: Fidelity({"mse_1": 0.25}))
    monkeypatch.setattr(evaluate_wm.EvaluateWm, "_write", full)
    assert main(["evaluate-wm", "tiny", "--save", "--json", "--picture", str(tmp_path / "a.png")]) != 0
    assert json.loads(capsys.readouterr().out)["mse_1"] == 0.25
    assert resolve("tiny").card.figures["mse_1"] == 0.25
