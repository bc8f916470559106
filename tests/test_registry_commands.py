"""The registry by command: list, info, export, verify, remove."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from cards import listed
from released import ATARI_FILES, save_golden
from said import one_line

from diamond_gym import cli
from diamond_gym.registry import load_world_model, resolve, save_model
from diamond_gym.registry.loading import read_model
from diamond_gym.registry.published import published
from diamond_gym.registry.released import read_released


def test_list_tells_what_can_be_pulled(capsys: pytest.CaptureFixture[str]) -> None:
    save_golden()
    assert cli.main(["list"]) == 0
    assert "diamond-gym pull NAME" in capsys.readouterr().out
    assert cli.main(["list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["golden"]["from"] == "you"
    row = rows["pong-diamond"]
    assert (row["from"], row["pull"]) == ("hub", "diamond-gym pull Pong")
    assert row["license"] == published()["Pong"].license
    assert (rows["golden"]["agent"], row["agent"], rows["csgo-diamond"]["agent"]) == (True, True, False)
    assert row["published"]["mean_score"] == 20.36


def test_json_has_no_word_for_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    entry, weights, _ = read_model(resolve(save_golden()))
    facts = {"agent": {"sampler": {"s_tmax": math.inf, "num_denoising_steps": 1}}}
    save_model(replace(entry.card, training=facts), weights)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert cli.main(["info", "golden", "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found["training"]["agent"]["sampler"] == {"s_tmax": None, "num_denoising_steps": 1}


def test_info_of_what_can_be_pulled_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("Alien", "CSGO"):
        assert cli.main(["info", word]) == 1
        assert f"`diamond-gym pull {word.replace('CSGO', 'csgo')}`" in one_line(capsys)


def test_export_verify_remove(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = save_golden()
    out = tmp_path / "out"
    assert cli.main(["export", golden, str(out)]) == 0
    assert listed(out) == ["golden.md", "golden.safetensors", "golden.toml"]
    assert load_world_model(out, "cpu", "float32").num_actions == 5
    assert cli.main(["export", golden, str(out)]) == 0  # the same model again
    other = read_released(*ATARI_FILES, "Breakout", "other")
    save_model(other.card, other.weights)
    capsys.readouterr()
    assert cli.main(["export", "other", str(out)]) == 2
    assert "holds another model already" in one_line(capsys)

    assert cli.main(["verify", "--all"]) == 0
    weights = resolve(golden).file("weights")
    assert weights is not None
    weights.write_bytes(weights.read_bytes()[:-1])
    capsys.readouterr()
    assert cli.main(["verify", "--all"]) == 1
    out_text, err_text = capsys.readouterr()
    assert "other: 1 files, as its card says" in out_text
    assert err_text.count("\n") == 1
    assert "is truncated" in err_text
    assert cli.main(["verify", golden]) == 1
    assert cli.main(["export", golden, str(tmp_path / "no")]) == 1
    assert not (tmp_path / "no").exists()

    assert cli.main(["remove", golden]) == 0
    assert [path.name for path in (home / "models").iterdir()] == ["other"]
