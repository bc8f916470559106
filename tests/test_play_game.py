"""A game as somebody plays it: who plays, what is recorded and replayed, and what is loaded for it."""

import gc
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stubs import ACTIONS, save_tiny_model

from diamond_gym.cli import main
from diamond_gym.cli.play import Play
from diamond_gym.data.about import About
from diamond_gym.data.episodes import EpisodeStore
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.play import game as game_module
from diamond_gym.play import recording
from diamond_gym.play.agent import OwnAgent, SavedAgentLooksOn
from diamond_gym.play.game import Game
from diamond_gym.play.reality import Reality, RealStep
from diamond_gym.play.recording import ActionLog
from diamond_gym.play.settings import Begin
from diamond_gym.play.worlds import Loaded, Worlds, open_agent
from diamond_gym.registry import resolve
from diamond_gym.registry.card import FileRecord
from diamond_gym.trainers.policies import own_file
from diamond_gym.trainers.worlds import can_play_game


@pytest.fixture
def worlds() -> Worlds:
    save_tiny_model()
    return Worlds("cpu", "float32", first=resolve("tiny"))


def begin(worlds: Worlds, **how: object) -> Game:
    return Game(worlds.take(worlds.entry("Breakout")), Begin(**{"seed": 4, **how}))


def frames(game: Game, steps: int) -> list[bytes]:
    return [game.advance().obs.tobytes() for _ in range(steps)]


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> OwnAgent:
    torch.manual_seed(3)
    config = ActorCriticConfig(lstm_dim=8, img_size=16, channels=[8, 8], down=[1, 1], num_actions=ACTIONS)
    network = ActorCritic(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    monkeypatch.setattr(game_module, "open_agent", lambda loaded, path: (OwnAgent(network.eval()), ""))
    return OwnAgent(network)


def test_a_held_key_takes_over_from_the_agent(worlds: Worlds, agent: OwnAgent) -> None:
    game = begin(worlds, agent_plays=True)
    assert (game.control, game.agent_kind) == ("agent", "actor-critic")
    steps = [game.advance() for _ in range(8)]
    assert {step.by for step in steps if step.action is not None} == {"agent"}
    game.controls.hold(["w"])
    held = [step for step in (game.advance() for _ in range(6)) if step.action is not None]
    assert {(step.by, step.action) for step in held} == {("human", 2)}
    assert all(len(step.probabilities) == ACTIONS and step.value is not None for step in held)
    game.controls.hold([])
    assert {step.by for step in (game.advance() for _ in range(6)) if step.action is not None} == {"agent"}
    game.take_over("human")
    assert {step.action for step in (game.advance() for _ in range(6))} <= {0, None}


def test_without_an_agent_nobody_takes_over(worlds: Worlds) -> None:
    game = begin(worlds, agent_plays=True)
    assert game.control == "human"
    with pytest.raises(BadArgument, match="train-agent"):
        game.take_over("agent")


def test_the_agent_plays_alike_for_one_seed(worlds: Worlds, agent: OwnAgent) -> None:
    one, other, third = (begin(worlds, agent_plays=True, seed=seed) for seed in (4, 4, 5))
    played = frames(one, 12)
    assert frames(other, 12) == played
    assert frames(third, 12) != played


def test_bundled_agents_see_as_they_play() -> None:
    saved = own_file(resolve("breakout-nano"), "cpu")
    assert saved is not None
    looks_on, plays = SavedAgentLooksOn(saved), saved.playing(1, deterministic=True)
    assert looks_on.kind == "dqn"
    for first in (True, False, False, True, False):
        frame = np.random.default_rng(first).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        chances, value = looks_on.see(frame, torch.zeros(4, 3, 64, 64), first)
        assert int(np.argmax(chances)) == plays(frame[None], np.array([first]))[0]
        assert sum(chances) == pytest.approx(1)
        assert value is not None


def test_without_sb3_a_line_says_what_the_agent_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Loaded(resolve("breakout-nano"), SimpleNamespace(actor_critic=None), None)
    monkeypatch.setitem(sys.modules, "diamond_gym.trainers.sb3_files", None)
    assert open_agent(loaded) == (None, "its agent needs stable_baselines3: pip install 'diamond-gym[sb3]'")
    with pytest.raises(DiamondGymError, match="pip install"):
        open_agent(loaded, "x.zip")


def test_what_is_recorded_is_what_was_played(worlds: Worlds, tmp_path: Path) -> None:
    game = begin(worlds, record=tmp_path / "play", horizon=6)
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
    worlds: Worlds, tmp_path: Path, begin_anew: str
) -> None:
    game = begin(worlds, record=tmp_path / "play")
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


def test_a_full_recording_says_so_once(worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_STEPS", 4)
    game = begin(worlds, record=tmp_path / "play")
    frames(game, 3)
    assert game.notices == []
    frames(game, 4)
    assert game.notices == ["the recording is full: it keeps these 4 steps"]
    assert (game.record(False) or {})["steps"] == 4


def test_a_long_recording_is_not_offered_as_a_gif(
    worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(game_module, "MOST_GIF_STEPS", 2)
    for steps, formats in ((2, ["mp4", "gif", "log"]), (3, ["mp4", "log"])):
        game = begin(worlds, record=tmp_path / "play")
        while game.recorder.num_steps < steps:
            game.advance()
        assert (game.record(False) or {})["formats"] == formats


def test_a_recording_is_kept_when_the_game_is_closed(worlds: Worlds, tmp_path: Path) -> None:
    game = begin(worlds, record=tmp_path / "play")
    frames(game, 3)
    assert game.close() == ""
    with EpisodeStore(tmp_path / "play", "r") as store:
        assert store.num_steps == sum(name == "act" for name, _ in game.session.operations)


def pong_store(folder: Path) -> None:
    EpisodeStore(folder, "a", About("Pong", (64, 64, 3), 6)).close()


def test_a_store_of_something_else_is_refused_before_anything_is_played(worlds: Worlds, tmp_path: Path) -> None:
    pong_store(tmp_path / "pong")
    with pytest.raises(BadArgument, match="use another folder"):
        begin(worlds, record=tmp_path / "pong")
    assert begin(worlds, record=tmp_path / "new" / "one").recorder is not None
    assert not (tmp_path / "new").exists(), "nothing is made before there is anything to store"


def test_a_folder_that_cannot_be_one_is_refused(worlds: Worlds, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in ("file", "file/below"):
        with pytest.raises(BadArgument, match="file is not a folder"):
            begin(worlds, record=tmp_path / folder)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "00000000000000000001-00000000.safetensors").touch()
    with pytest.raises(BadArgument, match="restore it, or use another folder"):
        begin(worlds, record=tmp_path / "bare")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "store.json").write_text("{")
    with pytest.raises(BadArgument, match="is damaged"):
        begin(worlds, record=tmp_path / "damaged")


def test_a_store_that_became_something_else_is_told(worlds: Worlds, tmp_path: Path) -> None:
    game = begin(worlds, record=tmp_path / "pong")
    pong_store(tmp_path / "pong")
    frames(game, 3)
    recorded = game.record(False)
    assert recorded is not None
    assert recorded["store"] is None
    assert "use another folder" in game.notices[0]


@pytest.mark.parametrize("spoil", [pong_store, Path.touch])
def test_the_end_of_a_game_says_what_was_not_stored(worlds: Worlds, tmp_path: Path, spoil: Callable) -> None:
    game = begin(worlds, record=tmp_path / "play", horizon=None)
    game.controls.hold(["w"])
    frames(game, 3)
    steps = game.recorder.num_steps
    spoil(tmp_path / "play")
    why = game.close()
    assert why.startswith(f"the recording ({steps} steps) was not stored: ") and "\n" not in why
    assert str(tmp_path / "play") in why
    assert game.close() == "", "it is said once"


def test_a_log_is_played_again_bit_for_bit(worlds: Worlds, tmp_path: Path) -> None:
    game = begin(worlds, horizon=7)
    for keys in (["w"], [], ["space"], ["w", "space"]):
        game.controls.hold(keys)
        frames(game, 4)
    game.rewind(9)
    game.set_quality("fast")
    branches = game.branch("dice", 3, 2)
    while not branches.done:
        branches.advance()
    game.choose(1)
    frames(game, 5)
    game.log.write(tmp_path / "log.json")
    shown = [game.session.at(step).obs.tobytes() for step in range(game.session.now.step + 1)]
    again = begin(worlds, replay=ActionLog.read(tmp_path / "log.json"), seed=99, quality="fine")
    assert again.session.now.obs.tobytes() == shown[0]
    assert frames(again, len(shown) - 1) == shown[1:]
    assert again.notices == ["the recording has ended"]
    again.controls.hold(["w"])
    assert again.advance().step == len(shown)
    other = begin(worlds, replay=ActionLog.read(tmp_path / "log.json"))
    other.controls.hold(["w"])
    frames(other, 3)
    assert other.notices == [], "a held key ends the replay"
    assert {step for name, step in other.session.operations if name == "act"} == {2}


@pytest.mark.parametrize(
    ("operations", "horizon"),
    [
        ([["fly", 1]], None), ([["reset", -1]], None), ([["reset", 4], ["act", {"a": 1}]], None),
        ([["quality", {}], ["reset", 1]], None), ([["reset", 4]], "often"), ([["reset", 4]], 0), ([["act", 1]], None),
        ([["reset", 4], ["act", [[1] * 600] * 9]], None), ([["start", 10**9]], None), ([["dice", None]], None),
    ],
)  # fmt: skip
def test_a_log_that_is_none_is_refused(worlds: Worlds, operations: list, horizon: object) -> None:
    log = ActionLog("Breakout", "tiny", "", {"horizon": horizon}, operations)
    with pytest.raises(BadArgument) as error:
        begin(worlds, replay=log).advance()
    assert len(str(error.value)) < 200


def test_another_model_s_frames_are_noticed(worlds: Worlds, tmp_path: Path) -> None:
    game = begin(worlds)
    frames(game, 4)
    game.log.frames = dict.fromkeys(game.log.frames, "0" * 16)
    again = begin(worlds, replay=game.log)
    assert "not the recorded ones" in again.notices[0]


def test_looking_back_loses_nothing(worlds: Worlds) -> None:
    game = begin(worlds)
    frames(game, 9)
    game.look_back(3)
    view = game.view()
    assert (view.step.step, view.seek, view.last) == (3, 3, 9)
    assert view.step.obs.tobytes() == game.session.at(3).obs.tobytes()
    game.look_back(None)
    assert game.view().step.step == 9
    game.look_back(3)
    assert game.advance().step == 4, "a step follows the frame that is shown"
    with pytest.raises(BadArgument):
        game.look_back(9)
    assert [step for step, _ in game.session.thumbnails(32)] == [0, 1, 2, 3, 4]


def test_the_quality_stays_when_going_back(worlds: Worlds) -> None:
    game = begin(worlds)
    frames(game, 4)
    game.set_quality("fast")
    frames(game, 2)
    game.rewind(2)
    assert game.session.now.quality == "fast"
    assert game.session.dream.sampler.num_denoising_steps == 1


def test_one_model_however_many_play(worlds: Worlds) -> None:
    one, other = begin(worlds), begin(worlds)
    assert one.loaded is other.loaded
    assert one.loaded.players == 2
    frames(one, 3)
    assert one.session.now.step == 3
    assert other.session.now.step == 0
    assert frames(other, 3) == [one.session.at(step).obs.tobytes() for step in (1, 2, 3)]


def test_a_model_that_is_fitted_again_is_loaded_anew(worlds: Worlds) -> None:
    before, alone = begin(worlds), begin(worlds)
    reference, shown = weakref.ref(before.loaded.model), frames(alone, 3)
    save_tiny_model(seed=1)
    after = begin(worlds)
    assert after.loaded is not before.loaded
    assert (before.loaded.players, after.loaded.players) == (2, 1)
    assert frames(before, 3) == shown, "who plays already goes on in the old one"
    assert frames(after, 3) != shown
    assert begin(worlds).loaded is after.loaded
    for game in (before, alone):
        worlds.give_back(game.loaded)
    del before, alone, game
    gc.collect()
    assert reference() is None
    fresh = Worlds("cpu", "float32", first=resolve("tiny"))
    assert frames(begin(fresh), 3) == frames(begin(worlds), 3)


def test_an_agent_that_is_trained_again_is_opened_anew(worlds: Worlds) -> None:
    entry = worlds.entry("Breakout")
    loaded, record = worlds.take(entry), FileRecord("tiny.agent.zip", "0" * 64, 1)
    other = replace(entry, card=replace(entry.card, files={**entry.card.files, "agent": record}))
    assert other.dreams == entry.dreams
    assert not loaded.is_of(other) and loaded.is_of(worlds.entry("Breakout"))


def test_the_first_model_is_offered_as_it_is_now(worlds: Worlds) -> None:
    save_tiny_model(seed=1)
    first = worlds.entry("Breakout")
    assert first.dreams == resolve("tiny").dreams
    first.path.unlink()
    assert worlds.entry("Breakout").path == first.path, "its players go on"


def test_models_that_nobody_plays_are_let_go(worlds: Worlds) -> None:
    entries = [worlds.entry("Breakout", "tiny")]
    for name in ("b", "c", "d"):
        save_tiny_model(name)
        entries.append(worlds.entry("Breakout", name))
    loaded = [worlds.take(entry) for entry in entries]
    references = [weakref.ref(each.model) for each in loaded]
    for each in loaded:
        worlds.give_back(each)
    del loaded, each
    assert [reference() is None for reference in references] == [True, True, False, False]


def test_worlds_are_listed_without_loading_them(worlds: Worlds) -> None:
    listing = worlds.listing()
    assert [world["name"] for world in listing] == ["Breakout", "Boxing", "Freeway", "KungFuMaster", "MsPacman", "Pong"]
    breakout, pong = listing[0], listing[-1]
    assert [model["name"] for model in breakout["models"]] == ["tiny", "breakout-nano"]
    assert (breakout["real"], pong["real"]) == (False, can_play_game("Pong"))
    assert breakout["keys"] == [[["space"], 1], [["w"], 2], [["w", "space"], 3]]
    assert pong["size"] == [64, 64]
    assert not worlds._loaded
    for world, model in (("Tetris", None), ("Breakout", "pong-nano"), ("Breakout", "../tiny"), ("", "")):
        with pytest.raises(BadArgument, match="no such"):
            worlds.entry(world, model)


@pytest.mark.parametrize("where", ["rewind", "replay"])
def test_the_real_game_beside(where: str, tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    save_tiny_model("tall", size=64)
    worlds = Worlds("cpu", "float32", first=resolve("tall"))
    game = begin(worlds, real=True)
    assert game.session.now.start == -1
    steps = [game.advance() for _ in range(9)]
    assert all(step.real is not None for step in steps)
    seen = [(step.obs.tobytes(), step.real.frame.tobytes(), step.real.divergence) for step in steps]
    if where == "rewind":
        game.rewind(3)
        steps = steps[3:]
        seen = seen[3:]
    else:
        game.close()
        game = begin(worlds, replay=game.log)
    again = [game.advance() for _ in steps]
    assert [(step.obs.tobytes(), step.real.frame.tobytes(), step.real.divergence) for step in again] == seen
    game.set_real(False)
    assert game.session.now.real is None
    game.close()


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


def test_only_models_of_the_game_s_own_frames_are_played_beside_it(worlds: Worlds) -> None:
    pytest.importorskip("ale_py")
    game = begin(worlds)
    with pytest.raises(BadArgument, match="not the real game's"):
        game.set_real(True)
    assert game.advance().step == 1


def test_a_recording_is_replayed_as_it_was_made(
    worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = begin(worlds)
    assert game.log.settings == {"horizon": None, "device": "cpu", "precision": "float32", "compile": False}
    game.log.settings |= {"precision": "bfloat16", "compile": True}
    game.log.write(tmp_path / "log.json")
    made = []
    monkeypatch.setattr("diamond_gym.play.worlds.Worlds", lambda *args: made.append(args))
    monkeypatch.setattr(Play, "_in_browser", lambda *_: 0)
    assert main(["play", "Pong", "--replay", str(tmp_path / "log.json")]) == 0
    assert made[0][1:3] == ("bfloat16", True)
    assert made[0][3].name == "tiny"
