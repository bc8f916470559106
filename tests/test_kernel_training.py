"""Convolutions with gradients by the kernels: the derivatives of a convolution, the same training up to rounding."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import worlds
from hypothesis import given, settings
from hypothesis import strategies as st
from stubs import ACTIONS, save_tiny_model
from torch import library, nn

from diamond_gym.networks.actor_critic import ActorCritic, ActorCriticConfig
from diamond_gym.networks.kernels import built_kernels, training
from diamond_gym.networks.kernels.training import Conv3x3, train_with_kernels
from diamond_gym.registry import resolve
from diamond_gym.trainers.actor_critic import ActorCriticTrainer, AgentFitConfig
from diamond_gym.trainers.imagination import world_to_dream_in
from diamond_gym.trainers.optim import OptimizerConfig
from diamond_gym.trainers.world_model import WorldModelTrainer
from diamond_gym.world_model import WorldModel

KERNELS = built_kernels()
pytestmark = pytest.mark.skipif(KERNELS is None, reason="no AVX2, or no C++ compiler")
widths = st.integers(1, 6).map(lambda n: 16 * n) | st.sampled_from([12, 15, 60])
ROUNDING = 5e-6  # of the norm; 3e-7 to 3e-6 is found


@pytest.fixture
def faster(monkeypatch):
    """Has the measurement find the kernels faster."""
    monkeypatch.setattr(training, "kernels_train_faster", lambda: True)


def off(found, exact):
    return float((found.double() - exact).norm() / exact.norm())


@settings(max_examples=30)
@given(
    batch=st.integers(1, 3), height=st.integers(1, 19), width=st.integers(1, 19), channels=widths, out=widths,
    last=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_convolution_and_its_gradients(batch, height, width, channels, out, last, seed):
    torch.manual_seed(seed)
    layout = torch.channels_last if last else torch.contiguous_format
    plain = nn.Conv2d(channels, out, 3, padding=1).to(memory_format=layout)
    ours, exact = Conv3x3(plain), copy.deepcopy(plain).double()
    assert list(ours.state_dict()) == list(plain.state_dict()) and ours.weight is plain.weight
    x = torch.randn(batch, channels, height, width).contiguous(memory_format=layout).requires_grad_()
    y, gradient = ours(x), torch.randn(batch, out, height, width)
    y.backward(gradient)
    wide = x.detach().double().requires_grad_()
    reference = exact(wide)
    reference.backward(gradient.double())
    assert off(y.detach(), reference.detach()) < ROUNDING
    for found, wanted in ((x, wide), (plain.weight, exact.weight), (plain.bias, exact.bias)):
        assert off(found.grad, wanted.grad) < ROUNDING


def test_the_slope_of_a_function_is_its_gradient():
    """By differences, as `gradcheck` does it, without another implementation to compare with."""
    torch.manual_seed(0)
    conv = Conv3x3(nn.Conv2d(16, 16, 3, padding=1))
    inputs = torch.randn(2, 16, 6, 5, requires_grad=True), conv.weight, conv.bias
    weighting = torch.randn(2, 16, 6, 5)

    def value(x, weight, bias):
        return (KERNELS.conv3x3(x, weight, bias).double() * weighting).sum()

    gradients = torch.autograd.grad(value(*inputs), inputs)
    for i, gradient in enumerate(gradients):
        direction = torch.randn_like(gradient)
        ahead, behind = ([*inputs[:i], inputs[i] + step, *inputs[i + 1 :]] for step in (direction, -direction))
        slope = (value(*ahead) - value(*behind)).item() / 2  # exact but for rounding: it is linear in each
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-3)


def test_only_the_gradients_that_are_asked_for():
    conv = Conv3x3(nn.Conv2d(16, 32, 3, padding=1))
    conv.weight.requires_grad_(False)
    conv(torch.randn(1, 16, 4, 4)).sum().backward()
    assert conv.weight.grad is None and conv.bias.grad is not None
    with torch.no_grad():
        assert not conv(torch.randn(1, 16, 4, 4)).requires_grad


def test_it_is_the_same_bit_for_bit_by_any_number_of_threads():
    torch.manual_seed(0)
    x, gradient, weight = torch.randn(9, 32, 32, 32), torch.randn(9, 32, 32, 32), torch.randn(32, 32, 3, 3)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found += [KERNELS.conv3x3_input_gradient(gradient, weight)]
            first, second = (KERNELS.conv3x3_weight_gradient(x, gradient, weight) for _ in range(2))
            assert first.equal(second)  # at equal numbers of threads
    finally:
        torch.set_num_threads(threads)
    assert all(other.equal(found[0]) for other in found)


def test_they_are_operators_of_torch():
    checks = "test_schema", "test_faketensor", "test_autograd_registration"
    layout = torch.channels_last
    x, gradient = (torch.randn(2, c, 5, 4).contiguous(memory_format=layout) for c in (16, 32))
    weight, bias = torch.randn(32, 16, 3, 3, requires_grad=True), torch.randn(32, requires_grad=True)
    library.opcheck(KERNELS.conv3x3.default, (x, weight, bias), test_utils=checks)
    library.opcheck(KERNELS.conv3x3_input_gradient.default, (gradient, weight.detach()), test_utils=checks[:2])
    library.opcheck(KERNELS.conv3x3_weight_gradient.default, (x, gradient, weight.detach()), test_utils=checks[:2])


def test_what_does_not_fit_is_refused_or_left_to_torch(faster):
    x, weight, bias = torch.randn(1, 16, 4, 4), torch.randn(32, 16, 3, 3), torch.randn(32)
    wrong = [(x.double(), weight, bias), (x, weight.double(), bias), (x, weight, bias[:16]), (x[:, :8], weight, bias)]
    for arguments in (*wrong, (torch.randn(1, 32, 4, 4), weight, bias), (x, weight[:, :, :2], bias)):
        with pytest.raises(RuntimeError):
            KERNELS.conv3x3(*arguments)
    with pytest.raises(RuntimeError):
        KERNELS.conv3x3_weight_gradient(x, torch.randn(1, 32, 5, 4), weight)
    others = [nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, stride=2)]
    others += [nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.Conv2d(16, 16, 3)]
    others.append(nn.Conv2d(16, 16, 3, padding=1).double())
    assert not train_with_kernels(nn.Sequential(*others))
    network = nn.Sequential(*others, nn.Conv2d(16, 16, 3, padding=1))
    assert train_with_kernels(network)
    assert [type(m) is Conv3x3 for m in network] == [False] * 6 + [True]
    with torch.autocast("cpu", torch.bfloat16):
        assert network[-1](x).dtype == torch.bfloat16  # torch's own
    plain = nn.Conv2d(16, 16, 3, padding=1)
    assert Conv3x3(plain).double()(x.double()).equal(F.conv2d(x.double(), plain.weight, plain.bias, padding=1))


def test_they_are_not_used_where_they_are_slower(monkeypatch):
    monkeypatch.setattr(training, "kernels_train_faster", lambda: False)
    network = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1))
    assert not train_with_kernels(network) and type(network[0]) is nn.Conv2d


def test_the_faster_way_is_measured_and_remembered(monkeypatch, tmp_path):
    monkeypatch.setattr("diamond_gym.device.user_folder", lambda _: tmp_path)
    assert training._measure() in ("torch", "kernels")
    for answer, now in (("kernels", "torch"), ("torch", "kernels")):
        for path in tmp_path.glob("training/*.txt"):
            path.unlink()
        for measured in (answer, now):  # another process finds what the first one has
            training.kernels_train_faster.cache_clear()
            monkeypatch.setattr(training, "_measure", lambda measured=measured: measured)
            assert training.kernels_train_faster() == (answer == "kernels")
    training.kernels_train_faster.cache_clear()


def test_a_training_takes_the_same_course(tmp_path, monkeypatch):
    store, losses = worlds.store(tmp_path / "walks"), []
    inner = replace(worlds.INNER, channels=[16])
    config = replace(worlds.CONFIG, denoiser=replace(worlds.CONFIG.denoiser, inner_model=inner))
    for kernels in (False, True):
        monkeypatch.setattr(training, "kernels_train_faster", lambda kernels=kernels: kernels)
        fit = WorldModelTrainer(config, store, total_steps=10)
        assert any(isinstance(m, Conv3x3) for m in fit.world_model.modules()) == kernels
        losses.append(torch.tensor([float(fit.train_step()["denoiser/loss"]) for _ in range(5)]))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-5)


def test_an_agent_learns_by_them_and_in_their_dreams(monkeypatch):
    sizes = ActorCriticConfig(lstm_dim=8, img_size=16, channels=[16, 32], down=[1, 1], num_actions=ACTIONS)
    save_tiny_model()
    asked = []
    monkeypatch.setattr(WorldModel, "use_kernels", lambda model: asked.append(model.precision))
    (model, _), figures = world_to_dream_in(resolve("tiny")), []
    assert asked == ["float32"]
    for kernels in (False, True):
        monkeypatch.setattr(training, "kernels_train_faster", lambda kernels=kernels: kernels)
        config = AgentFitConfig(sizes, optimizer=OptimizerConfig(batch_size=3), horizon=4)
        trainer = ActorCriticTrainer(config)
        assert any(isinstance(m, Conv3x3) for m in trainer.agent.modules()) == kernels
        assert trainer.agent.state_dict().keys() == ActorCritic(sizes).state_dict().keys()
        trainer.dream_in(model.dream(3, horizon=4))
        figures.append(torch.tensor([float(value) for _ in range(3) for value in trainer.train_step().values()]))
    torch.testing.assert_close(*figures, rtol=1e-3, atol=1e-5)
