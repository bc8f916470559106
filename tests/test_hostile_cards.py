"""Hostile cards and configurations: each ends in one line, and hides no other model."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import yaml
from hostile import RAW, VALUES, Case, attempt, both, bounded, changed, dreamed, places, raw, some
from released import tiny_release
from stubs import save_tiny_model

from diamond_gym import cli
from diamond_gym.errors import DiamondGymError
from diamond_gym.registry import Entry, load_world_model, resolve
from diamond_gym.registry.released import read_released


@both
def test_cards(whole: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged card is listed as damaged, and every other model is found by name, by game and by path."""
    save_tiny_model()
    save_tiny_model("good", "Pong")
    entry = resolve("tiny")
    table = {"format": 1, **vars(entry.card)}
    table["files"] = {kind: vars(record) for kind, record in entry.card.files.items()}
    table["training"] = {
        "data": {"steps": 1},
        "known_failures": ["a"],
        "pulled": {"repository": "a/b"},
        "agent": {"x": 1},
    }
    table["spaces"] = {**table["spaces"], "low_res_shape": [16, 16, 3]}
    for part in ("denoiser", "reward_end"):
        table[part] = json.loads(json.dumps(table[part]))
    table["denoiser"]["inner_model"].pop("num_actions_conditioning", None)
    table["denoiser"].pop("upsampling_factor", None)
    table = {key: value for key, value in table.items() if value is not None}
    everywhere = [place for place in places(table) if place]
    cases: list[Case] = [(place, value) for place in everywhere for value in [*VALUES, datetime(2026, 1, 1)]]
    kinds = {"spaces", "denoiser", "reward_end", "sampler", "files"}

    def use(case: Case) -> None:
        entry.path.write_text(raw(tomli_w.dumps(changed(table, *case))), encoding="utf-8")
        capsys.readouterr()
        assert cli.main(["list", "--json"]) == 0
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        assert rows["good"].get("damaged") is None
        assert resolve("good").name == resolve("Pong").name == "good"
        if "tiny" in rows and rows["tiny"].get("damaged") is None:
            assert cli.main(["info", "tiny", "--json"]) in (0, 1)
            assert cli.main(["info", "tiny"]) in (0, 1)
            assert cli.main(["list"]) == 0
        dreamed()

    def nonsense(case: Case) -> bool:
        first, value = case[0][0], case[1]
        was: Any = table
        for key in case[0]:
            was = was[key]
        number = isinstance(was, int | float) and not isinstance(was, bool)
        alike = isinstance(value, int | float) and not isinstance(value, bool) if number else type(value) is type(was)
        unset = first == "sampler" and value == {}
        return first in kinds and not unset and (not alike or value != value or value == 10**18)

    attempt(cases if whole else some(cases), use, nonsense)


@both
def test_configurations_in_yaml(whole: bool, tmp_path: Path) -> None:
    pt, config, env = tiny_release(tmp_path)
    tables = {path: yaml.safe_load(path.read_text()) for path in (config, env)}
    odd = [
        "!!int ''",
        "!!python/object/apply:os.system ['x']",
        "&a [*a]",
        "${",
        "${..}",
        "${agent}",
        "${env.train.size}",
        "${.x}",
        "!!float x",
        "2001-99-99",
        "!!binary x",
        "{[1]: 2}",
        "0x" + "f" * 5000,
        "${eval:'1'}",
        "=",
        "<<",
        "!!timestamp x",
        "!!bool x",
        "${agent.denoiser.inner_model.channels.²}",
    ]
    cases = [
        (path, place, value)
        for path, table in tables.items()
        for place in places(table)
        for value in [*VALUES, *(f"{RAW}{text}" for text in odd)]
    ]

    def use(case: Any) -> None:
        path, place, value = case
        texts = {p: p.read_text() for p in (config, env)}
        text = raw(yaml.safe_dump(changed(tables[path], place, value), width=100_000))
        for piece in odd:
            for quoted in (
                f"'{RAW}{piece}'",
                f"'{RAW}{piece.replace(chr(39), chr(39) * 2)}'",
                f'"{RAW}{piece}"',
                RAW + piece,
            ):
                text = text.replace(quoted, piece)
        path.write_text(text)
        try:
            read_released(pt, config, env, "Breakout", "mine")
        finally:
            for p, old in texts.items():
                p.write_text(old)

    attempt(
        cases if whole else some(cases),
        use,
        lambda case: (
            case[1][0] in ("denoiser", "actor_critic", "rew_end_model")
            and (case[2] in ("text", "", [], {}) or case[2] != case[2] or case[2] == 10**18)
        ),
    )


def test_one_bad_card_hides_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_model()
    save_tiny_model("bad", "Pong")
    entry = resolve("bad")
    spaces = {**entry.card.spaces, "action_meanings": 5}
    entry.path.write_text(tomli_w.dumps({**tomli_of(entry), "spaces": spaces}))
    assert cli.main(["list"]) == 0
    out, err = capsys.readouterr()
    assert "bad" in out and "damaged" in out and "tiny" in out
    assert err.count("\n") == 1 and "spaces.action_meanings" in err
    assert cli.main(["list", "--json"]) == 0
    assert "spaces.action_meanings" in {r["name"]: r for r in json.loads(capsys.readouterr().out)}["bad"]["damaged"]
    assert cli.main(["info", "tiny"]) == cli.main(["info", "Breakout"]) == cli.main(["verify", "tiny"]) == 0
    assert cli.main(["info", "bad"]) == cli.main(["verify", "--all"]) == 1
    dreamed("Breakout")
    import diamond_gym

    with pytest.warns(UserWarning, match="action_meanings"):
        diamond_gym.register_ids()
    assert cli.main(["remove", "bad"]) == 0


def tomli_of(entry: Entry) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(entry.path.read_text())


def test_a_size_is_refused_before_memory_is_taken() -> None:
    save_tiny_model()
    entry = resolve("tiny")
    inner = {**entry.card.denoiser["inner_model"], "channels": [8192, 8192], "depths": [64, 64]}
    entry.path.write_text(replace(entry.card, denoiser={**entry.card.denoiser, "inner_model": inner}).to_toml())
    with bounded("huge"), pytest.raises(DiamondGymError, match="do not fit together"):
        load_world_model("tiny", "cpu", "float32")
