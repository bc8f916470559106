"""DDPM and rectified flow beside EDM: what they predict, how they are sampled, and what does not fit them."""

import math
from dataclasses import replace

import gymnasium as gym
import pytest
import torch
import worlds
from rounding import assert_close
from stubs import ACTIONS, save_tiny_model, tiny_networks

from diamond_gym import cli
from diamond_gym.cli.train_wm import TrainWm
from diamond_gym.errors import BadArgument, BadConfig, DamagedModel
from diamond_gym.frames import quantise
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.inference import FoldedDenoiser
from diamond_gym.networks.preconditioning import (
    TrainingNoise,
    ddpm,
    ddpm_sigmas,
    ddpm_timesteps,
    ddpm_training_levels,
    flow,
    flow_training_levels,
)
from diamond_gym.registry import load_world_model, resolve, save_model, update_card
from diamond_gym.sampler import QUALITIES, SamplerConfig, sample
from diamond_gym.trainers.register import make_card
from diamond_gym.trainers.start_states import draw_starts
from diamond_gym.trainers.world_model import WorldModelTrainer
from diamond_gym.world_model import WorldModel

OTHERS = ("ddpm", "flow")
PAST, ACT = torch.zeros(2, 4, 3, 8, 8), torch.zeros(2, 4, dtype=torch.int64)
# DDPMScheduler(num_train_timesteps=1000).alphas_cumprod and, after set_timesteps(n), .timesteps of diffusers 0.42.1
ALPHAS = {0: 0.9998999834, 1: 0.9997800589, 333: 0.3186247647, 500: 0.0777966529, 900: 2.702444908e-4, 999: 4.03583e-5}
TIMESTEPS = {2: [500, 0], 3: [666, 333, 0], 5: [800, 600, 400, 200, 0], 7: [852, 710, 568, 426, 284, 142, 0]}


def network(objective: str, **config) -> Denoiser:
    """A tiny one that is not zero anywhere."""
    original = tiny_networks()[0]
    denoiser = Denoiser(replace(original.config, objective=objective, sigma_data=1.0, **config))
    denoiser.load_state_dict(original.state_dict())
    return denoiser.eval().requires_grad_(False)


def predictor(objective: str, predict):
    """A denoiser whose network is a function of x_t and of what it is given of the time."""
    denoiser = network(objective)
    denoiser.inner_model.forward = lambda x, given, obs, act, cond: predict(x, given)
    return denoiser


def spread(x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Some noise for x_t that is not proportional to it, and sends images beyond [-1, 1] at high times."""
    return 0.7 * x.roll(1, dims=-1) + 0.3 * torch.sin(5 * x) + given[:, None, None, None] * 0.2


def test_the_schedule_is_that_of_diffusers() -> None:
    for t, alpha in ALPHAS.items():
        assert 1 / (1 + ddpm_sigmas()[t] ** 2) == pytest.approx(alpha, rel=1e-4)
    for n, timesteps in TIMESTEPS.items():
        assert ddpm_timesteps(n) == timesteps
    assert ddpm_timesteps(1) == [500], "one step is a case of its own"


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_steps_are_those_of_diffusers(n: int) -> None:
    scheduler = pytest.importorskip("diffusers").DDPMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(n)
    initial, steps = torch.randn(2, 3, 8, 8), torch.Generator().manual_seed(3)
    x, expected = initial, [initial]
    for t in scheduler.timesteps:
        predicted = spread(x, torch.full((2,), (float(t) + 1) / 1000))
        x = scheduler.step(predicted, t, x, generator=steps).prev_sample
        expected.append(x)
    ours = torch.Generator().manual_seed(3)
    frame, path = sample(
        predictor("ddpm", spread).condition, PAST, ACT, initial, SamplerConfig(num_denoising_steps=n),
        lambda shape: torch.randn(shape, generator=ours), "ddpm",
    )  # fmt: skip
    assert len(path) == n + 1
    for image, theirs in zip(path[:-1], expected[:-1], strict=True):
        assert_close(image, theirs, 2e-4)
    assert (frame - quantise(expected[-1])).abs().max() <= 2.1 / 255, "one level: the edge of a level falls either way"
    assert torch.equal(frame, path[-1])


def test_one_step_of_ddpm_starts_in_the_middle() -> None:
    alpha, given = ALPHAS[500], []

    def predict(x, t):
        given.append(t)
        return spread(x, t)

    x = torch.randn(2, 3, 8, 8)
    how = SamplerConfig(num_denoising_steps=1)
    frame, path = sample(predictor("ddpm", predict).condition, PAST, ACT, x, how, None, "ddpm")
    assert given[0].tolist() == pytest.approx([501 / 1000] * 2)
    expected = (x - math.sqrt(1 - alpha) * spread(x, given[0])) / math.sqrt(alpha)
    assert (frame - quantise(expected)).abs().max() <= 2.1 / 255 and len(path) == 2
    assert ((frame + 1) * 127.5 % 1).sub(0.5).abs().min() > 0.49, "on 8-bit levels"


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_flow_is_sampled_along_its_velocity(n: int) -> None:
    def predict(x, t):
        return 0.2 * x.roll(1, dims=-1) + 0.1 * t[:, None, None, None]

    x = initial = torch.randn(2, 3, 8, 8) * 0.15
    for i in range(n):
        t = 1 - i / n
        x = x - predict(x, torch.full((2,), t)) / n
    how = SamplerConfig(num_denoising_steps=n)
    frame, path = sample(predictor("flow", predict).condition, PAST, ACT, initial, how, None, "flow")
    # the first time is 0.999 in place of 1, where sigma is infinite; images beyond [-1, 1] are clamped
    assert (frame - x.clamp(-1, 1)).abs().max() < 0.02
    assert len(path) == n + 1 and torch.equal(path[0], initial)


@pytest.mark.parametrize("objective", OTHERS)
def test_the_network_sees_x_t_and_learns_noise_or_velocity(objective: str) -> None:
    """A network that knows the answer has a loss of 0: offset noise is part of the noise, past frames go in as is."""
    denoiser, drawn = network(objective), []
    denoiser.config = replace(denoiser.config, sigma_offset_noise=0.3)
    torch.manual_seed(0)
    obs = torch.rand(3, 5, 3, 8, 8) * 2 - 1
    act, mask = torch.zeros(3, 5, dtype=torch.int64), torch.ones(3, 5, dtype=torch.bool)
    levels = ddpm_training_levels if objective == "ddpm" else flow_training_levels

    def normal(shape):
        drawn.append(torch.randn(shape))
        return drawn[-1]

    def answer(x, given, past, act, cond):
        noise, image = 0.3 * drawn[0] + drawn[1], obs[:, 4]
        kept = given[:, None, None, None]
        if objective == "ddpm":
            t = (given * 1000).round().long() - 1
            alpha = torch.tensor([1 / (1 + ddpm_sigmas()[i] ** 2) for i in t])[:, None, None, None]
            torch.testing.assert_close(x, alpha.sqrt() * image + (1 - alpha).sqrt() * noise, atol=1e-4, rtol=1e-4)
            return noise
        torch.testing.assert_close(x, (1 - kept) * image + kept * noise, atol=1e-4, rtol=1e-4)
        return noise - image

    def checked(x, given, past, *rest):
        assert torch.equal(past, obs[:, :4].flatten(1, 2))
        return answer(x, given, past, *rest)

    denoiser.inner_model.forward = checked
    noise = TrainingNoise.of(levels, normal, lambda shape: torch.tensor([0.0, 0.37, 0.9]))
    # noise over time, or over 1 - sqrt(alpha): float32 leaves so much where there is hardly any
    assert denoiser.loss(obs, act, mask, noise) < 1e-4


def test_training_levels() -> None:
    last = ddpm_training_levels(2, torch.randn, lambda shape: torch.tensor([0.0, 0.9999999]))
    assert last.tolist() == pytest.approx([ddpm_sigmas()[0], ddpm_sigmas()[999]])
    times = flow_training_levels(3, torch.randn, lambda shape: torch.tensor([0.0, 0.5, 1.0]))
    assert times.tolist() == pytest.approx([1e-4, 1.0, 1e4], rel=2e-2)
    middle = torch.tensor([ddpm_sigmas()[t] * 1.001 for t in (0, 500, 999)])
    assert (ddpm(middle).c_noise * 1000).tolist() == pytest.approx([1, 501, 1000]), "given the nearest timestep"
    assert flow(torch.tensor([1.0])).c_noise.item() == 0.5


@pytest.mark.parametrize("objective", OTHERS)
@pytest.mark.parametrize("n", [1, 3])
def test_folded_networks_sample_the_same(objective: str, n: int) -> None:
    denoiser = network(objective)
    torch.manual_seed(1)
    obs, act, x = torch.rand(3, 4, 3, 16, 16) * 2 - 1, torch.randint(ACTIONS, (3, 4)), torch.randn(3, 3, 16, 16)
    how = SamplerConfig(num_denoising_steps=n)
    theirs, ours = (
        sample(d.condition, obs, act, x, how, lambda shape: torch.full(shape, 0.5), objective)[0]
        for d in (denoiser, FoldedDenoiser(denoiser))
    )
    assert (theirs - ours).abs().max() <= 2.1 / 255
    assert theirs.std() > 0.1, "or nothing was compared"


def test_ddpm_draws_noise_at_every_step_but_the_last() -> None:
    shapes = []

    def noise(shape):
        shapes.append(shape)
        return torch.zeros(shape)

    x = torch.randn(2, 3, 8, 8)
    for n, expected in ((1, 0), (4, 3)):
        shapes.clear()
        sample(network("ddpm").condition, PAST, ACT, x, SamplerConfig(num_denoising_steps=n), noise, "ddpm")
        assert shapes == [(2, 3, 8, 8)] * expected
    sample(network("flow").condition, PAST, ACT, x, SamplerConfig(num_denoising_steps=4), None, "flow")
    with pytest.raises(ValueError, match="needs a source of noise"):
        sample(network("ddpm").condition, PAST, ACT, x, SamplerConfig(), None, "ddpm")


@pytest.mark.parametrize("objective", OTHERS)
@pytest.mark.parametrize(
    "field", [{"order": 2}, {"eta": 1.0}, {"sigma_max": 20.0}, {"rho": 1.0}, {"s_churn": 1.0}, {"s_cond": 0.1}]
)
def test_samplers_that_do_not_fit_are_refused(objective: str, field: dict) -> None:
    with pytest.raises(
        BadConfig, match=f"^{next(iter(field))} is for denoisers of the objective edm; one of .* alone$"
    ):
        sample(network(objective).condition, PAST, ACT, PAST[:, 0], SamplerConfig(**field), None, objective)


def test_more_steps_than_timesteps_are_refused() -> None:
    many = SamplerConfig(num_denoising_steps=1001)
    with pytest.raises(BadConfig, match="at most 1000 with the objective ddpm"):
        sample(network("ddpm").condition, PAST, ACT, PAST[:, 0], many, None, "ddpm")


@pytest.mark.parametrize(
    ("field", "value"), [("residual", True), ("noise_previous_obs", True), ("change_threshold", 4)]
)
def test_configurations_that_do_not_fit_are_refused(field: str, value: float) -> None:
    with pytest.raises(BadConfig, match=f"{field} is for the objective edm, not flow"):
        DenoiserConfig(objective="flow", **{field: value})
    with pytest.raises(BadConfig, match="'objective' must be one of edm, ddpm, flow, not 'score'"):
        DenoiserConfig(objective="score")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--objective", "ddpm", "--num-autoregressive-steps", "1"), "needs --num-autoregressive-steps 0"),
        (("--objective", "flow", "--denoiser.objective", "ddpm"), "contradict each other"),
        (("--objective", "ddpm", "--sampler.order", "2"), "order is for denoisers of the objective edm"),
        (("--objective", "ddpm", "--denoiser.residual"), "residual is for the objective edm"),
        (("--flow-times", "uniform"), "--flow-times is for the objective flow, not edm"),
        (("--denoiser.objective", "flow"), "residual is for the objective edm"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: tuple[str, ...], message: str, capsys) -> None:
    assert cli.main(["train-wm", "Pong", "--preset", "nano", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize("preset", ["nano", "paper", "study-nano"])
def test_an_objective_is_enough(preset: str) -> None:
    chosen = {
        name: cli._parse(TrainWm, "train-wm", ["Pong", "--preset", preset, "--objective", name])
        for name in ("edm", *OTHERS)
    }
    configs = {name: command.fit.denoiser for name, command in chosen.items()}
    assert {config.objective for config in configs.values()} == {None, *OTHERS}
    assert len({str(config.inner_model) for config in configs.values()}) == 1, "the same network"
    assert chosen["ddpm"].fit.num_autoregressive_steps == 0 and chosen["ddpm"].sampler.num_denoising_steps == 10
    assert chosen["flow"].fit.flow_times is None and not configs["flow"].residual


@pytest.mark.parametrize(("objective", "extra"), [("ddpm", {}), ("flow", {}), ("flow", {"flow_times": "logit-normal"})])
def test_trained_registered_and_dreamed_with(objective: str, extra: dict, tmp_path) -> None:
    denoiser = replace(worlds.CONFIG.denoiser, objective=objective, residual=False, sigma_data=1.0)
    config = replace(
        worlds.CONFIG,
        denoiser=denoiser,
        num_autoregressive_steps=0,
        reward_end_dreams_from=0.5,
        prioritized=0.3,
        **extra,
    )
    store = worlds.store(tmp_path / "walks")
    fit = WorldModelTrainer(config, store, 200)
    losses = [float(fit.train_step()["denoiser/loss"]) for _ in range(60)]
    assert sum(losses[-20:]) < 0.95 * sum(losses[:20]), "it learns"
    model, how = fit.averaged(), SamplerConfig(num_denoising_steps=3)
    card = make_card("other", store, config, {}, {}, "a test", how, "recordings")
    save_model(card, model.weights(), draw_starts(store, denoiser.inner_model.num_steps_conditioning))
    assert resolve("other").card.denoiser["objective"] == objective
    assert load_world_model("other").denoiser.objective == objective
    env = gym.make("DiamondDream-v0", model="other", device="cpu")
    first, _ = env.reset(seed=1)
    frame, *_ = env.step(1)
    again = gym.make("DiamondDream-v0", model="other", device="cpu", num_denoising_steps=1, denoising_trajectory=True)
    again.reset(seed=1)
    other, *_, info = again.step(1)
    assert frame.shape == first.shape and (frame != other).any(), "the number of steps counts"
    assert len(info["denoising_trajectory"]) == 2
    for wrong in ({"quality": "fine"}, {"order": 2}, {"sigma_max": 9.0}):
        with pytest.raises(BadArgument, match="is for denoisers of the objective edm"):
            gym.make("DiamondDream-v0", model="other", device="cpu", **wrong)
    assert gym.make("DiamondDream-v0", model="other", device="cpu", quality="fast").unwrapped is not None


def test_a_card_refuses_a_sampler_that_does_not_fit() -> None:
    model = save_tiny_model("tiny")
    entry = resolve("tiny")
    wrong = replace(entry.card, denoiser={**entry.card.denoiser, "objective": "ddpm"}, sampler={"order": 2})
    with pytest.raises(DamagedModel, match="key 'sampler.order' is for denoisers of the objective edm, not ddpm"):
        update_card(entry, wrong)
    right = update_card(entry, replace(wrong, sampler={"num_denoising_steps": 5}))
    loaded = load_world_model(right)
    assert loaded.denoiser.objective == "ddpm" and isinstance(model, WorldModel)
    with pytest.raises(BadConfig, match="order is for denoisers of the objective edm"):
        loaded.dream(2, sampler=QUALITIES["fine"])


def test_edm_is_the_default_and_its_cards_do_not_say_so() -> None:
    assert DenoiserConfig().objective is None
    assert Denoiser(DenoiserConfig(InnerModelConfig(num_actions=3))).objective == "edm"
