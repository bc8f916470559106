"""A game as somebody plays it: who plays, what is played again, and the real game beside it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from play_games import begin, frames
from stubs import ACTIONS, save_tiny_model

from diamond_gym.cli import main
from diamond_gym.cli.play import Play
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.play import game as game_module
from diamond_gym.play.agent import OwnAgent, SavedAgentLooksOn
from diamond_gym.play.recording import ActionLog
from diamond_gym.play.worlds import Loaded, Worlds, open_agent
from diamond_gym.registry import resolve
from diamond_gym.trainers.policies import own_file


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> OwnAgent:
    torch.manual_seed(3)
    config = ActorCriticConfig(lstm_dim=8, img_size=16, channels=[8, 8], down=[1, 1], num_actions=ACTIONS)
    network = ActorCritic(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    monkeypatch.setattr(game_module, "open_agent", lambda loaded, path: (OwnAgent(network.eval()), ""))
    return OwnAgent(network)


def test_a_held_key_takes_over_from_the_agent(tiny_worlds: Worlds, agent: OwnAgent) -> None:
    game = begin(tiny_worlds, agent_plays=True)
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


def test_without_an_agent_nobody_takes_over(tiny_worlds: Worlds) -> None:
    game = begin(tiny_worlds, agent_plays=True)
    assert game.control == "human"
    with pytest.raises(BadArgument, match="train-agent"):
        game.take_over("agent")


def test_the_agent_plays_alike_for_one_seed(tiny_worlds: Worlds, agent: OwnAgent) -> None:
    one, other, third = (begin(tiny_worlds, agent_plays=True, seed=seed) for seed in (4, 4, 5))
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


def test_a_log_is_played_again_bit_for_bit(tiny_worlds: Worlds, tmp_path: Path) -> None:
    game = begin(tiny_worlds, horizon=7)
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
    again = begin(tiny_worlds, replay=ActionLog.read(tmp_path / "log.json"), seed=99, quality="fine")
    assert again.session.now.obs.tobytes() == shown[0]
    assert frames(again, len(shown) - 1) == shown[1:]
    assert again.notices == ["the recording has ended"]
    again.controls.hold(["w"])
    assert again.advance().step == len(shown)
    other = begin(tiny_worlds, replay=ActionLog.read(tmp_path / "log.json"))
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
def test_a_log_that_is_none_is_refused(tiny_worlds: Worlds, operations: list, horizon: object) -> None:
    log = ActionLog("Breakout", "tiny", "", {"horizon": horizon}, operations)
    with pytest.raises(BadArgument) as error:
        begin(tiny_worlds, replay=log).advance()
    assert len(str(error.value)) < 200


def test_another_model_s_frames_are_noticed(tiny_worlds: Worlds, tmp_path: Path) -> None:
    game = begin(tiny_worlds)
    frames(game, 4)
    game.log.frames = dict.fromkeys(game.log.frames, "0" * 16)
    again = begin(tiny_worlds, replay=game.log)
    assert "not the recorded ones" in again.notices[0]


def test_looking_back_loses_nothing(tiny_worlds: Worlds) -> None:
    game = begin(tiny_worlds)
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


def test_the_quality_stays_when_going_back(tiny_worlds: Worlds) -> None:
    game = begin(tiny_worlds)
    frames(game, 4)
    game.set_quality("fast")
    frames(game, 2)
    game.rewind(2)
    assert game.session.now.quality == "fast"
    assert game.session.dream.sampler.num_denoising_steps == 1


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


def test_only_models_of_the_game_s_own_frames_are_played_beside_it(tiny_worlds: Worlds) -> None:
    pytest.importorskip("ale_py")
    game = begin(tiny_worlds)
    with pytest.raises(BadArgument, match="not the real game's"):
        game.set_real(True)
    assert game.advance().step == 1


def test_a_recording_is_replayed_as_it_was_made(
    tiny_worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = begin(tiny_worlds)
    assert game.log.settings == {"horizon": None, "device": "cpu", "precision": "float32", "compile": False}
    game.log.settings |= {"precision": "bfloat16", "compile": True}
    game.log.write(tmp_path / "log.json")
    made = []
    monkeypatch.setattr("diamond_gym.play.worlds.Worlds", lambda *args: made.append(args))
    monkeypatch.setattr(Play, "_in_browser", lambda *_: 0)
    assert main(["play", "Pong", "--replay", str(tmp_path / "log.json")]) == 0
    assert made[0][1:3] == ("bfloat16", True)
    assert made[0][3].name == "tiny"
