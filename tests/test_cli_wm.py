"""train-wm, evaluate-wm and dream as a user types them, on the real game with networks of a toy's size."""

import json
from importlib.util import find_spec
from pathlib import Path

import imageio.v3 as iio
import pytest
from stubs import save_tiny_model

from diamond_gym.cli import main
from diamond_gym.registry import resolve
from diamond_gym.registry.human_card import human_card

pytest.importorskip("ale_py")

TINY = (
    *("--preset", "nano", "--collect-steps", "400", "--test-steps", "300", "--windows", "4", "--precision", "float32"),
    *(
        "--denoiser.inner-model.cond-channels",
        "16",
        "--denoiser.inner-model.channels",
        "8",
        "8",
        "8",
        "--denoiser.inner-model.patch-size",
        "4",
    ),
    *("--reward-end.lstm-dim", "8", "--reward-end.channels", "8", "8", "8", "--denoiser-optimizer.batch-size", "2"),
    *("--reward-end-optimizer.batch-size", "2"),
)

SMALL = (
    *("--windows", "4", "--horizon", "4", "--rollouts", "2", "--rollout-steps", "5", "--free-dreams", "2"),
    *("--free-steps", "5", "--starts", "2", "--dreams-per-start", "2", "--num-denoising-steps", "1"),
)


def train(*words: str) -> int:
    return main(["train-wm", "--game", "Breakout", *TINY, *words])


def test_from_a_games_name_to_a_video(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--steps", "4", "--minutes", "0.0001") == 0
    assert "repeat the command to go on" in capsys.readouterr().err
    run = home / "runs" / "breakout-nano"
    assert (run / "checkpoint.pt").exists()
    assert not (home / "models").exists() or not list((home / "models").iterdir())

    assert train("--steps", "4") == 0
    assert "registered breakout-nano" in capsys.readouterr().err
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [4]
    assert list((run / "strips").glob("*.png"))
    card = resolve("Breakout").card
    assert card.name == "breakout-nano" and card.num_actions == 4
    assert card.training["steps"] == 4 and card.training["data"]["steps"] >= 400
    assert card.figures["mse_over_copy_16"] > 0

    check_fidelity(tmp_path, capsys)

    for name in ("dream.gif", "dream.mp4"):
        video = tmp_path / name
        assert main(["dream", "--game", "Breakout", "--steps", "6", "--num-envs", "3", "--out", str(video)]) == 0
        assert "18 frames in" in capsys.readouterr().out
        frames = iio.imread(video)
        assert len(frames) == 7 and frames[0].shape == (2 * 194 - 2, 2 * 194 - 2, 3)

    assert train("--steps", "4", "--sigma.loc", "1") == 2
    assert "was begun with fit.sigma.loc = 0.4, not 1.0; repeat its options" in capsys.readouterr().err


def check_fidelity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """evaluate-wm on the model that was just trained."""
    files = {
        option: tmp_path / f"{option}{suffix}"
        for option, suffix in (("picture", ".png"), ("sheet", ".png"), ("video", ".gif"))
    }
    if find_spec("matplotlib"):
        files["page"] = tmp_path / "page.png"
    words = ["evaluate-wm", "Breakout", *SMALL, "--save", "--json"]
    assert main([*words, *(word for option, path in files.items() for word in (f"--{option}", str(path)))]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["windows"] == 4 and table["mse_over_copy_4"] > 0 and 0 < table["ssim_copy_4"] <= 1
    assert table["held_out"]["policy"] == "mixed" and table["held_out"]["steps"] >= 300
    assert table["returns"]["random"]["starts"] == 2 and table["drift"]["steps"] == 5
    assert table["diversity_5"] > 0
    assert iio.imread(files["picture"]).shape[2] == 3
    assert len(iio.imread(files["video"])) >= 6
    assert iio.imread(files["sheet"]).shape[:2] == (2 * 2 * 130 - 2 + 22, 3 * 130 - 2 + 56), "the start, steps 1 and 5"
    assert table["returns"].keys() == {"random"}
    card = resolve("Breakout").card
    assert card.figures["mse_over_copy_4"] == table["mse_over_copy_4"] and card.figures["mse_over_copy_16"] > 0
    assert "held_out.policy | mixed" in human_card(card)

    assert main(["evaluate-wm", "Breakout", *SMALL, "--data", str(tmp_path / "nothing")]) == 1
    assert "there is no experience in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--horizon", "0"], "--horizon must be at least 1"),
        (["--windows", "0", "--picture", "a.png"], "--picture shows held-out windows"),
        (["--free-dreams", "0", "--sheet", "a.png"], "--sheet shows free dreams"),
        (["--sheet", "sheet.pdf"], "--sheet must end in .png"),
        (["--dreams-per-start", "1"], "--dreams-per-start must be 0 or at least 2"),
        (["--quick", "--save"], "too rough for a card"),
        (["--save", "--warm-up", "900"], "--save needs --warm-up 60"),
        (["--warm-up", "-1"], "--warm-up must be at least 0"),
        (["--page", "page.pdf"], "--page must end in .png"),
        (["--video", "film.avi"], "--video must end in .mp4 or .gif"),
        (["--played-by", "random", "mixed"], "--played-by needs a word for each of --data: 2 for 0"),
        (["--policies", "best"], "a policy must be one of random, scripted, agent, not best"),
        (["--policies", "agent"], "this model has no agent of its own"),
    ],
)
def test_evaluate_wm_refuses_nonsense_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_model(size=64)
    assert main(["evaluate-wm", "tiny", *words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--game", "Breakout", "--steps", "-1"], "--steps must be at least 1, not -1"),
        (["--game", "Breakout", "--out", "film.avi"], "--out must end in .mp4 or .gif"),
        (["--game", "Brakout"], "did you mean Breakout"),
        (["--game", "Pong", "--model", "breakout-nano"], "the model breakout-nano dreams Breakout, not Pong"),
        (
            ["--game", "Pong", "--starts", "zz"],
            "--starts must be any, first or a start's number, not 'zz'",
        ),
        (
            ["--game", "Pong", "--starts", "-1"],
            "--starts must be any, first or a start's number, not '-1'",
        ),
        (["--game", "Pong", "--starts", "99999"], "start 99999 does not exist"),
        (["--game", "Pong", "--out", "no/such/x.gif"], "--out must be in an existing folder, not in no/such"),
        (["--game", "Pong", "--device", "bad"], "device 'bad' cannot be used here (torch knows no such device)"),
        ([], "say what to dream"),
    ],
)
def test_dream_refuses_nonsense_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dream", *words]) != 0
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_train_refuses_an_unknown_game(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-wm", "--game", "Pongg", "--preset", "nano"]) == 2
    said = capsys.readouterr().err
    assert "did you mean Pong" in said and said.count("\n") == 1
