"""The worlds that a play server offers: listed, loaded once, and anew when they have changed."""

import gc
import weakref
from dataclasses import replace

import pytest
from play_games import begin, frames
from stubs import save_tiny_model

from diamond_gym.errors import BadArgument
from diamond_gym.play.worlds import Worlds
from diamond_gym.registry import resolve
from diamond_gym.registry.card import FileRecord
from diamond_gym.trainers.worlds import can_play_game


def test_one_model_however_many_play(tiny_worlds: Worlds) -> None:
    one, other = begin(tiny_worlds), begin(tiny_worlds)
    assert one.loaded is other.loaded
    assert one.loaded.players == 2
    frames(one, 3)
    assert one.session.now.step == 3
    assert other.session.now.step == 0
    assert frames(other, 3) == [one.session.at(step).obs.tobytes() for step in (1, 2, 3)]


def test_a_model_that_is_fitted_again_is_loaded_anew(tiny_worlds: Worlds) -> None:
    before, alone = begin(tiny_worlds), begin(tiny_worlds)
    reference, shown = weakref.ref(before.loaded.model), frames(alone, 3)
    save_tiny_model(seed=1)
    after = begin(tiny_worlds)
    assert after.loaded is not before.loaded
    assert (before.loaded.players, after.loaded.players) == (2, 1)
    assert frames(before, 3) == shown, "who plays already goes on in the old one"
    assert frames(after, 3) != shown
    assert begin(tiny_worlds).loaded is after.loaded
    for game in (before, alone):
        tiny_worlds.give_back(game.loaded)
    del before, alone, game
    gc.collect()
    assert reference() is None
    fresh = Worlds("cpu", "float32", first=resolve("tiny"))
    assert frames(begin(fresh), 3) == frames(begin(tiny_worlds), 3)


def test_an_agent_that_is_trained_again_is_opened_anew(tiny_worlds: Worlds) -> None:
    entry = tiny_worlds.entry("Breakout")
    loaded, record = tiny_worlds.take(entry), FileRecord("tiny.agent.zip", "0" * 64, 1)
    other = replace(entry, card=replace(entry.card, files={**entry.card.files, "agent": record}))
    assert other.dreams == entry.dreams
    assert not loaded.is_of(other) and loaded.is_of(tiny_worlds.entry("Breakout"))


def test_the_first_model_is_offered_as_it_is_now(tiny_worlds: Worlds) -> None:
    save_tiny_model(seed=1)
    first = tiny_worlds.entry("Breakout")
    assert first.dreams == resolve("tiny").dreams
    first.path.unlink()
    assert tiny_worlds.entry("Breakout").path == first.path, "its players go on"


def test_models_that_nobody_plays_are_let_go(tiny_worlds: Worlds) -> None:
    entries = [tiny_worlds.entry("Breakout", "tiny")]
    for name in ("b", "c", "d"):
        save_tiny_model(name)
        entries.append(tiny_worlds.entry("Breakout", name))
    loaded = [tiny_worlds.take(entry) for entry in entries]
    references = [weakref.ref(each.model) for each in loaded]
    for each in loaded:
        tiny_worlds.give_back(each)
    del loaded, each
    assert [reference() is None for reference in references] == [True, True, False, False]


def test_worlds_are_listed_without_loading_them(tiny_worlds: Worlds) -> None:
    listing = tiny_worlds.listing()
    assert [world["name"] for world in listing] == ["Breakout", "Boxing", "Freeway", "KungFuMaster", "MsPacman", "Pong"]
    breakout, pong = listing[0], listing[-1]
    assert [model["name"] for model in breakout["models"]] == ["tiny", "breakout-nano"]
    assert (breakout["real"], pong["real"]) == (False, can_play_game("Pong"))
    assert breakout["keys"] == [[["space"], 1], [["w"], 2], [["w", "space"], 3]]
    assert pong["size"] == [64, 64]
    assert not tiny_worlds._loaded
    for world, model in (("Tetris", None), ("Breakout", "pong-nano"), ("Breakout", "../tiny"), ("", "")):
        with pytest.raises(BadArgument, match="no such"):
            tiny_worlds.entry(world, model)
