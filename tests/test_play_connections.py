"""Who plays on a server at once: limits, connections lost and taken up again, and the end."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette", reason="the extra play is not installed")
pytest.importorskip("uvicorn", reason="the extra play is not installed")
pytest.importorskip("websockets", reason="the extra play is not installed")


from play_client import WAIT, Client, House, gone, serving, tiny_worlds
from stubs import save_tiny_model

from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.play import server
from diamond_gym.play.recording import ActionLog
from diamond_gym.play.settings import Begin
from diamond_gym.play.worlds import Worlds

pytestmark = pytest.mark.usefixtures("no_error_is_logged")


def waited_for(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + WAIT
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_busy_until_somebody_leaves(house: House) -> None:
    clients = [Client(house).start() for _ in range(3)]
    with Client(house) as late:
        late.send("start", world="Breakout")
        assert late.until("busy")["limit"] == 3
        clients[0].start(seed=9)  # who plays already may begin anew
        clients[0].send("close")
        assert clients[0].closed() == 1000
        late.start()
    for client in clients[1:]:
        client.send("close")
        client.closed()


def test_each_has_a_dream_of_its_own(house: House) -> None:
    with (
        Client(house).paused(seed=1) as one,
        Client(house).paused(seed=2) as other,
        Client(house).paused(seed=1) as third,
    ):
        for action in (1, 2, 3):
            frames = [client.step(action) for client in (one, other, third)]
        assert (frames[0] == frames[2]).all()
        assert (frames[0] != frames[1]).any()


def test_a_lost_connection_goes_on(house: House) -> None:
    client = Client(house).paused()
    frame = client.step(2)
    step, identity = client.state["step"], client.hello["session"]
    client.socket.socket.shutdown(socket.SHUT_RDWR)
    with Client(house, resume=identity) as again:
        assert again.hello == {"type": "hello", "version": 1, "session": identity, "resumed": True}
        assert again.until("started")["seed"] == 5
        again.until("state", step=step, paused=True)
        while step not in again.frames:
            again.receive()
        assert (again.frames[step] == frame).all()
        with Client(house, resume=identity) as third:  # as another tab may take it
            assert third.hello["resumed"]
            assert again.closed() == 4001
            third.until("state")
            third.step(1)
            third.send("close")
    with Client(house, resume=identity) as late:
        assert not late.hello["resumed"]
        assert late.hello["session"] != identity


def test_a_session_that_is_not_resumed_ends(house: House, worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(house).start() as client:
        game = weakref.ref(house.server.players[client.hello["session"]].game)
        assert game() is not None
    assert not gone(game, 1.5)
    monkeypatch.setattr(server, "LINGER", 0.1)
    assert gone(game)
    assert client.hello["session"] not in house.server.players


def test_a_lost_session_makes_room(house: House) -> None:
    lost = [Client(house).start() for _ in range(3)]
    for client in lost:
        client.socket.socket.shutdown(socket.SHUT_RDWR)
    end = time.monotonic() + WAIT
    while any(player.channel.attached for player in house.server.players.values()) and time.monotonic() < end:
        time.sleep(0.02)
    with Client(house) as late:
        late.start()
        late.send("close")
        late.closed()


def test_closing_frees_the_memory(house: House, worlds: Worlds) -> None:
    with Client(house).start() as client:
        player = house.server.players[client.hello["session"]]
        references = [weakref.ref(player), weakref.ref(player.game), weakref.ref(player.game.session)]
        del player
        client.send("close")
        assert client.closed() == 1000
    assert all(gone(reference) for reference in references)
    assert client.hello["session"] not in house.server.players


def test_the_end_of_the_server_is_said(worlds: Worlds) -> None:
    with serving(worlds) as house:
        client = Client(house).start()
        house.running.should_exit = True
        assert client.until("closed")["reason"] == "the server has ended"
        assert client.closed() == 1001


def test_a_recording_that_cannot_be_stored_is_said_and_the_model_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "LINGER", 0.1)
    worlds = tiny_worlds(str(tmp_path / "home"))
    with serving(worlds, begin=Begin(record=tmp_path / "mine"), world="Breakout") as house:
        with Client(house).start() as client, Client(house).start() as lost:
            games = [house.server.players[each.hello["session"]].game for each in (client, lost)]
            while not all(game.recorder.num_steps for game in games):
                client.receive()
            (tmp_path / "mine").touch()
            client.send("start", world="Breakout")
            assert "is not a folder" in client.until("error")["text"]
            client.send("close")
            assert "was not stored" in client.until("notice")["text"]
            assert client.closed() == 1000
        assert waited_for(lambda: not house.server.players), "the reaper goes on"
        assert waited_for(lambda: games[0].loaded.players == 0)
    assert sum("was not stored" in record.getMessage() for record in caplog.records) == 2


def test_where_no_world_is_named_each_is_recorded_into_a_store_of_its_own(worlds: Worlds, tmp_path: Path) -> None:
    save_tiny_model("maze", "Maze")
    with serving(worlds, begin=Begin(record=tmp_path / "mine")) as house:
        for world in ("Breakout", "Maze", "Breakout"):
            with Client(house).start(world=world) as client:
                while not client.state["recording"]:
                    client.receive()
                client.send("record", on=False)
                assert client.until("recorded")["store"] == str(tmp_path / "mine" / world)
                client.send("close")
                assert client.closed() == 1000
    stores = {path.name: EpisodeStore(path) for path in (tmp_path / "mine").iterdir()}
    assert {name: store.about.game for name, store in stores.items()} == {"Breakout": "Breakout", "Maze": "Maze"}
    assert len(stores["Breakout"]) >= 2, "the second game went into the first one's store"
    assert len(stores["Maze"]) >= 1
    with serving(worlds, begin=Begin(record=tmp_path / "one"), world="Breakout") as house, Client(house).start() as one:
        while not one.state["recording"]:
            one.receive()
        one.send("record", on=False)
        assert one.until("recorded")["store"] == str(tmp_path / "one")


def test_others_play_on_while_a_game_ends(tmp_path: Path) -> None:
    """As it has to wait where another model is being loaded."""
    worlds = tiny_worlds(str(tmp_path))
    with serving(worlds) as house, Client(house).start() as one, Client(house).paused() as other:
        loaded = house.server.players[one.hello["session"]].game.loaded
        assert waited_for(lambda: loaded.players == 2)
        with worlds._lock:
            one.send("close")
            assert waited_for(lambda: one.hello["session"] not in house.server.players)
            for _ in range(3):
                other.step(1)
            assert loaded.players == 2
        assert one.closed() == 1000
        assert loaded.players == 1


def test_one_session_that_cannot_be_ended_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "LINGER", 0.1)
    with serving(tiny_worlds(str(tmp_path))) as house:
        with Client(house).start() as client:
            game = house.server.players[client.hello["session"]].game
            monkeypatch.setattr(game, "close", lambda: 1 / 0)
        assert waited_for(lambda: not house.server.players and game.loaded.players == 0)
        with Client(house).start() as other:
            reference = weakref.ref(house.server.players[other.hello["session"]].game)
        assert gone(reference), "the reaper goes on"
        last = [Client(house).start() for _ in range(2)]
        monkeypatch.setattr(house.server.players[last[0].hello["session"]].game, "close", lambda: 1 / 0)
        house.running.should_exit = True
        assert [client.closed() for client in last] == [1001, 1001]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["division by zero"] * 2
    caplog.clear()


def test_what_the_command_was_asked_for_is_what_begins(worlds: Worlds) -> None:
    asked = {"begin": Begin(quality="fast", horizon=3), "seed": 8, "world": "Breakout", "fps": 12}
    with serving(worlds, **asked) as house, Client(house) as client:
        client.send("start", world="Breakout")
        started = client.until("started")
        assert (started["seed"], started["horizon"]) == (8, 3)
        assert client.until("state")["quality"] == "fast"
        assert client.state["target_fps"] == 12


def test_a_log_is_replayed_in_the_model_that_it_is_of(worlds: Worlds) -> None:
    log = ActionLog("Breakout", "tiny", "", {}, [["reset", 77], ["act", 1]])
    with serving(worlds, begin=Begin(replay=log), world="Breakout") as house:
        for message, seed in (({}, 77), ({"seed": 9}, 9), ({"model": "breakout-nano", "seed": 3}, 3)):
            with Client(house) as client:
                client.send("start", world="Breakout", **message)
                assert client.until("started")["seed"] == seed
                client.until("state")
                client.send("close")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_the_command_prints_its_address_and_ends_quietly(root: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(root), "SSH_CONNECTION": "10.0.0.9 1 10.0.0.5 22", "USER": "ada"}
    words = [sys.executable, "-m", "diamond_gym", "play", "--no-open"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ) as command:
        assert command.stdout is not None
        printed = [command.stdout.readline().strip() for _ in range(3)]
        address = printed[0].removeprefix("play at").strip()
        port = urlsplit(address).port
        with urllib.request.urlopen(address, timeout=WAIT) as answer:
            assert b"<title" in answer.read()
        assert printed[1].endswith(f"ssh -N -L {port}:localhost:{port} ada@10.0.0.5")
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=WAIT)
    assert (command.returncode, out, err) == (0, "", "")
