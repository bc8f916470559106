"""The fastest way is measured once for a machine, is never slower than the usual one, and computes the same."""

import re

import pytest
import torch
from rounding import assert_close, without_rounding
from stubs import ACTIONS, T, make_starts, save_tiny_model
from torch import nn

from diamond_gym.cli import main
from diamond_gym.envs.vector_env import DreamVectorEnv
from diamond_gym.networks import inference, ways
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.inference import FoldedDenoiser, FoldedRewardEnd
from diamond_gym.networks.kernels import built_kernels
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.networks.ways import Way, fastest, measure
from diamond_gym.world_model import WorldModel

SHAPE = {"cond_channels": 16, "depths": [1, 1], "channels": [32, 64], "attn_depths": [0, 0], "num_actions": ACTIONS}
needs_kernels = pytest.mark.skipif(built_kernels() is None, reason="no AVX2, or no C++ compiler")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, and a size from which on everything is measured."""
    monkeypatch.setattr("diamond_gym.device.user_folder", lambda _: tmp_path)
    monkeypatch.setattr(inference, "SMALL", 0)
    return tmp_path / "ways"


def clocked(monkeypatch, seconds):
    """What takes so long for a row on a clock of its own, by form and number of rows; a record of what was asked."""
    clock, asked = [0.0], []
    monkeypatch.setattr(ways, "clock", lambda: clock[0])

    def start(form, rows):
        def call():
            clock[0] += rows * seconds[form, rows]

        asked.append((form, rows))
        return call

    return start, asked


E_, K, C = ways.EAGER, ways.KERNELS, ways.COMPILED
CASES = {
    "the faster form": ({(E_, 1): 3, (K, 1): 1}, 1, 1, (K, 1)),
    "not slower for being asked": ({(E_, 1): 1, (K, 1): 3}, 1, 1, (E_, 1)),
    "no gain worth it": ({(E_, 1): 1, (K, 1): 0.99}, 1, 1, (E_, 1)),
    "more rows": ({(E_, 2): 5, (K, 2): 4, (K, 1): 6, (K, 4): 3, (K, 8): 2, (K, 16): 3}, 2, 16, (K, 8)),
    "fewer rows": ({(E_, 8): 5, (E_, 4): 3, (E_, 2): 2, (E_, 1): 4}, 8, 8, (E_, 2)),
    "torch.compile compiles for one size": ({(E_, 2): 2, (C, 2): 1}, 2, 8, (C, 2)),
}


@pytest.mark.parametrize(("seconds", "rows", "batch", "best"), CASES.values(), ids=list(CASES))
def test_the_fastest_way_is_found(seconds, rows, batch, best, monkeypatch):
    start, asked = clocked(monkeypatch, seconds)
    way = measure(list(dict.fromkeys(form for form, _ in seconds)), rows, batch, start)
    assert way[:2] == best
    assert set(asked) == set(seconds)  # nothing else has been tried
    assert all(f"{form} {size}: {1000 * s:.3g}" in way.why for (form, size), s in seconds.items())


def test_it_is_measured_once_and_damage_is_measured_anew(cache, monkeypatch):
    forms = [K, E_]
    start, asked = clocked(monkeypatch, {(E_, 1): 2, (K, 1): 1})
    first = fastest(forms, 1, 1, start, ["a network"])
    assert first == Way(K, 1, "ms a row: eager 1: 2e+03, kernels 1: 1e+03") and len(asked) == 2
    assert fastest(forms, 1, 1, start, ["a network"]) == first and len(asked) == 2
    (kept,) = cache.glob("*.txt")
    for damage in ("", "kernels 1", "kernels 0 (x)\n", "kernels 2 (x)\n", "compiled 1 (x)\n", "kernels 1 (x)"):
        kept.write_text(damage)
        assert fastest(forms, 1, 1, start, ["a network"]) == first
        assert kept.read_text() == f"{first}\n"
    assert len(asked) == 2 + 2 * 6
    for other in ((forms, 1, 1, start, ["another"]), ([E_], 1, 1, start, ["a network"])):
        fastest(*other)
    assert len(list(cache.glob("*.txt"))) == 3


def filled(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return module.eval().requires_grad_(False)


def networks() -> WorldModel:
    torch.manual_seed(0)
    reward_end = RewardEnd(RewardEndConfig(lstm_dim=16, img_size=16, **SHAPE))
    denoiser = filled(Denoiser(DenoiserConfig(InnerModelConfig(**SHAPE, num_steps_conditioning=T))))
    return WorldModel(denoiser, filled(reward_end), starts=make_starts(size=16))


@needs_kernels
@pytest.mark.parametrize("way", [(E_, 5), (E_, 2), (K, 5), (K, 2), (K, 1)])
def test_every_way_computes_the_same(way, monkeypatch):
    without_rounding(monkeypatch)
    plain, model = networks(), networks()
    assert model.use_kernels()
    asked = []

    def choose(forms, rows, batch, start, about):
        asked.append((forms, batch))
        for form in forms:
            start(form, 1)()
        return Way(way[0], min(way[1], batch))

    monkeypatch.setattr(inference, "fastest", choose)
    obs, act, noisy = torch.rand(5, T, 3, 16, 16) * 2 - 1, torch.randint(ACTIONS, (5, T)), torch.randn(5, 3, 16, 16)
    folded = FoldedDenoiser(model.denoiser)
    assert_close(folded.condition(obs, act)(noisy, 0.3), plain.denoiser.condition(obs, act)(noisy, 0.3), 1e-4)
    folded.condition(obs, act)
    assert asked == [([K, E_], 5)] and folded.way(obs, act)[:2] == way
    ours, theirs = FoldedRewardEnd(model.reward_end), plain.reward_end
    transitions = obs[:, :2], act[:, :2], obs[:, 1:3]
    for found, wanted in zip(ours(*transitions)[:2], theirs(*transitions)[:2], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert asked[1:] == [([K, E_], 1)]


def test_without_being_asked_only_rows_are_measured(cache):
    folded = FoldedDenoiser(networks().denoiser)
    obs, act = torch.rand(4, T, 3, 16, 16), torch.randint(ACTIONS, (4, T))
    assert folded.way(obs[:1], act[:1]) == Way(E_, 1) and not folded.ways  # there is nothing to choose
    way = folded.way(obs, act)
    assert way.form == E_ and 1 <= way.rows <= 4 and folded.ways == {(4, 16, 16): way}
    assert [path.read_text() for path in cache.glob("*.txt")] == [f"{way}\n"]


def test_small_batches_are_not_measured(monkeypatch, cache):
    monkeypatch.setattr(inference, "SMALL", 4 * 4 * 16 * 16 * 32)
    folded = FoldedDenoiser(networks().denoiser)
    obs, act = torch.rand(4, T, 3, 16, 16), torch.randint(ACTIONS, (4, T))
    folded.way(obs[:3], act[:3])
    assert not folded.ways and not cache.exists()
    folded.way(obs, act)
    assert folded.ways


@pytest.fixture
def asked(monkeypatch):
    """What was measured to choose a precision, on a machine where bfloat16 may be faster; the answers are set by it."""
    asked = []

    def measure(forms, rows, batch, start, usual):
        for form in forms:
            start(form, 1)()
        asked.append((forms, rows, batch, usual))
        return Way("bfloat16_eager" if batch > 2 else "float32_eager", 2, f"batch {batch}")

    monkeypatch.setattr(inference, "bfloat16_pays", lambda _: True)
    monkeypatch.setattr(inference, "measure", measure)
    return asked


def test_the_precision_is_measured_for_a_model_and_a_batch(asked, monkeypatch):
    model = networks()
    for _ in range(2):
        assert model.settle_precision(2) == "float32: eager 2 (batch 2)" and model.precision == "float32"
        assert model.settle_precision(4) == "bfloat16: eager 2 (batch 4)" and model.precision == "bfloat16"
    forms = ["float32_eager", "bfloat16_eager"]
    assert asked == [(forms, 2, 2, forms[0]), (forms, 4, 4, forms[0])]  # the second time it is remembered
    assert model.dream(4).step is not None
    monkeypatch.setattr(inference, "bfloat16_pays", lambda _: False)
    assert model.settle_precision(4).startswith("float32: a convolution in bfloat16 is not faster")
    assert model.precision == "float32" and len(asked) == 2


@needs_kernels
def test_the_precision_and_the_way_are_one_measurement(asked, cache):
    model = networks()
    model.use_kernels()
    model.settle_precision(2)
    assert set(asked[0][0]) >= {"float32_kernels", "float32_eager", "bfloat16_eager"}
    (kept,) = cache.glob("*.txt")
    for damage in ("", "kernels 2 (x)\n", "float16_eager 2 (x)\n"):
        kept.write_text(damage)
        assert model.settle_precision(2) == "float32: eager 2 (batch 2)"
    assert len(asked) == 4


def test_the_faster_precision_is_chosen(monkeypatch):
    monkeypatch.setattr(inference, "bfloat16_pays", lambda _: True)
    seconds = {("float32_eager", 4): 5, ("bfloat16_eager", 4): 4, ("bfloat16_eager", 2): 3, ("bfloat16_eager", 1): 6}
    start, _ = clocked(monkeypatch, seconds)
    monkeypatch.setattr(
        inference.FoldedDenoiser, "call", lambda self, form, obs, act: start(names[self.dtype], len(obs))
    )
    names = {torch.float32: "float32_eager", torch.bfloat16: "bfloat16_eager"}
    model = networks()
    assert model.settle_precision(4).startswith("bfloat16: eager 2 (ms a row: float32_eager 4: 5e+03, bfloat16_eager 4")


def test_a_named_precision_stays(asked):
    save_tiny_model()
    for name in ("float32", "bfloat16"):
        env = DreamVectorEnv(model="tiny", num_envs=4, device="cpu", precision=name)
        assert env.precision == name and not asked
        env.close()
    env = DreamVectorEnv(model="tiny", num_envs=4, device="cpu")
    assert env.precision == "bfloat16" and len(asked) == 1
    env.close()


@needs_kernels
def test_the_benchmark_says_what_was_chosen(capsys, monkeypatch):
    monkeypatch.setattr("diamond_gym.cli.benchmark.load", lambda *_: networks())
    monkeypatch.setattr(inference, "bfloat16_pays", lambda _: False)
    words = ["benchmark", "small", "--batches", "2", "--precisions", "float32", "--quality", "fast"]
    assert main([*words, "--seconds", "0.001"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    for line, forms in zip(lines[:2], ("eager", "eager|kernels"), strict=True):
        assert re.search(rf"  ({forms}) [12] \(ms a row: eager 2: [\d.e+]+", line)
    for line, way in zip(lines[2:], ("eager", "compiled"), strict=True):
        assert re.fullmatch(rf" +2  auto +{way} +float32: a convolution in bfloat16 is not faster .*", line)
