"""The networks, losses and samplers against numbers computed with the authors' implementation."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rounding import assert_close, assert_same_frames
from safetensors.torch import load_file
from torch import Tensor

from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.preconditioning import TrainingNoise, edm
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.sampler import SamplerConfig, karras_sigmas, sample
from diamond_gym.trainers.actor_critic import ActorCriticLossConfig, actor_critic_loss, lambda_returns
from diamond_gym.trainers.optim import parameter_groups

GOLDEN = Path(__file__).parent / "golden"
ATARI_INNER = InnerModelConfig(cond_channels=32, depths=[1, 2], channels=[32, 64], attn_depths=[0, 1], num_actions=5)
CSGO_INNER = InnerModelConfig(
    cond_channels=32, depths=[1, 2], channels=[32, 64], attn_depths=[0, 1], num_actions=51, noise_cond=True
)
CSGO_UPSAMPLER_INNER = InnerModelConfig(
    num_steps_conditioning=1,
    cond_channels=32,
    depths=[1, 1],
    channels=[16, 32],
    attn_depths=[0, 1],
    num_extra_images=1,
    noise_cond=True,
)
CHURN = {"s_churn": 10.0, "s_tmin": 1.0, "s_tmax": 5.0, "s_noise": 0.9}


def load_part(path: Path, prefix: str, module: torch.nn.Module) -> None:
    state = torch.load(path, weights_only=True)
    module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    module.eval()


@pytest.fixture(scope="module")
def atari() -> dict[str, Tensor]:
    return load_file(GOLDEN / "atari" / "expected.safetensors")


@pytest.fixture(scope="module")
def csgo() -> dict[str, Tensor]:
    return load_file(GOLDEN / "csgo" / "expected.safetensors")


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    model = Denoiser(DenoiserConfig(inner_model=ATARI_INNER))
    load_part(GOLDEN / "atari" / "agent.pt", "denoiser.", model)
    return model


@pytest.fixture(scope="module")
def dynamics() -> Denoiser:
    config = DenoiserConfig(inner_model=CSGO_INNER, sigma_offset_noise=0.1, noise_previous_obs=True)
    model = Denoiser(config)
    load_part(GOLDEN / "csgo" / "csgo.pt", "denoiser.", model)
    return model


@pytest.fixture(scope="module")
def upsampler() -> Denoiser:
    config = DenoiserConfig(inner_model=CSGO_UPSAMPLER_INNER, sigma_offset_noise=0.1, upsampling_factor=5)
    model = Denoiser(config)
    load_part(GOLDEN / "csgo" / "csgo.pt", "upsampler.", model)
    return model


@pytest.fixture(scope="module")
def reward_end() -> RewardEnd:
    config = RewardEndConfig(
        lstm_dim=16,
        img_size=16,
        cond_channels=16,
        depths=[2, 2],
        channels=[16, 32],
        attn_depths=[0, 0],
        num_actions=5,
    )
    model = RewardEnd(config)
    load_part(GOLDEN / "atari" / "agent.pt", "rew_end_model.", model)
    return model


@pytest.fixture(scope="module")
def actor_critic() -> ActorCritic:
    model = ActorCritic(ActorCriticConfig(lstm_dim=16, img_size=16, channels=[8, 16], down=[1, 1], num_actions=5))
    load_part(GOLDEN / "atari" / "agent.pt", "actor_critic.", model)
    return model


def assert_same_trajectory(actual: list[Tensor], expected: Tensor) -> None:
    """The starts agree to rounding; later points inherit at most one level at a quantisation edge.

    Of a wrong formula nearly all points would differ, and by more.
    """
    trajectory = torch.stack(actual, dim=1)
    assert trajectory.shape == expected.shape
    difference = (trajectory - expected).abs()
    assert difference[:, 0].max() == 0
    assert difference.max() <= 2.02 / 255
    assert (difference > 1e-4).float().mean() <= 0.1
    assert_same_frames(trajectory[:, -1], expected[:, -1], share=0.05)


def in_turn(tensors: Tensor | list[Tensor]) -> Iterator[Tensor]:
    return iter(list(tensors))


# Atari


def test_conditioners(atari: dict[str, Tensor]) -> None:
    cs = edm(atari["conditioners.sigma"], sigma_data=0.5, sigma_offset_noise=0.3)
    for name in ("c_in", "c_out", "c_skip", "c_noise"):
        assert_close(getattr(cs, name).flatten(), atari[f"conditioners.{name}"])


@pytest.mark.parametrize("case", ["denoise", "denoise_padded"])
@torch.no_grad()
def test_denoise(atari: dict[str, Tensor], denoiser: Denoiser, case: str) -> None:
    noisy, sigma, obs, act = (atari[f"{case}.{k}"] for k in ("noisy", "sigma", "obs", "act"))
    output = denoiser.model_output(noisy, denoiser.precondition(sigma), obs, act)
    assert_close(output, atari[f"{case}.model_output"])
    assert_same_frames(denoiser.condition(obs, act)(noisy, sigma), atari[f"{case}.denoised"])


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("euler1", SamplerConfig(num_denoising_steps=1)),
        ("euler3", SamplerConfig(num_denoising_steps=3)),
        ("heun3", SamplerConfig(num_denoising_steps=3, order=2)),
        ("euler5_churn", SamplerConfig(num_denoising_steps=5, s_churn=2, s_tmin=0.01, s_tmax=4, s_noise=0.9)),
    ],
)
@torch.no_grad()
def test_sampler(atari: dict[str, Tensor], denoiser: Denoiser, name: str, config: SamplerConfig) -> None:
    assert_close(torch.tensor(karras_sigmas(config)), atari[f"sampler.{name}.sigmas"])
    obs, act, initial = (atari[f"sampler.{k}"] for k in ("prev_obs", "prev_act", "initial_noise"))
    noise = in_turn(atari["sampler.churn_noise"])
    x, trajectory = sample(denoiser.condition, obs, act, initial, config, lambda shape: next(noise))
    assert_same_trajectory(trajectory, atari[f"sampler.{name}.trajectory"])
    assert x is trajectory[-1]


def test_denoiser_loss(atari: dict[str, Tensor], denoiser: Denoiser) -> None:
    part = {k.removeprefix("denoiser_loss."): v for k, v in atari.items() if k.startswith("denoiser_loss.")}
    sigmas = in_turn(part["sigma"])
    pairs = zip(part["offset_noise"], part["noise"], strict=True)
    normals = in_turn([noise for pair in pairs for noise in pair])
    noise = TrainingNoise(sigma=lambda n: next(sigmas), normal=lambda shape: next(normals))
    denoiser.zero_grad()
    loss = denoiser.loss(part["obs"], part["act"], part["mask_padding"], noise)
    loss.backward()
    grads = [p.grad for p in denoiser.parameters() if p.grad is not None]
    assert_close(loss, part["loss"])
    assert_close(torch.nn.utils.get_total_norm(grads), part["grad_norm"])


@torch.no_grad()
def test_reward_end(atari: dict[str, Tensor], reward_end: RewardEnd) -> None:
    part = {k.removeprefix("reward_end."): v for k, v in atari.items() if k.startswith("reward_end.")}
    obs, act = part["obs"], part["act"]
    logits_rew, logits_end, state = reward_end(obs[:, :-1], act[:, :-1], obs[:, 1:])
    assert_close(logits_rew, part["logits_rew"])
    assert_close(logits_end, part["logits_end"])
    assert_close(state[0], part["hx"])
    assert_close(state[1], part["cx"])
    logits_rew, logits_end, state = reward_end(obs[:, -1:], act[:, -1:], obs[:, :1], state)
    assert_close(logits_rew, part["next_logits_rew"])
    assert_close(logits_end, part["next_logits_end"])
    assert_close(state[0], part["next_hx"])
    assert_close(state[1], part["next_cx"])


def test_reward_end_loss(atari: dict[str, Tensor], reward_end: RewardEnd) -> None:
    part = {k.removeprefix("reward_end_loss."): v for k, v in atari.items() if k.startswith("reward_end_loss.")}
    obs, act, rew, end, mask = (part[k] for k in ("obs", "act", "rew", "end", "mask_padding"))
    next_obs = obs[:, 1:].clone()
    next_obs[0, 2] = part["final_observation"]
    loss_rew, loss_end, *_ = reward_end.loss(obs[:, :-1], act[:, :-1], next_obs, rew[:, :-1], end[:, :-1], mask[:, :-1])
    assert_close(loss_rew, part["loss_rew"])
    assert_close(loss_end, part["loss_end"])
    assert_close(loss_rew + loss_end, part["loss"])


@torch.no_grad()
def test_actor_critic(atari: dict[str, Tensor], actor_critic: ActorCritic) -> None:
    state = actor_critic.initial_state(3)
    for t, obs in enumerate(atari["actor_critic.obs"]):
        logits_act, val, state = actor_critic(obs, state)
        assert_close(logits_act, atari["actor_critic.logits_act"][t])
        assert_close(val, atari["actor_critic.val"][t])
    assert_close(state[0], atari["actor_critic.hx"])
    assert_close(state[1], atari["actor_critic.cx"])


def test_actor_critic_loss(atari: dict[str, Tensor]) -> None:
    part = {k.removeprefix("actor_critic_loss."): v for k, v in atari.items() if k.startswith("actor_critic_loss.")}
    config = ActorCriticLossConfig()
    steps = [part[k] for k in ("rew", "end", "trunc", "val_bootstrap")]
    returns = lambda_returns(*steps, gamma=config.gamma, lambda_=config.lambda_)
    assert_close(returns, part["lambda_returns"])
    assert_close(lambda_returns(*steps, gamma=config.gamma, lambda_=0.0), part["lambda_returns_lambda0"])
    loss = actor_critic_loss(part["logits_act"], part["act"], part["val"], returns, config)
    assert_close(loss.loss, part["loss"])
    assert_close(loss.actions, part["loss_actions"])
    assert_close(loss.values, part["loss_values"])
    assert_close(loss.entropy, part["loss_entropy"])
    assert_close(loss.policy_entropy / torch.log(torch.tensor(2.0)), part["policy_entropy_bits"])


def test_state_dict_keys_and_optimizer_groups(
    denoiser: Denoiser, reward_end: RewardEnd, actor_critic: ActorCritic
) -> None:
    expected = json.loads((GOLDEN / "atari" / "config.json").read_text())["state_dict"]
    parts = {"denoiser": denoiser, "rew_end_model": reward_end, "actor_critic": actor_critic}
    actual = {f"{p}.{k}": list(v.shape) for p, m in parts.items() for k, v in m.state_dict().items()}
    assert actual == expected
    no_decay = json.loads((GOLDEN / "atari" / "optimizer.json").read_text())["denoiser_no_decay"]
    names = {id(p): name for name, p in denoiser.named_parameters()}
    decayed, spared = parameter_groups(denoiser, weight_decay=0.01)
    assert sorted(names[id(p)] for p in spared["params"]) == sorted(no_decay)
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)


# CS:GO


def test_csgo_state_dict_keys(dynamics: Denoiser, upsampler: Denoiser) -> None:
    expected = json.loads((GOLDEN / "csgo" / "state_dict.json").read_text())
    parts = {"denoiser": dynamics, "upsampler": upsampler}
    assert {f"{p}.{k}": list(v.shape) for p, m in parts.items() for k, v in m.state_dict().items()} == expected


@torch.no_grad()
def test_csgo_dynamics_sampler(csgo: dict[str, Tensor], dynamics: Denoiser) -> None:
    obs, act, initial = (csgo[f"dynamics.{k}"] for k in ("prev_obs", "prev_act", "initial_noise"))
    for n in (1, 3):
        noise = in_turn(csgo["dynamics.conditioning_noise"])
        config = SamplerConfig(num_denoising_steps=n, s_cond=0.005)
        _, trajectory = sample(dynamics.condition, obs, act, initial, config, lambda shape: next(noise))
        assert_same_trajectory(trajectory, csgo[f"dynamics.euler{n}_cond.trajectory"])


@torch.no_grad()
def test_csgo_upsampler(csgo: dict[str, Tensor], upsampler: Denoiser) -> None:
    part = {k.removeprefix("upsampler."): v for k, v in csgo.items() if k.startswith("upsampler.")}
    enlarged = F.interpolate(part["low_res"], scale_factor=5, mode="bicubic")
    assert_close(enlarged, part["low_res_bicubic"][:, 0])
    obs = torch.cat((part["prev_full"], enlarged[:, None]), dim=1)
    configs = {
        "fast": SamplerConfig(num_denoising_steps=1, sigma_min=1, order=2, **CHURN),
        "quality": SamplerConfig(num_denoising_steps=4, sigma_min=1, order=1, **CHURN),
    }
    for name, config in configs.items():
        assert_close(torch.tensor(karras_sigmas(config)), part[f"{name}.sigmas"])
        noise = in_turn(part["churn_noise"])
        _, trajectory = sample(upsampler.condition, obs, None, part["initial_noise"], config, lambda shape: next(noise))
        assert_same_trajectory(trajectory, part[f"{name}.trajectory"])


def recorded_noise(csgo: dict[str, Tensor], prefix: str) -> TrainingNoise:
    numbered = [k for k in csgo if k.startswith(prefix)]
    sigmas = in_turn([csgo[f"{prefix}.sigma.{i}"] for i in range(sum(".sigma." in k for k in numbered))])
    normals = in_turn([csgo[f"{prefix}.noise.{i}"] for i in range(sum(".noise." in k for k in numbered))])
    return TrainingNoise(sigma=lambda n: next(sigmas), normal=lambda shape: next(normals))


def test_csgo_losses(csgo: dict[str, Tensor], dynamics: Denoiser, upsampler: Denoiser) -> None:
    obs, act, full_res = csgo["loss.obs"], csgo["loss.act"], csgo["loss.full_res"]
    mask = torch.ones(obs.shape[:2], dtype=torch.bool)
    loss = dynamics.loss(obs, act, mask, recorded_noise(csgo, "dynamics_loss"))
    assert_close(loss, csgo["dynamics_loss.loss"])
    enlarged = F.interpolate(obs.flatten(0, 1), scale_factor=5, mode="bicubic").unflatten(0, obs.shape[:2])
    noise = recorded_noise(csgo, "upsampler_loss")
    loss = upsampler.loss(full_res[:, :2], None, mask[:, :2], noise, low_res=enlarged[:, :2])
    assert_close(loss, csgo["upsampler_loss.loss"])
