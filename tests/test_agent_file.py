"""An agent of Stable-Baselines3 beside a model, as its own: packed, registered, and played by every command."""

import json
import shutil
import zipfile
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from cards import listed
from stable_baselines3 import DQN
from stubs import ACTIONS, save_tiny_model
from test_agents import CONFIG, an_agent
from test_evaluate import Games
from test_train_agent import train_agent

from diamond_gym import cli
from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.registry import (
    load_world_model,
    loading,
    resolve,
    update_card,
    verify,
    with_agent,
    with_agent_file,
)
from diamond_gym.trainers import evaluate
from diamond_gym.trainers.measuring import policy_maker
from diamond_gym.trainers.policies import own_file
from diamond_gym.trainers.register import register_file
from diamond_gym.trainers.sb3 import AgentConfig
from diamond_gym.trainers.sb3_files import open_agent, packed

SIDE = 36  # the least that SB3's CnnPolicy takes


@pytest.fixture
def model() -> str:
    """A registered model whose frames are large enough."""
    save_tiny_model(size=SIDE)
    return "tiny"


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Agents trained for a moment in the dreams of such a model, each once for all tests."""
    folder = tmp_path_factory.mktemp("agents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIAMOND_GYM_HOME", str(folder / "home"))
        save_tiny_model(size=SIDE)
        for algo in ("dqn", "ppo"):
            config = AgentConfig("Breakout", algo, "tiny", steps=24, n_envs=2, max_episode_steps=5, device="cpu")
            train_agent(config, folder / f"{algo}.zip")
    return {algo: folder / f"{algo}.zip" for algo in ("dqn", "ppo")}


@pytest.fixture(params=["dqn", "ppo"])
def trained(request: pytest.FixtureRequest, model: str, agents: dict[str, Path], tmp_path: Path) -> Path:
    """An agent of the model's dreams."""
    return shutil.copy(agents[request.param], tmp_path / "agent.zip")


def test_packed_it_is_small_and_plays_the_same(trained: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.zip"
    small.write_bytes(packed(trained))
    assert small.stat().st_size < trained.stat().st_size / 2
    assert packed(trained) == small.read_bytes(), "the same bytes each time"
    old, new = open_agent(trained), open_agent(small)
    assert (new.card, new.channels, new.epsilon) == (old.card, old.channels, old.epsilon)
    for key, value in new.policy.state_dict().items():
        whole = old.policy.state_dict()[key.replace("q_net_target.", "q_net.")]
        torch.testing.assert_close(value, whole, rtol=1e-3, atol=1e-6)
    frames = np.random.default_rng(0).integers(256, size=(3, SIDE, SIDE, 3), dtype=np.uint8)
    first = np.ones(3, bool)
    acts = [agent.playing(3, deterministic=True)(frames, first).tolist() for agent in (old, new)]
    assert acts[0] == acts[1]
    assert packed(small) == small.read_bytes(), "packing twice changes nothing"


def test_stable_baselines_reads_what_was_packed(agents: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "small.zip").write_bytes(packed(agents["dqn"]))
    loaded = DQN.load(tmp_path / "small.zip", device="cpu")
    assert loaded.predict(np.zeros((SIDE, SIDE, 12), np.uint8), deterministic=True)[0] in range(ACTIONS)


def test_what_is_no_agent_is_not_registered(trained: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("data", "{}")
    with pytest.raises(DiamondGymError, match="not an agent saved by Stable-Baselines3"):
        register_file(resolve("tiny"), tmp_path / "a.zip")


def test_registered_it_is_a_file_of_the_model(trained: Path) -> None:
    before = resolve("tiny")
    update_card(before, before.card, {"preview": b"a picture"})
    entry = register_file(resolve("tiny"), trained)
    assert verify(resolve("tiny")) == entry
    assert listed(entry.folder) == [
        "tiny.agent.zip", "tiny.md", "tiny.png", "tiny.safetensors", "tiny.starts.npz", "tiny.toml",
    ]  # fmt: skip
    picture = entry.file("preview")
    assert picture is not None and picture.read_bytes() == b"a picture"
    assert entry.card.files["weights"] == before.card.files["weights"]
    assert entry.card.training["agent"]["steps"] >= 24
    assert "## Agent\n" in entry.path.with_suffix(".md").read_text()
    saved = own_file(entry)
    assert saved is not None and saved.card == open_agent(trained).card
    register_file(entry, trained)
    agent = entry.file("agent")
    assert agent is not None
    agent.write_bytes(b"damaged")
    with pytest.raises(DiamondGymError, match="agent file is truncated"):
        verify(entry)


def test_the_one_kind_of_agent_takes_the_place_of_the_other(model: str, agents: dict[str, Path]) -> None:
    config = {key: value for key, value in vars(CONFIG).items() if key != "img_size"}
    agent = type(an_agent())(type(CONFIG)(**{**config, "img_size": SIDE}))
    entry = with_agent(resolve("tiny"), config, agent.state_dict(), {"n": 1})
    assert entry.card.actor_critic is not None
    assert own_file(entry) is None
    entry = with_agent_file(entry, packed(agents["dqn"]), {"n": 2})
    assert entry.card.actor_critic is None
    assert load_world_model("tiny", "cpu").actor_critic is None
    assert entry.card.training["agent"] == {"n": 2}
    entry = with_agent(entry, config, agent.state_dict(), {"n": 3})
    assert own_file(entry) is None
    assert "tiny.agent.zip" not in listed(entry.folder)


def test_an_agent_of_other_dreams(trained: Path) -> None:
    save_tiny_model("other", size=SIDE, seed=5)
    with pytest.raises(BadArgument, match="not trained in the dreams of other as it is now"):
        register_file(resolve("other"), trained)


def test_it_plays_as_typed(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "real_games", lambda game, n, limit=None: Games(n, side=SIDE))
    out = tmp_path / "agent.zip"
    words = ["train-agent", "--game", "Breakout", "--algo", "dqn", "--steps", "24", "--n-envs", "2", "--device", "cpu"]
    assert cli.main([*words, "--episodes", "0", "--register", "--out", str(out)]) == 0
    assert "registered the agent with tiny" in capsys.readouterr().err
    assert cli.main(["list", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["tiny"]["agent"]
    assert cli.main(["evaluate", "--model", "tiny", "--episodes", "3", "--n-envs", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["policy"], row["scores"]) for row in rows] == [("the agent of tiny", [1, 2, 2]), ("random", [1, 2, 2])]
    words = ["dream", "--model", "tiny", "--agent", "own", "--steps", "4", "--num-envs", "2"]
    for name in ("one.gif", "two.gif"):
        assert cli.main([*words, "--out", str(tmp_path / name)]) == 0
    np.testing.assert_array_equal(iio.imread(tmp_path / "one.gif"), iio.imread(tmp_path / "two.gif"))
    assert "8 frames in" in capsys.readouterr().out


def test_what_is_played_is_hashed_once(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "real_games", lambda game, n, limit=None: Games(n, side=SIDE))
    entry, hashed = register_file(resolve("tiny"), trained), list[str]()
    hashing = loading.sha256_file
    monkeypatch.setattr(loading, "sha256_file", lambda path: hashed.append(path.name) or hashing(path))
    words = ["evaluate", "--model", "tiny", "--episodes", "2", "--n-envs", "2", "--device", "cpu"]
    assert cli.main(words) == 0
    agent = entry.file("agent")
    assert agent is not None and hashed == [agent.name]
    damaged = bytearray(agent.read_bytes())
    damaged[-1] ^= 1
    agent.write_bytes(damaged)
    capsys.readouterr()
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert "the agent file is not the one its card describes" in said and said.count("\n") == 1

    save_tiny_model(size=SIDE)
    config = {key: value for key, value in vars(CONFIG).items() if key != "img_size"}
    with_agent(resolve("tiny"), config, type(an_agent())(type(CONFIG)(**config, img_size=SIDE)).state_dict(), {})
    hashed.clear()
    assert cli.main(words) == 0
    files = resolve("tiny").card.files
    assert sorted(hashed) == sorted(files[kind].name for kind in ("weights", "starts"))


def test_it_is_one_of_the_policies_that_are_compared(trained: Path) -> None:
    entry = register_file(resolve("tiny"), trained)
    make = policy_maker(load_world_model("tiny", "cpu"), "Breakout", "agent", own_file(entry))
    frames = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    acts = make(3, np.random.default_rng(0))(frames, np.ones(3, bool))
    assert acts.shape == (3,)
    assert set(acts.tolist()) <= set(range(ACTIONS))


def test_the_real_game_has_no_model_to_register_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train-agent", "--game", "Breakout", "--algo", "dqn", "--real", "--register"]) == 2
    assert "--register is for an agent that learned in dreams" in capsys.readouterr().err
