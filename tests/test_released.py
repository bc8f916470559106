"""The authors' checkpoints: the golden numbers through an imported model, the command, the paper's sizes."""

import math
import multiprocessing
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from released import ATARI, ATARI_FILES, CSGO, CSGO_FILES, authors_run, episodes, import_words, spawns, tiny_release
from rounding import assert_close, assert_same_frames
from safetensors.torch import load_file

import diamond_gym
from diamond_gym import cli
from diamond_gym.registry import Card, games, load_world_model, now, resolve, save_model
from diamond_gym.registry.loading import expected_shapes
from diamond_gym.registry.published import published
from diamond_gym.registry.released import read_released
from diamond_gym.sampler import SamplerConfig, sample
from diamond_gym.starts import load_starts
from diamond_gym.world_model import WorldModel

Files = tuple[Path, Path, Path]
CHURN = {"s_churn": 10.0, "s_tmin": 1.0, "s_tmax": 5.0, "s_noise": 0.9}


def imported(files: Files, game: str) -> WorldModel:
    """Imported, saved, and loaded again by its name."""
    model = read_released(*files, game)
    save_model(model.card, model.weights)
    return load_world_model(model.card.name, "cpu", "float32")


# The golden numbers, through the registry


@torch.no_grad()
def test_atari_is_the_authors(home: Path) -> None:
    golden = load_file(ATARI / "expected.safetensors")
    model = imported(ATARI_FILES, "Breakout")
    assert (model.obs_shape, model.num_actions, model.card and model.card.action_meanings) == ((16, 16, 3), 5, ())
    assert {key: tuple(value.shape) for key, value in model.weights().items()} == {
        key: tuple(value.shape) for key, value in torch.load(ATARI_FILES[0], weights_only=True).items()
    }
    for case in ("denoise", "denoise_padded"):
        noisy, sigma, obs, act = (golden[f"{case}.{k}"] for k in ("noisy", "sigma", "obs", "act"))
        cs = model.denoiser.precondition(sigma)
        assert_close(model.denoiser.model_output(noisy, cs, obs, act), golden[f"{case}.model_output"])
        assert_same_frames(model.denoiser.condition(obs, act)(noisy, sigma), golden[f"{case}.denoised"])
    past = [golden[f"sampler.{k}"] for k in ("prev_obs", "prev_act", "initial_noise")]
    for name, config in {
        "euler3": SamplerConfig(),
        "heun3": SamplerConfig(order=2),
        "euler5_churn": SamplerConfig(5, s_churn=2, s_tmin=0.01, s_tmax=4, s_noise=0.9),
    }.items():
        noise = iter(golden["sampler.churn_noise"])
        _, trajectory = sample(model.denoiser.condition, *past, config, lambda shape, noise=noise: next(noise))
        assert_same_frames(torch.stack(trajectory, 1)[:, -1], golden[f"sampler.{name}.trajectory"][:, -1], 0.05)
    assert model.reward_end is not None
    assert model.actor_critic is not None
    obs, act = golden["reward_end.obs"], golden["reward_end.act"]
    logits_rew, logits_end, state = model.reward_end(obs[:, :-1], act[:, :-1], obs[:, 1:])
    for value, key in zip((logits_rew, logits_end, *state), ("logits_rew", "logits_end", "hx", "cx"), strict=True):
        assert_close(value, golden[f"reward_end.{key}"])
    memory = model.actor_critic.initial_state(golden["actor_critic.obs"].shape[1])
    for t, frame in enumerate(golden["actor_critic.obs"]):
        logits, val, memory = model.actor_critic(frame, memory)
        assert_close(logits, golden["actor_critic.logits_act"][t])
        assert_close(val, golden["actor_critic.val"][t])


@torch.no_grad()
def test_csgo_is_the_authors(home: Path) -> None:
    golden = load_file(CSGO / "expected.safetensors")
    model = imported(CSGO_FILES, "CSGO")
    assert (model.obs_shape, model.num_actions) == ((30, 40, 3), 51)
    assert model.card is not None
    assert model.card.spaces["low_res_shape"] == [6, 8, 3]
    assert model.reward_end is None
    assert model.upsampler is not None
    past = [golden[f"dynamics.{k}"] for k in ("prev_obs", "prev_act", "initial_noise")]
    noise = iter(golden["dynamics.conditioning_noise"])
    config = SamplerConfig(**model.card.sampler)
    _, trajectory = sample(model.denoiser.condition, *past, config, lambda shape: next(noise))
    assert_same_frames(trajectory[-1], golden["dynamics.euler1_cond.trajectory"][:, -1])
    part = {k.removeprefix("upsampler."): v for k, v in golden.items() if k.startswith("upsampler.")}
    enlarged = F.interpolate(part["low_res"], scale_factor=5, mode="bicubic")
    obs = torch.cat((part["prev_full"], enlarged[:, None]), dim=1)
    noise = iter(part["churn_noise"])
    config = SamplerConfig(1, sigma_min=1, order=2, **CHURN)
    _, trajectory = sample(
        model.upsampler.condition, obs, None, part["initial_noise"], config, lambda shape: next(noise)
    )
    assert_same_frames(trajectory[-1], part["fast.trajectory"][:, -1])


# The command


def test_gym_make_on_the_imported_agent(tmp_path: Path) -> None:
    store = episodes(tmp_path / "store")
    assert cli.main(import_words(ATARI_FILES, "--starts", str(store), "--name", "golden", "--license", "MIT")) == 0
    assert resolve("golden").card.license == "MIT"
    diamond_gym.register_ids()
    env = gym.make("DiamondDream-golden-v0", device="cpu", precision="float32")
    obs, _ = env.reset(seed=0)
    assert obs.shape == (16, 16, 3)
    for action in range(5):
        obs, reward, terminated, *_ = env.step(action)
        assert obs.dtype == np.uint8
        assert reward in (-1, 0, 1)
        if terminated:
            env.reset()
    env.close()
    envs = gym.make_vec("DiamondDream-v0", num_envs=2, model="golden", device="cpu", precision="float32")
    assert envs.reset(seed=0)[0].shape == (2, 16, 16, 3)
    envs.close()


def test_starts_from_the_real_game_played_by_its_agent(tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    files = tiny_release(tmp_path / "made")
    assert cli.main(import_words(files, "--start-steps", "400")) == 0
    entry = resolve("breakout-diamond")
    assert entry.card.action_meanings == ("NOOP", "FIRE", "RIGHT", "LEFT")
    path = entry.file("starts")
    assert path is not None
    starts = load_starts(path)
    assert starts.obs.shape == (256, 2, 16, 16, 3)
    assert starts.first.any()
    assert len(np.unique(starts.obs[:, -1].reshape(256, -1), axis=0)) > 20


def test_two_stages_with_spawns(tmp_path: Path) -> None:
    folder = spawns(tmp_path / "spawn", frames=6)
    assert cli.main(import_words(CSGO_FILES, "--starts", str(folder), game="CSGO")) == 0
    model = load_world_model("CSGO", "cpu", "float32")
    starts = model.starts
    assert starts is not None
    assert starts.full_res is not None
    assert starts.next_act is not None
    assert (starts.obs.shape, starts.act.shape) == ((3, 4, 6, 8, 3), (3, 3, 51))
    assert (starts.full_res.shape, starts.next_act.shape) == ((3, 1, 30, 40, 3), (3, 8, 51))
    low, act = np.load(folder / "1" / "low_res.npy"), np.load(folder / "1" / "act.npy")
    np.testing.assert_array_equal(starts.obs[1], low[-4:].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(starts.act[1], act[-4:-1])
    np.testing.assert_array_equal(starts.full_res[1, -1], np.load(folder / "1" / "full_res.npy")[-1].transpose(1, 2, 0))
    np.testing.assert_array_equal(starts.next_act[1, 0], act[-1])  # taken at the frame that the dream begins from
    np.testing.assert_array_equal(starts.next_act[1, 1:7], np.load(folder / "1" / "next_act.npy"))
    assert (starts.next_act[1, 7:] == -1).all()


def test_one_file_with_both_configurations(tmp_path: Path) -> None:
    both = {"agent": yaml.safe_load(ATARI_FILES[1].read_text()), "env": yaml.safe_load(ATARI_FILES[2].read_text())}
    config = tmp_path / "trainer.yaml"
    config.write_text(yaml.safe_dump({**both, "now": "${now:%Y}", "s_tmax": "${eval:'float(\"inf\")'}"}))
    assert read_released(ATARI_FILES[0], config, None, "Breakout").card.obs_shape == (16, 16, 3)


def test_a_run_of_the_authors_code_needs_no_flag(tmp_path: Path) -> None:
    run = authors_run(tmp_path / "run")
    plain = imported(ATARI_FILES, "Breakout").card
    agent = run / "checkpoints" / "agent_versions" / "agent_epoch_00100.pt"
    for i, words in enumerate(([run], [agent], [ATARI_FILES[0], "--config", run / "config" / "trainer.yaml"])):
        name = f"run-{i}"
        assert cli.main(["import-diamond", *map(str, words), "--name", name, "--starts", "none"]) == 0
        card = resolve(name).card
        assert (card.game, card.obs_shape, card.files["weights"].sha256) == (
            "Breakout", (16, 16, 3), plain.files["weights"].sha256,
        )  # fmt: skip
        assert (card.denoiser, card.reward_end, card.actor_critic) == (
            plain.denoiser, plain.reward_end, plain.actor_critic,
        )  # fmt: skip
    assert cli.main(["import-diamond", str(agent.with_name("agent_epoch_00095.pt")), "--name", "early",
                     "--starts", "none"]) == 1  # of another size  # fmt: skip


@pytest.mark.parametrize(
    "wrapped",
    [
        "_orig_mod.{part}.{rest}",
        "module.{part}.{rest}",
        "module._orig_mod.{part}.{rest}",
        "_orig_mod.module.{part}.{rest}",
        "{part}._orig_mod.{rest}",
        "{part}.module.{rest}",
        "module.{part}._orig_mod.module.{rest}",
    ],
)
def test_keys_as_torch_wraps_them(wrapped: str, tmp_path: Path) -> None:
    plain = imported(ATARI_FILES, "Breakout").card
    weights = torch.load(ATARI_FILES[0], weights_only=True)
    keys = {key: wrapped.format(part=key.partition(".")[0], rest=key.partition(".")[2]) for key in weights}
    torch.save({keys[key]: value for key, value in weights.items()}, tmp_path / "wrapped.pt")
    words = import_words((tmp_path / "wrapped.pt", *ATARI_FILES[1:]), "--starts", "none", "--name", "wrapped")
    assert cli.main(words) == 0
    assert resolve("wrapped").card.files["weights"].sha256 == plain.files["weights"].sha256


def _import_often() -> None:
    for _ in range(3):
        assert cli.main(import_words(ATARI_FILES, "--starts", "none")) == 0


def test_two_processes_importing_one_name_leave_a_whole_model(home: Path) -> None:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    expected_shapes(read_released(*ATARI_FILES, "Breakout").card, "")  # what is slow to import is there for both
    processes = [context.Process(target=_import_often) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert load_world_model("breakout-diamond", "cpu", "float32").num_actions == 5
    assert [path.name for path in (home / "models").iterdir()] == ["breakout-diamond"]


# The paper's sizes


def test_published_models_have_the_networks_default_sizes() -> None:
    assert len(published()) == 27
    for model in published().values():
        if model.game in games():
            n = model.num_actions
            parts = {"reward_end": {"num_actions": n}, "actor_critic": {"num_actions": n}}
            spaces = {"obs_shape": [64, 64, 3], "num_actions": n}
            card = Card(model.name, model.game, now(), spaces, {"inner_model": {"num_actions": n}}, **parts)
            shapes = expected_shapes(card, model.game)
            assert sum(math.prod(shape) for shape in shapes.values()) == model.parameters


@pytest.mark.slow
def test_the_papers_size_imports_and_dreams(tmp_path: Path) -> None:
    files = tiny_release(tmp_path, num_actions=4, size=64, paper=True)
    store = episodes(tmp_path / "store", num_actions=4, size=64)
    assert cli.main(import_words(files, "--starts", str(store), "--name", "paper-size")) == 0
    model = load_world_model("paper-size", "cpu", "float32")
    assert sum(value.numel() for value in model.weights().values()) == published()["Breakout"].parameters
    dream = model.dream(1, seed=0)
    dream.reset()
    assert dream.step(torch.zeros(1, dtype=torch.int64)).obs.isfinite().all()
