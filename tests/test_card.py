"""The games' table, and cards for programs and for people."""

import string
from typing import Any

import pytest
from cards import a_card
from hypothesis import given
from hypothesis import strategies as st

from diamond_gym import csgo
from diamond_gym.errors import BadArgument, DamagedModel
from diamond_gym.registry import (
    Card,
    FileRecord,
    game,
    games,
    models_folder,
)
from diamond_gym.registry.human_card import human_card


def test_games_table() -> None:
    assert len(games()) == 26
    assert list(games()) == sorted(games())
    pong = game("Pong")
    assert (pong.ale_id, pong.num_actions, pong.diamond) == ("pong", 6, 20.36)
    assert pong.human_normalised(pong.human) == 1
    for row in games().values():
        assert len(row.action_meanings) == row.num_actions
        assert row.action_meanings[0] == "NOOP"


@pytest.mark.parametrize(("typed", "meant"), [("Brakout", "Breakout"), ("ms_pacman", "MsPacman"), ("pong", "Pong")])
def test_unknown_game_suggests_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(BadArgument) as caught:
        game(typed)
    assert str(caught.value) == f"unknown game '{typed}'; did you mean {meant}?"


def test_game_far_from_all_names_gets_no_suggestion() -> None:
    for name in ("xyzzy", "Nope", "Tetris"):
        with pytest.raises(BadArgument, match=f"^unknown game '{name}'$"):
            game(name)


def test_games_actions_are_ales() -> None:
    ale_py = pytest.importorskip("ale_py")
    for row in games().values():
        ale = ale_py.ALEInterface()
        ale.loadROM(ale_py.roms.get_rom_path(row.ale_id))
        assert tuple(action.name for action in ale.getMinimalActionSet()) == row.action_meanings


# Cards


def test_card_survives_toml() -> None:
    files = {"weights": FileRecord("tiny.safetensors", "0" * 64, 3)}
    card = a_card(
        summary='quotes " and σ',
        reward_end={"lstm_dim": 8},
        sampler={"order": 2},
        training={"data": {"frames": 5}},
        figures={"mse": 0.5},
        files=files,
    )
    assert Card.from_toml(card.to_toml()) == card
    assert card.networks == ("denoiser", "reward_end")
    assert (card.obs_shape, card.num_actions, card.action_meanings) == ((64, 64, 3), 2, ("NOOP", "FIRE"))


def test_actions_have_the_words_of_their_kind_before_the_card_s() -> None:
    csgo_card = a_card(spaces={"obs_shape": [150, 280, 3], "num_actions": 51, "actions": {"kind": "csgo"}})
    assert csgo_card.action_meanings == csgo.NAMES
    assert f"| actions | {', '.join(csgo.NAMES)} |" in human_card(csgo_card)
    buttons = {"obs_shape": [64, 64, 3], "num_actions": 2, "actions": {"kind": "multi_binary", "shape": [2]}}
    assert a_card(spaces=buttons).action_meanings == ()
    assert a_card(spaces={**buttons, "action_meanings": ["left", "right"]}).action_meanings == ("left", "right")


plain = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8")),
)
table = st.dictionaries(st.text(string.ascii_letters, min_size=1), st.one_of(plain, st.lists(st.integers(0, 9))))


@given(figures=table, training=st.dictionaries(st.text(string.ascii_letters, min_size=1), table))
def test_any_table_survives_toml(figures: dict[str, Any], training: dict[str, Any]) -> None:
    card = a_card(figures={"x": 1, **figures}, training=training)
    assert Card.from_toml(card.to_toml() + "\n[files]\n") == card


@pytest.mark.parametrize(
    ("line", "changed", "message"),
    [
        ("format = 1", "format = 2", "'format' is 2"),
        ('name = "tiny"', "", "key 'name' is missing"),
        ('name = "tiny"', 'name = "../tiny"', "name '../tiny' cannot be used"),
        ('name = "tiny"', "name = 3", "key 'name' must be a string"),
        ('game = "Breakout"', 'game = "Breakout"\ngenre = "?"', "unknown key 'genre'"),
        ('created = "2026-11-22T12:00:00Z"', 'created = "yesterday"', "key 'created' must be a time"),
        ('created = "2026-11-22T12:00:00Z"', 'created = "2026-11-22"', "key 'created' must be a time"),
        ("num_actions = 2", "num_actions = 3", "'spaces.action_meanings' must be a list of 3 words"),
        ("num_actions = 2", "num_actions = true", "'spaces.num_actions' must be a whole number"),
        ("bytes = 3", "bytes = -3", "'files.weights.bytes' must be"),
        ("bytes = 3", "", "key 'files.weights.bytes' is missing"),
        ('name = "tiny.safetensors"', 'name = "../x"', "'files.weights.name' must be the plain name"),
        ("0" * 64, "F" * 64, "'files.weights.sha256' must be 64"),
        ("format = 1", "format = = 1", "not readable as TOML"),
    ],
)
def test_damaged_card_names_file_and_key(line: str, changed: str, message: str) -> None:
    text = a_card(files={"weights": FileRecord("tiny.safetensors", "0" * 64, 3)}).to_toml()
    assert line in text
    with pytest.raises(DamagedModel) as caught:
        Card.from_toml(text.replace(line, changed), "models/tiny.toml")
    assert str(caught.value).startswith("models/tiny.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=70))
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    try:
        save_path = models_folder() / Card.from_toml(a_card(name).to_toml() + "\n[files]\n").name
    except DamagedModel:
        return
    assert save_path.parent == models_folder()
    assert name not in (".", "..")


def test_human_card_tells_what_the_card_holds() -> None:
    text = human_card(
        a_card(
            summary="Small.",
            training={
                "steps": 7,
                "data": {"frames": 123},
                "known_failures": ["The ball fades."],
                "history": ["fitted", "fitted again"],
            },
            figures={"one_step": {"mse": 0.123456}},
        )
    )
    for words in (
        "# tiny",
        "Small.",
        "| frames | 123 |",
        "| steps | 7 |",
        "| one_step.mse | 0.1235 |",
        "MIT",
    ):
        assert words in text
    assert "- The ball fades." in text and "\n1. fitted\n2. fitted again\n\n| | |\n" in text
    assert "alonso2024diamond" in text
