"""The authors' checkpoints: the golden numbers through an imported model, and all that is refused."""

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from released import ATARI, ATARI_FILES, CSGO, CSGO_FILES, episodes, spawns, tiny_release
from safetensors.torch import load_file
from torch import Tensor

import diamond_gym
from diamond_gym import cli
from diamond_gym.errors import BadArgument, DamagedModel
from diamond_gym.registry import load_world_model, resolve, save_model
from diamond_gym.registry.checkpoint import expected_shapes, read_checkpoint
from diamond_gym.registry.published import published
from diamond_gym.registry.released import read_released
from diamond_gym.sampler import SamplerConfig, sample
from diamond_gym.starts import load_starts
from diamond_gym.world_model import WorldModel

Files = tuple[Path, Path, Path]
CHURN = {"s_churn": 10.0, "s_tmin": 1.0, "s_tmax": 5.0, "s_noise": 0.9}


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def same_frames(actual: Tensor, expected: Tensor) -> None:
    levels = (actual - expected).abs() * 127.5
    assert levels.max() < 1.01
    assert (levels > 0.5).float().mean() <= 1e-3


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
        cs = model.denoiser.conditioners(sigma)
        close(model.denoiser.model_output(noisy, cs, obs, act), golden[f"{case}.model_output"])
        same_frames(model.denoiser.denoise(noisy, sigma, obs, act), golden[f"{case}.denoised"])
    past = [golden[f"sampler.{k}"] for k in ("prev_obs", "prev_act", "initial_noise")]
    for name, config in {
        "euler3": SamplerConfig(),
        "heun3": SamplerConfig(order=2),
        "euler5_churn": SamplerConfig(5, s_churn=2, s_tmin=0.01, s_tmax=4, s_noise=0.9),
    }.items():
        noise = iter(golden["sampler.churn_noise"])
        _, trajectory = sample(model.denoiser, *past, config, lambda shape, noise=noise: next(noise))
        same_frames(torch.stack(trajectory, 1)[:, -1], golden[f"sampler.{name}.trajectory"][:, -1])
    assert model.reward_end is not None
    assert model.actor_critic is not None
    obs, act = golden["reward_end.obs"], golden["reward_end.act"]
    logits_rew, logits_end, state = model.reward_end(obs[:, :-1], act[:, :-1], obs[:, 1:])
    for value, key in zip((logits_rew, logits_end, *state), ("logits_rew", "logits_end", "hx", "cx"), strict=True):
        close(value, golden[f"reward_end.{key}"])
    memory = model.actor_critic.initial_state(golden["actor_critic.obs"].shape[1])
    for t, frame in enumerate(golden["actor_critic.obs"]):
        logits, val, memory = model.actor_critic(frame, memory)
        close(logits, golden["actor_critic.logits_act"][t])
        close(val, golden["actor_critic.val"][t])


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
    _, trajectory = sample(model.denoiser, *past, config, lambda shape: next(noise))
    same_frames(trajectory[-1], golden["dynamics.euler1_cond.trajectory"][:, -1])
    part = {k.removeprefix("upsampler."): v for k, v in golden.items() if k.startswith("upsampler.")}
    enlarged = F.interpolate(part["low_res"], scale_factor=5, mode="bicubic")
    obs = torch.cat((part["prev_full"], enlarged[:, None]), dim=1)
    noise = iter(part["churn_noise"])
    config = SamplerConfig(1, sigma_min=1, order=2, **CHURN)
    _, trajectory = sample(model.upsampler, obs, None, part["initial_noise"], config, lambda shape: next(noise))
    same_frames(trajectory[-1], part["fast.trajectory"][:, -1])


# The command


def words(files: Files, *more: str, game: str = "Breakout") -> list[str]:
    pt, config, env = map(str, files)
    return ["import-diamond", pt, "--config", config, "--env-config", env, "--game", game, *more]


def test_gym_make_on_the_imported_agent(tmp_path: Path) -> None:
    store = episodes(tmp_path / "store")
    assert cli.main(words(ATARI_FILES, "--starts", str(store), "--name", "golden", "--license", "MIT")) == 0
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
    assert cli.main(words(files, "--start-steps", "400")) == 0
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
    assert cli.main(words(CSGO_FILES, "--starts", str(folder), game="CSGO")) == 0
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


@pytest.mark.parametrize(
    ("more", "game", "message"),
    [
        ((), "Breakout", "Breakout has 4 actions, the checkpoint 5: give start states with --starts"),
        ((), "Zork", "Zork is no game that can be played here"),
        (("--starts", "nowhere"), "Breakout", "nowhere is not a folder of collected episodes"),
        (("--name", "../up"), "Breakout", "cannot be used"),
        (("--start-steps", "1"), "Breakout", "at least 100"),
    ],
)
def test_asked_for_wrongly(
    more: tuple[str, ...], game: str, message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words(ATARI_FILES, *more, game=game)) != 0
    assert message in one_line(capsys)
    assert not any(home.rglob("*.toml"))


def test_experience_of_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(ATARI_FILES, "--starts", str(episodes(tmp_path / "s", num_actions=4)))) == 2
    assert "the model wants (16, 16, 3) and 5" in one_line(capsys)


def test_a_model_trained_here_is_not_replaced(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = read_released(*ATARI_FILES, "Breakout")
    entry = save_model(type(model.card)(**{**vars(model.card), "training": {}}), model.weights)
    assert cli.main(words(ATARI_FILES, "--starts", "none")) == 2
    assert "choose another --name" in one_line(capsys)
    assert resolve(entry.name) == entry


def test_the_environments_configuration_is_asked_for() -> None:
    with pytest.raises(BadArgument, match="--env-config"):
        read_released(ATARI_FILES[0], ATARI_FILES[1], None, "Breakout")
    with pytest.raises(BadArgument, match="--env-config"):
        read_released(CSGO_FILES[0], CSGO_FILES[1], None, "CSGO")


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err


# What is refused


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_runs_nothing(
    form: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    path, marker = tmp_path / "agent.pt", tmp_path / "was-here"
    state = {**torch.load(ATARI_FILES[0], weights_only=True), "more": Malicious(marker)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(state["more"]))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    assert cli.main(words((path, *ATARI_FILES[1:]), "--starts", "none")) == 1
    line = one_line(capsys)
    assert "refused" in line
    if form != "pickle":
        assert "mkdir" in line
    assert not recwarn
    assert not marker.exists()
    assert not any(home.iterdir())


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1, -30])
def test_a_truncated_file(keep: float, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = ATARI_FILES[0].read_bytes()
    path = tmp_path / "agent.pt"
    path.write_bytes(content[: int(len(content) * keep) if 0 < keep < 1 else int(keep)])
    assert cli.main(words((path, *ATARI_FILES[1:]), "--starts", "none")) == 1
    assert str(path) in one_line(capsys)
    assert not any(home.iterdir())


def test_flipped_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    content = bytearray(ATARI_FILES[0].read_bytes())
    rng = np.random.default_rng(0)
    path = tmp_path / "agent.pt"
    for place in rng.integers(0, len(content), 30):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except DamagedModel as error:
            assert "\n" not in str(error)  # noqa: PT017


def change(change: Callable[[dict[str, Any]], Any], source: Path, target: Path) -> Path:
    state = torch.load(source, weights_only=True)
    change(state)
    torch.save(state, target)
    return target


ACT = "denoiser.inner_model.act_emb.0.weight"
OUT = "denoiser.inner_model.conv_out.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop(OUT), f"1 key is missing for networks of this configuration: '{OUT}'"),
        (lambda s: s.pop(ACT), "which tells the number of actions"),
        (lambda s: [s.pop(k) for k in list(s) if "lstm" in k], "8 keys are missing"),
        (lambda s: s.update({"denoiser.more": torch.ones(1)}), "1 key is left over .*: 'denoiser.more'"),
        (lambda s: s.update({"upsampler.x": torch.ones(1)}), "1 key is left over"),
        (lambda s: s.update({OUT: torch.ones(3, 3)}), r"has shape \(3, 3\), but its configuration makes it \(3, 32"),
        (lambda s: s.update({ACT: torch.ones(6, 8)}), "differ in the number of actions"),
        (lambda s: s.update({OUT: s[OUT].long()}), "not a dense tensor of floats"),
        (lambda s: s.update({OUT: s[OUT].to_sparse()}), "not a dense tensor of floats|not readable"),
        (lambda s: s.update({OUT: s[OUT] * float("nan")}), "not finite"),
        (lambda s: s.update({"step": 3}), "'step' is a int"),
        (lambda s: s.update({1: s[OUT]}), "1 is a Tensor"),
        (lambda s: s.clear(), "a dictionary of tensors is wanted"),
        (lambda s: s.update({"agent": {"x": s[OUT]}}), "'agent' is a dict"),
    ],
)
def test_a_checkpoint_that_does_not_fit(edit: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    path = change(edit, ATARI_FILES[0], tmp_path / "agent.pt")
    with pytest.raises(DamagedModel, match=message) as caught:
        read_released(path, *ATARI_FILES[1:], "Breakout")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("denoiser.inner_model.channels", [64, 64], "has shape|missing|left over"),
        ("denoiser.inner_model.cond_channels", 64, "has shape"),
        ("denoiser.inner_model.depths", [1, 3], "missing"),
        ("denoiser.inner_model.depths", [1, 10**9], "out of all proportion"),
        ("denoiser.inner_model.cond_channels", 10**12, "out of all proportion"),
        ("denoiser.inner_model.num_steps_conditioning", 0, "no network of this configuration"),
        ("denoiser.inner_model.num_steps_conditioning", 3, "no network of this configuration"),
        ("denoiser.inner_model.depths", [1], "no network of this configuration|left over|missing"),
        ("denoiser.inner_model.depths", "${eval:'[1,2]'}", "is refused"),
        ("denoiser.inner_model.depths", "many", "a list of whole numbers is wanted"),
        ("denoiser.inner_model.colour", "red", "unknown key 'colour'"),
        ("denoiser.sigma_data", None, "key 'sigma_data' is missing"),
        ("denoiser.sigma_data", "half", "a number is wanted"),
        ("denoiser.num_train_timesteps", 1000, "unknown key"),
        ("denoiser", None, "leads nowhere"),
        ("denoiser", [1], "leads nowhere"),
        ("rew_end_model", [1], "a table is wanted"),
        ("rew_end_model.lstm_dim", 32, "has shape"),
        ("rew_end_model.img_size", 32, "made for 32 pixels a side"),
        ("actor_critic.down", [1, 0], "has shape"),
        ("rew_end_model", None, "left over"),
        ("critic", 3, "unknown key 'critic'"),
    ],
)
def test_a_configuration_that_does_not_fit(place: str, value: Any, message: str, tmp_path: Path) -> None:
    config = yaml.safe_load(ATARI_FILES[1].read_text())
    *way, last = place.split(".")
    table = config
    for key in way:
        table = table[key]
    table[last] = value
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(DamagedModel, match=message) as caught:
        read_released(ATARI_FILES[0], path, ATARI_FILES[2], "Breakout")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("low_res.npy", np.zeros((4, 3, 6, 9), np.uint8), "is wanted"),
        ("low_res.npy", np.zeros((3, 3, 6, 8), np.uint8), "is wanted"),
        ("full_res.npy", np.zeros((4, 3, 30, 40), np.float32), "is wanted"),
        ("full_res.npy", None, "no such file"),
        ("act.npy", np.zeros((4, 50)), "is wanted"),
        ("act.npy", np.full((4, 51), 2), "0 and 1 only"),
        ("next_act.npy", np.array([None, {}], dtype=object), "not readable as an array"),
    ],
)
def test_a_damaged_spawn(
    name: str, array: Any, message: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = spawns(tmp_path / "spawn")
    (folder / "1" / name).unlink()
    if array is not None:
        np.save(folder / "1" / name, array, allow_pickle=True)
    assert cli.main(words(CSGO_FILES, "--starts", str(folder), game="CSGO")) == 1
    assert message in one_line(capsys)
    assert not any(home.rglob("*.toml"))


def _import_often() -> None:
    for _ in range(3):
        assert cli.main(words(ATARI_FILES, "--starts", "none")) == 0


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


def test_published_cards_have_the_papers_sizes() -> None:
    assert len(published()) == 27
    for game, model in published().items():
        shapes = expected_shapes(model.card(), game)
        parameters = sum(int(np.prod(shape)) for shape in shapes.values())
        assert parameters == model.parameters


@pytest.mark.slow
def test_the_papers_size_imports_and_dreams(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(root)
    from benchmarks.paper_size import measure  # the same measurement, told there with its figures

    figures = measure(tmp_path, frames=1)
    assert figures["parameters"] == published()["Breakout"].parameters
