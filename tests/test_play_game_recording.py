"""What is recorded of a game, and which stores take it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from play_games import begin, frames
from stubs import save_tiny_model

from diamond_gym.data.about import About
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.play import game as game_module
from diamond_gym.play import recording
from diamond_gym.play.reality import Reality, RealStep
from diamond_gym.play.worlds import Worlds
from diamond_gym.registry import resolve


def test_what_is_recorded_is_what_was_played(tiny_worlds: Worlds, tmp_path: Path) -> None:
    game = begin(tiny_worlds, record=tmp_path / "play", horizon=6)
    game.controls.hold(["w", "space"])
    played = [game.session.now, *(game.advance() for _ in range(10))]
    back = played[-3].step
    game.rewind(back)
    assert game.recorder is not None
    played = [step for step in played if step.step <= back]
    recorded = game.record(False)
    assert recorded is not None
    assert recorded["steps"] == sum(step.action is not None for step in played)
    with EpisodeStore(tmp_path / "play", "r") as store:
        episodes = [store[i] for i in range(len(store))]
    assert sum(len(episode.act) for episode in episodes) == recorded["steps"]
    first = np.stack([step.obs for step in played if step.episode == 0])
    assert (episodes[0].obs == first).all()
    assert set(np.concatenate([episode.act for episode in episodes]).tolist()) == {3}
    assert game.record(False) is None


@pytest.mark.parametrize("begin_anew", ["new_start", "reset"])
def test_going_back_to_the_dream_before_records_nothing_that_never_happened(
    tiny_worlds: Worlds, tmp_path: Path, begin_anew: str
) -> None:
    game = begin(tiny_worlds, record=tmp_path / "play")
    game.controls.hold(["w"])
    played = [game.session.now]
    while len(played) < 4:
        played.append(game.advance())
        assert played[-1].action is not None, "the dream should last for these steps"
    getattr(game, begin_anew)()
    frames(game, 3)
    game.rewind(played[-1].step)
    played.append(game.advance())
    assert (game.record(False) or {})["steps"] == 4
    with EpisodeStore(tmp_path / "play", "r") as store:
        (episode,) = store
    assert (episode.obs == np.stack([step.obs for step in played])).all()


def test_a_full_recording_says_so_once(tiny_worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_STEPS", 4)
    game = begin(tiny_worlds, record=tmp_path / "play")
    frames(game, 3)
    assert game.notices == []
    frames(game, 4)
    assert game.notices == ["the recording is full: it keeps these 4 steps"]
    assert (game.record(False) or {})["steps"] == 4


def test_a_long_recording_is_not_offered_as_a_gif(
    tiny_worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(game_module, "MOST_GIF_STEPS", 2)
    for steps, formats in ((2, ["mp4", "gif", "log"]), (3, ["mp4", "log"])):
        game = begin(tiny_worlds, record=tmp_path / "play")
        while game.recorder.num_steps < steps:
            game.advance()
        assert (game.record(False) or {})["formats"] == formats


def test_a_recording_is_kept_when_the_game_is_closed(tiny_worlds: Worlds, tmp_path: Path) -> None:
    game = begin(tiny_worlds, record=tmp_path / "play")
    frames(game, 3)
    assert game.close() == ""
    with EpisodeStore(tmp_path / "play", "r") as store:
        assert store.num_steps == sum(name == "act" for name, _ in game.session.operations)


def pong_store(folder: Path) -> None:
    EpisodeStore(folder, "a", About("Pong", (64, 64, 3), 6)).close()


def test_a_store_of_something_else_is_refused_before_anything_is_played(tiny_worlds: Worlds, tmp_path: Path) -> None:
    pong_store(tmp_path / "pong")
    with pytest.raises(BadArgument, match="use another folder"):
        begin(tiny_worlds, record=tmp_path / "pong")
    assert begin(tiny_worlds, record=tmp_path / "new" / "one").recorder is not None
    assert not (tmp_path / "new").exists(), "nothing is made before there is anything to store"


def test_a_folder_that_cannot_be_one_is_refused(tiny_worlds: Worlds, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in ("file", "file/below"):
        with pytest.raises(BadArgument, match="file is not a folder"):
            begin(tiny_worlds, record=tmp_path / folder)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "00000000000000000001-00000000.safetensors").touch()
    with pytest.raises(BadArgument, match="restore it, or use another folder"):
        begin(tiny_worlds, record=tmp_path / "bare")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "store.json").write_text("{")
    with pytest.raises(BadArgument, match="is damaged"):
        begin(tiny_worlds, record=tmp_path / "damaged")


def test_a_store_that_became_something_else_is_told(tiny_worlds: Worlds, tmp_path: Path) -> None:
    game = begin(tiny_worlds, record=tmp_path / "pong")
    pong_store(tmp_path / "pong")
    frames(game, 3)
    recorded = game.record(False)
    assert recorded is not None
    assert recorded["store"] is None
    assert "use another folder" in game.notices[0]


@pytest.mark.parametrize("spoil", [pong_store, Path.touch])
def test_the_end_of_a_game_says_what_was_not_stored(tiny_worlds: Worlds, tmp_path: Path, spoil: Callable) -> None:
    game = begin(tiny_worlds, record=tmp_path / "play", horizon=None)
    game.controls.hold(["w"])
    frames(game, 3)
    steps = game.recorder.num_steps
    spoil(tmp_path / "play")
    why = game.close()
    assert why.startswith(f"the recording ({steps} steps) was not stored: ") and "\n" not in why
    assert str(tmp_path / "play") in why
    assert game.close() == "", "it is said once"


def test_a_lost_life_ends_what_is_recorded_of_the_real_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ale_py")

    class Losing(Reality):
        """Loses a life with every other step of a dream."""

        def begin(self, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
            self.steps = 0
            return super().begin(seed)

        def step(self, action: int, dreamed: np.ndarray) -> RealStep:
            self.steps += 1
            return replace(super().step(action, dreamed), life_lost=self.steps % 2 == 1)

    monkeypatch.setattr(game_module, "Reality", Losing)
    save_tiny_model("tall", size=64)
    game = begin(Worlds("cpu", "float32", first=resolve("tall")), real=True, record=tmp_path / "play")
    played, expected = [game.session.now, *(game.advance() for _ in range(16))], []
    for step in played:
        if step.action is None:
            expected.append([step.real.frame])
            continue
        expected[-1].append(step.real.frame)
        if step.real.life_lost:
            expected.append([step.real.frame])
    game.close()
    store = EpisodeStore(tmp_path / "play")
    wanted = [np.stack(frames) for frames in expected if len(frames) > 1]
    assert len(wanted) > 1
    assert [episode.obs.shape for episode in store] == [frames.shape for frames in wanted]
    assert all((episode.obs == frames).all() for episode, frames in zip(store, wanted, strict=True))
    lost = sum(step.action is not None and step.real.life_lost for step in played)
    assert sum(bool(episode.end[-1]) for episode in store) == lost > 0
    assert max(store.before) >= 0
    for number, before in enumerate(store.before):
        if before >= 0:
            assert (store[before].obs[-1] == store[number].obs[0]).all()


@pytest.mark.parametrize(
    ("way", "horizon", "stored"),
    [("terminated", None, (True, False)), ("truncated", None, (False, True)), ("", 1, (False, True))],
    ids=["the game's end", "ALE's time limit", "the dream's horizon"],
)
def test_what_ended_the_real_game_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, horizon: int | None, stored: tuple[bool, bool]
) -> None:
    pytest.importorskip("ale_py")

    class Ending(Reality):
        """Ends with its first step, in a way if there is one."""

        def step(self, action: int, dreamed: np.ndarray) -> RealStep:
            step = super().step(action, dreamed)
            return replace(step, **{way: True}) if way else step

    monkeypatch.setattr(game_module, "Reality", Ending)
    save_tiny_model("tall", size=64)
    worlds = Worlds("cpu", "float32", first=resolve("tall"))
    game = begin(worlds, seed=5, real=True, horizon=horizon, record=tmp_path / "play")
    played = [game.session.now, game.advance()]
    assert not played[-1].terminated, "the dream itself should go on"
    assert game.advance().action is None, "another game begins"
    game.close()
    (episode,) = EpisodeStore(tmp_path / "play")
    assert (episode.obs == np.stack([step.real.frame for step in played])).all()
    assert (bool(episode.end[-1]), bool(episode.trunc[-1])) == stored
