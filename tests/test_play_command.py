"""`diamond-gym play` as a user types it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stubs import save_tiny_model

from diamond_gym.cli import main
from diamond_gym.cli.play import Play, address_of, has_a_screen, hints
from diamond_gym.data.about import About
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.play.game import Game

# The command


def test_addresses_are_those_of_a_browser() -> None:
    assert address_of("127.0.0.1", 80, "T", None) == "http://127.0.0.1:80/?token=T"
    assert address_of("0.0.0.0", 8000, "T", "Pong") == "http://127.0.0.1:8000/?token=T&world=Pong"
    assert address_of("::1", 8000, "T", None) == "http://[::1]:8000/?token=T"


def test_over_ssh_the_tunnel_is_told() -> None:
    pytest.importorskip("starlette")
    environ = {"SSH_CONNECTION": "10.0.0.9 51234 10.0.0.5 22", "USER": "ada"}
    (line, _) = hints("127.0.0.1", 8000, environ)
    assert line.endswith("ssh -N -L 8000:localhost:8000 ada@10.0.0.5")
    assert hints("127.0.0.1", 8000, {}) == ["Ctrl-C ends it"]
    assert "everybody" in hints("0.0.0.0", 8000, environ)[0]
    assert not has_a_screen({**environ, "DISPLAY": ":0"})
    assert has_a_screen({"DISPLAY": ":0"})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--horizon", "0"], "--horizon must be at least 1, or -1, not 0"),
        (["--fps", "61"], "--fps must be at most 60, not 61"), (["--port", "70000"], "--port must be at most 65,535"),
        (["--quality", "best"], "--quality must be"), (["--agent", "x"], "--agent must be own"),
        (["--terminal"], "say what to play"), (["--max-sessions", "0"], "--max-sessions must be at least 1"),
        (["Pong", "--quality", "quality"], "--quality must be fast or paper or fine for pong-nano, not quality"),
        (["--game", "Pong", "--model", "breakout-nano"], "the model breakout-nano dreams Breakout, not Pong"),
        (["Brakout"], "did you mean Breakout?"), (["--replay", "nowhere.json"], "there is no recording at nowhere"),
    ],
)  # fmt: skip
def test_what_cannot_be_played_is_said_in_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["play", *words, "--no-open"]) != 0
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_the_real_game_is_refused_before_the_server_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diamond_gym.play import worlds

    save_tiny_model("maze", "Maze")
    save_tiny_model("small", "Pong")
    for words, says in (
        (["maze"], "there is no real game of Maze: only Atari's run beside their dreams"),
        (["small"], "this model's frames or actions are not the real game's"),
    ):
        monkeypatch.setattr(worlds, "can_play_atari", lambda: True)
        assert main(["play", *words, "--real", "--no-open"]) == 2
        assert capsys.readouterr().err == f"{says}\n"
    monkeypatch.setattr(worlds, "can_play_atari", lambda: False)
    for words in ([], ["Boxing"]):
        assert main(["play", *words, "--real", "--no-open"]) == 2
        assert "pip install 'diamond-gym[atari]'" in capsys.readouterr().err


@pytest.mark.parametrize("where", [[], ["--terminal"]])
def test_a_folder_that_no_recording_can_be_added_to_is_refused_at_once(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Play, "_in_browser", lambda *_: 0)
    monkeypatch.setattr(Play, "_in_terminal", lambda *_: 0)
    save_tiny_model()
    EpisodeStore(tmp_path / "pong", "a", About("Pong", (64, 64, 3), 6)).close()
    (tmp_path / "file").touch()
    for folder, says in (("pong", "use another folder"), ("file", "is not a folder")):
        assert main(["play", "tiny", "--record", str(tmp_path / folder), "--no-open", *where]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert main(["play", "--record", str(tmp_path / "file"), "--no-open"]) == 2, "also where no world is named"
    assert "is not a folder" in capsys.readouterr().err
    assert main(["play", "--record", str(tmp_path / "pong"), "--no-open"]) == 2, "a store is of one world"
    says = f"{tmp_path / 'pong'} holds experience of Pong: say what to play, or use another folder\n"
    assert capsys.readouterr().err == says
    assert main(["play", "--record", str(tmp_path), "--no-open"]) == 0, "there is room for other worlds beside it"


def test_without_a_seed_the_terminal_begins_another_dream_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from diamond_gym.play import terminal

    played: list[tuple[int, bytes]] = []

    def play(game: Game, fps: int) -> None:
        played.append((game.session.now.seed, game.session.now.obs.tobytes() + game.advance().obs.tobytes()))

    save_tiny_model()
    monkeypatch.setattr(terminal, "play_in_terminal", play)
    for words in ([], [], ["--seed", "0"], ["--seed", "0"], ["--seed", "7"]):
        assert main(["play", "tiny", "--terminal", "--device", "cpu", *words]) == 0
    (one, other, *seeded), frames = zip(*played, strict=True)
    assert seeded == [0, 0, 7]
    assert one != other and {one, other}.isdisjoint({0, 7})
    assert frames[0] != frames[1] and frames[2] == frames[3]


def test_a_recording_that_cannot_be_stored_is_said_after_playing_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diamond_gym.play import terminal

    def play(game: Game, fps: int) -> None:
        for _ in range(3):
            game.advance()
        (tmp_path / "mine").touch()

    save_tiny_model()
    monkeypatch.setattr(terminal, "play_in_terminal", play)
    assert main(["play", "tiny", "--terminal", "--device", "cpu", "--record", str(tmp_path / "mine")]) == 1
    error = capsys.readouterr().err
    assert "was not stored" in error and str(tmp_path / "mine") in error
    assert error.count("\n") == 1
    (tmp_path / "mine").unlink()
    monkeypatch.setattr(terminal, "play_in_terminal", lambda game, fps: game.advance())
    assert main(["play", "tiny", "--terminal", "--device", "cpu", "--record", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().err == ""


def test_without_the_extra_one_line_says_what_to_install(root: Path) -> None:
    code = "import sys; sys.modules['starlette'] = None; from diamond_gym.cli import main; sys.exit(main(['play']))"
    environ = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env=environ)
    assert done.returncode == 1
    assert done.stderr == "this needs starlette; install it with: pip install 'diamond-gym[play]'\n"


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("starlette")
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["play", "--port", port, "--no-open"]) == 2
    assert f"cannot serve at 127.0.0.1:{port}" in capsys.readouterr().err
