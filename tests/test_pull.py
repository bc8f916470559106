"""Models that the authors published: what can be pulled, and pulling it from a mirror."""

import shutil
from pathlib import Path

import pytest
from released import ATARI_FILES, PULL, mirror
from said import one_line

from diamond_gym import cli
from diamond_gym.registry import entries, load_world_model, resolve
from diamond_gym.registry.games import games
from diamond_gym.registry.published import CSGO, published


def test_everything_published_is_known() -> None:
    assert list(published()) == [*games(), CSGO]
    for model in published().values():
        assert "none stated for the weights" in model.license
        assert "huggingface.co/eloialonso/diamond" in model.source
        if model.game != CSGO:
            figures = model.figures["published"]
            assert len(figures["scores"]) == 5
            assert figures["mean_score"] == pytest.approx(games()[model.game].diamond, rel=2e-3)
    hns = [model.figures["published"]["human_normalised"] for model in published().values() if model.scores]
    assert sum(hns) / len(hns) == pytest.approx(1.459, abs=2e-3)  # the paper's headline


def test_pull_from_a_mirror(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ale_py")
    folder = mirror(tmp_path / "mirror")
    assert cli.main(["pull", "breakout", "--from", str(folder), *PULL]) == 0
    entry = resolve("Breakout")
    card = entry.card
    assert (card.name, card.license) == ("breakout-diamond", published()["Breakout"].license)
    assert len(card.training["pulled"]["sha256"]) == 3
    assert card.figures["published"]["mean_score"] == 132.48
    assert "starts" in card.files
    assert load_world_model("Breakout", "cpu", "float32").actor_critic is not None
    assert resolve("hf:eloialonso/diamond") == entry
    capsys.readouterr()

    assert cli.main(["pull", "Breakout", "--from", str(folder), *PULL]) == 0
    assert "is here already" in capsys.readouterr().err
    assert cli.main(["pull", "Breakout", "--from", str(folder), "--again", *PULL]) == 0
    assert resolve("Breakout").card.training == card.training
    capsys.readouterr()

    # ever after, the file is that of the first pull
    (folder / "atari_100k/models/Breakout.pt").write_bytes(ATARI_FILES[0].read_bytes())
    before = resolve("Breakout")
    assert cli.main(["pull", "Breakout", "--from", str(folder), "--again", *PULL]) == 1
    assert "is not the file of the first pull" in one_line(capsys)
    assert resolve("Breakout") == before

    # a damaged model is fetched again without being asked
    weights = before.file("weights")
    assert weights is not None
    weights.write_bytes(b"")
    assert cli.main(["pull", "Breakout", "--from", str(mirror(tmp_path / "same")), *PULL]) == 0
    assert cli.main(["verify", "breakout-diamond"]) == 0


def test_pull_the_engine_from_a_mirror(tmp_path: Path) -> None:
    assert cli.main(["pull", "csgo", "--from", str(mirror(tmp_path))]) == 0
    model = load_world_model("CSGO", "cpu", "float32")
    assert model.upsampler is not None
    assert model.starts is not None
    assert model.card is not None
    assert set(model.card.training["pulled"]["sha256"]) == {*published()[CSGO].files, "csgo/spawn"}


def test_pull_all_goes_on_after_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ale_py")
    folder = mirror(tmp_path, "Pong", num_actions=6)
    assert cli.main(["pull", "--all", "--from", str(folder), *PULL]) == 1
    assert capsys.readouterr().err.count("there is no such file; was it fetched completely?") == 25
    assert [entry.name for entry in entries() if not entry.bundled] == ["pong-diamond"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pull"], 2, "which?"),
        (["pull", "Pong", "--all"], 2, "which?"),
        (["pull", "Pung"], 2, "nothing to pull for 'Pung'; did you mean Pong?"),
        (["pull", "a/b/c"], 2, "is not an address"),
        (["pull", "hf:../../etc"], 2, "is not an address"),
        (["pull", "Pong", "--from", "nowhere"], 2, "there is no folder nowhere"),
        (["push", "golden", "nobody"], 2, "is not an address"),
        (["push", "nothing", "a/b"], 1, "nothing"),
        (["verify"], 2, "which?"),
        (["remove", "../golden"], 1, "cannot be used"),
        (["remove", "nothing"], 1, "no model 'nothing' of your own"),
    ],
)
def test_asked_for_wrongly(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == code
    assert message in one_line(capsys)


def test_another_games_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mirror(tmp_path, "Pong", num_actions=4)
    assert cli.main(["pull", "Pong", "--from", str(folder), *PULL]) == 1
    assert "Pong has 6 actions" in one_line(capsys)


def test_a_link_out_of_the_mirror_is_refused(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mirror(tmp_path / "mirror")
    path = folder / "atari_100k/models/Breakout.pt"
    shutil.move(path, tmp_path / "secret.pt")
    path.symlink_to(tmp_path / "secret.pt")
    assert cli.main(["pull", "Breakout", "--from", str(folder), *PULL]) == 1
    assert "refused, it leads out of its folder" in one_line(capsys)
    assert not any(home.rglob("*.toml"))
