"""Distillation: the student learns its teacher's frames, resumes bit for bit, and is registered as what it is."""

import shlex
from dataclasses import asdict, replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import worlds
from said import one_line

import diamond_gym  # noqa: F401
from diamond_gym import cli
from diamond_gym.data import Episode, EpisodeStore
from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.reward_end import RewardEnd
from diamond_gym.registry import Card, Entry, load_world_model, resolve, save_model
from diamond_gym.sampler import SamplerConfig, sample
from diamond_gym.trainers.distill import DistillConfig, DistillTrainer, check_can_teach, energy_distance
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.run import RunFolder
from diamond_gym.trainers.start_states import draw_starts
from diamond_gym.trainers.student import boundaries, spread
from diamond_gym.world_model import WorldModel

CONFIG = DistillConfig(optimizer=OptimizerConfig(lr=1e-2, batch_size=4, warmup_steps=5), dream_length=2)
QUICK = shlex.split(
    "--device cpu --precision float32 --steps 5 --windows 4 --optimizer.batch-size 4 --dream-length 2 --student pupil"
)


def make_teacher(store: EpisodeStore, name: str = "walker") -> Entry:
    """A teacher of random weights, whose frames in three steps are not those in one."""
    torch.manual_seed(0)
    denoiser, reward_end = Denoiser(worlds.CONFIG.denoiser), RewardEnd(worlds.CONFIG.reward_end)
    for parameter in denoiser.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    card = Card(
        name=name,
        game="Walk",
        created="2026-11-22T12:00:00Z",
        spaces={"obs_shape": [worlds.SIZE, worlds.SIZE, 3], "num_actions": worlds.ACTIONS},
        denoiser=asdict(denoiser.config),
        reward_end=asdict(reward_end.config),
    )
    starts = draw_starts(store, denoiser.num_steps_conditioning, 8)
    return save_model(card, WorldModel(denoiser, reward_end).weights(), starts)


@pytest.fixture
def store(home: Path) -> EpisodeStore:
    worlds.store(home / "data" / "walk-test", episodes=8, seed=1)
    return worlds.store(home / "data" / "walk")


@pytest.fixture
def teacher(store: EpisodeStore) -> WorldModel:
    return load_world_model(make_teacher(store), "cpu", "float32")


def error(denoiser: Denoiser, teacher: Denoiser, store: EpisodeStore) -> float:
    """The mean squared difference of frames in one step to the teacher's in three, from the same noise."""
    starts, dice = draw_starts(store, 2, 64, seed=7), torch.Generator().manual_seed(3)
    obs = torch.from_numpy(starts.obs).movedim(-1, 2).float() / 127.5 - 1
    act = torch.randint(worlds.ACTIONS, (64, 2), generator=dice)
    noise = torch.randn(64, 3, worlds.SIZE, worlds.SIZE, generator=dice)
    with torch.no_grad():
        ours, _ = sample(denoiser.condition, obs, act, noise, CONFIG.student)
        theirs, _ = sample(teacher.condition, obs, act, noise, CONFIG.teacher)
    return float((ours - theirs).square().mean())


def test_a_student_comes_near_its_teacher(teacher: WorldModel, store: EpisodeStore) -> None:
    before = error(teacher.denoiser, teacher.denoiser, store)
    kept = {key: value.clone() for key, value in teacher.weights().items()}
    fit = DistillTrainer(CONFIG, teacher, store, total_steps=30)
    losses = []
    while fit.step < fit.total_steps:
        losses.append(float(fit.train_step()["student/loss"]))
    after = error(fit.student.eval(), teacher.denoiser, store)
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3]) and after < 0.5 * before
    assert all(torch.equal(value, kept[key]) for key, value in teacher.weights().items())


@pytest.mark.parametrize("stop_at", [2, 4])
def test_a_resumed_run_ends_with_the_same_bits(
    teacher: WorldModel, store: EpisodeStore, tmp_path: Path, stop_at: int
) -> None:
    def trainer() -> DistillTrainer:
        return DistillTrainer(CONFIG, teacher, store, total_steps=8, seed=3)

    def finish(fit: DistillTrainer) -> dict[str, torch.Tensor]:
        while fit.step < 8:
            fit.train_step()
        return fit.student.state_dict()

    first = trainer()
    while first.step < stop_at:
        first.train_step()
    with RunFolder(tmp_path / "run", tensorboard=False) as run:
        run.save(first.state_dict())
        torch.manual_seed(999)  # whatever happened in between
        second = trainer()
        state = run.load()
    assert state is not None
    second.load_state_dict(state)
    assert second.step == stop_at
    whole, resumed = finish(trainer()), finish(second)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    other = DistillTrainer(CONFIG, teacher, store, total_steps=8, seed=4)
    assert not all(torch.equal(whole[key], value) for key, value in finish(other).items())


def test_the_last_dream_is_cut_to_the_steps(teacher: WorldModel, store: EpisodeStore) -> None:
    fit = DistillTrainer(replace(CONFIG, dream_length=4), teacher, store, total_steps=6)
    steps = []
    while fit.step < fit.total_steps:
        fit.train_step()
        steps.append(fit.step)
    assert steps == [4, 6]


def test_the_energy_distance_keeps_the_spread() -> None:
    """Frames that could be alike or not, of a mean and a spread that are free, come to the teacher's."""
    dice = torch.Generator().manual_seed(0)

    def draw(mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        level = torch.randn(2000, 1, 1, 1, generator=dice)
        return (mean + scale * level).expand(-1, 3, 8, 8)  # a cell that is bright or dark as a whole

    mean, scale = torch.tensor(0.2, requires_grad=True), torch.tensor(0.01, requires_grad=True)
    optimizer = torch.optim.Adam([mean, scale], lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        energy_distance(draw(mean, scale), draw(torch.tensor(-0.1), torch.tensor(0.3))).backward()
        optimizer.step()
    assert float(mean.detach()) == pytest.approx(-0.1, abs=0.03)
    assert float(scale.detach().abs()) == pytest.approx(0.3, abs=0.03)


def test_with_the_same_noise_a_frame_is_fitted_to_its_own(teacher: WorldModel, store: EpisodeStore) -> None:
    fit = DistillTrainer(replace(CONFIG, same_noise=True), teacher, store, total_steps=2)
    obs, act = torch.zeros(4, 2, 3, 8, 8), torch.zeros(4, 2, dtype=torch.int64)
    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, frame = fit.loss(obs, act, noise, torch.zeros_like(noise))
        own, other = (float(fit.loss(obs, act, noise, target)[0]) for target in (frame, frame.roll(1, 0)))
    assert own < 0.5 * other  # not 0: what is dreamed on from is clamped


def test_spread_is_the_noises_doing(teacher: WorldModel) -> None:
    obs, act = torch.zeros(6, 2, 3, 8, 8), torch.zeros(6, 2, dtype=torch.int64)
    frames = spread(teacher.denoiser, obs, act, SamplerConfig(), k=3)
    assert frames.shape == (6, 3, 3, 8, 8) and frames.var(dim=1).mean() > 0
    assert torch.equal(frames, spread(teacher.denoiser, obs, act, SamplerConfig(), k=3))
    with torch.no_grad():
        teacher.denoiser.inner_model.conv_in.weight[:, -12:] = 0  # deaf to the noise: three channels of 2x2 pixels
    in_one_step = SamplerConfig(num_denoising_steps=1)
    frames = spread(teacher.denoiser, obs, act, in_one_step, k=3)
    assert (frames.amax(dim=1) - frames.amin(dim=1)).max() < 1e-5


def test_boundaries_are_the_pasts_of_what_appears(tmp_path: Path) -> None:
    frames = np.zeros((20, 32, 32, 3), np.uint8)
    frames[12:, 4:8, 4:8] = 255  # once it is there it stays
    with EpisodeStore(tmp_path / "s", "a", replace(worlds.ABOUT, frame_shape=(32, 32, 3))) as writer:
        writer.append(Episode(frames, np.arange(19) % 3, np.zeros(19, np.float32)))
    obs, act = boundaries(EpisodeStore(tmp_path / "s"), 4, 10)
    assert obs.shape == (1, 4, 3, 32, 32) and obs.max() == -1  # nothing of it is seen
    assert act.tolist() == [[8 % 3, 9 % 3, 10 % 3, 11 % 3]]


def test_from_a_model_to_its_student(
    store: EpisodeStore, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = make_teacher(store)
    words = ["distill", "walker", *QUICK]
    assert cli.main([*words, "--minutes", "0.00001"]) == 0
    assert "stopped at step 2 of 5; repeat the command to go on" in " ".join(capsys.readouterr().err.split())
    assert cli.main([*words, "--same-noise"]) == 2
    assert "was begun with fit.same_noise = False, not True" in one_line(capsys)
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "registered pupil" in said.err and all(row in said.out for row in ("mse_over_copy_1", "teacher in one step"))
    assert list((home / "runs" / "pupil" / "strips").glob("*.png"))

    card = resolve("pupil").card
    assert card.is_student and card.sampler == {"num_denoising_steps": 1} and "walker" in card.summary
    assert card.training["teacher"]["name"] == "walker" and card.training["steps"] == 5
    assert card.training["teacher"]["weights"] == entry.card.files["weights"].sha256
    assert card.training["data"]["steps"] == store.num_steps
    assert shlex.split(card.source)[:3] == ["diamond-gym", "distill", "walker"]
    assert "--optimizer.batch-size 4" in card.source and "--steps 5" in card.source
    for side in (card.figures, card.figures["teacher"], card.figures["teacher_in_one_step"]):
        assert side["mse_over_copy_1"] > 0 and side["frames_per_second"] > 0
    assert card.figures["teacher"]["mse_1"] != card.figures["teacher_in_one_step"]["mse_1"]

    for quality in (None, "fast"):
        env = gym.make("DiamondDream-v0", model="pupil", quality=quality)
        env.reset(seed=0)
        assert env.step(1)[0].shape == (worlds.SIZE, worlds.SIZE, 3)
    with pytest.raises(BadArgument, match="pupil was distilled to dream in one denoising step"):
        gym.make("DiamondDream-v0", model="pupil", quality="paper")

    student, model = (load_world_model(name, "cpu", "float32").weights() for name in ("pupil", "walker"))
    assert student.keys() == model.keys()  # the same networks
    changed = {key.split(".")[0] for key in model if not torch.equal(student[key], model[key].half().float())}
    assert changed == {"denoiser"}

    assert cli.main(["distill", "pupil", *QUICK]) == 2
    assert "pupil dreams in one step already: distil its teacher" in one_line(capsys)


def test_another_teacher_of_the_same_name_is_another_one(
    store: EpisodeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = make_teacher(store)
    words = ["distill", "walker", *QUICK]
    assert cli.main([*words, "--minutes", "0.00001"]) == 0
    weights = load_world_model(entry, "cpu", "float32").weights()
    save_model(entry.card, {key: value + 1 for key, value in weights.items()}, draw_starts(store, 2, 8))
    capsys.readouterr()
    assert cli.main(words) == 2
    assert "was begun with teacher = " in one_line(capsys)


def test_a_dry_run_leaves_nothing(store: EpisodeStore, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_teacher(store)
    before = sorted(path for path in home.rglob("*"))
    assert cli.main(["distill", "walker", *QUICK, "--dry-run"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "distilling 5 updates" in printed and "playing" not in printed
    assert sorted(path for path in home.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teacher.eta", "1"], "without --teacher.s-churn, --teacher.s-cond and --teacher.eta"),
        (["--teacher.num-denoising-steps", "1"], "--teacher.num-denoising-steps must be at least 2"),
        (["--optimizer.lr", "0"], "--optimizer.lr is 0"),
        (["--optimizer.batch-size", "3"], "--optimizer.batch-size must be even"),
        (["--optimizer.grad-acc-steps", "2"], "--optimizer.grad-acc-steps has no place here"),
        (["--dream-length", "0"], "--dream-length must be at least 1"),
        (["--appearance-focus", "2"], "--appearance-focus must be from 0 to 1, not 2"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--minutes", "0"], "--minutes must be more than 0"),
        (["--student", "walker"], "the teacher's own name"),
        (["--render-obs"], "--render-obs is for --env"),
        (["--data", "./nothing"], "nothing"),
        (["--env", "CartPole-v1", "--render-obs"], "has other frames or actions than the dreams of walker"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    store: EpisodeStore, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_teacher(store)
    assert cli.main(["distill", "walker", *words]) in (1, 2)
    assert message in one_line(capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upsampler": {"inner_model": {}}}, "has two stages: only models of one"),
        ({"denoiser": {"objective": "flow"}}, "was trained with the objective flow: only edm"),
        ({"training": {"teacher": {"name": "x"}}}, "dreams in one step already: distil its teacher"),
    ],
)
def test_what_cannot_teach(store: EpisodeStore, changes: dict[str, object], message: str) -> None:
    card = make_teacher(store).card
    check_can_teach(card)
    with pytest.raises(BadArgument, match=f"walker {message}"):
        check_can_teach(replace(card, **changes))


def test_an_unknown_teacher_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["distill", "nobody"]) == 1
    assert "nobody" in one_line(capsys)
