"""The benchmark: its baseline computes the right thing, and its run is kept and taken up."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rounding import assert_close
from stubs import ACTIONS, save_tiny_model
from torch import nn

import diamond_gym.benchmark.subjects as subjects
from diamond_gym.benchmark.clock import Clock
from diamond_gym.benchmark.plain import PlainDenoiser, plain_sample
from diamond_gym.benchmark.run import Row, Run, Settings
from diamond_gym.benchmark.sections import SECTIONS
from diamond_gym.cli import benchmark as command
from diamond_gym.cli import main
from diamond_gym.errors import BadArgument
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.sampler import QUALITIES, sample

SHAPE = {"cond_channels": 16, "depths": [1, 2], "channels": [32, 64], "attn_depths": [0, 1], "num_actions": ACTIONS}
SETTINGS = Settings(torch.device("cpu"), quick=True, compile=False, sizes=("nano",), batches=(1, 2), budget=0.01)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_model()
    monkeypatch.setattr(subjects, "NANO", "tiny")


def filled(residual=False, **config):
    """A denoiser none of whose layers is silent, and frames, actions and noise for it."""
    torch.manual_seed(0)
    denoiser = Denoiser(DenoiserConfig(InnerModelConfig(**SHAPE, **config), residual=residual)).eval()
    denoiser.requires_grad_(False)
    for parameter in denoiser.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    obs, act = torch.rand(2, 4, 3, 16, 16) * 2 - 1, torch.randint(ACTIONS, (2, 4))
    return denoiser, obs, act, torch.randn(2, 3, 16, 16)


def off(found, exact):
    """How far two tensors are from each other, as a part of the second's norm."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def outputs(denoiser, plain, obs, act, noise, sigma):
    """What the network and the baseline give before a frame comes of it, in the arithmetic of their weights."""
    obs, noise, sigma = (x.to(plain.weights["conv_in.weight"].dtype) for x in (obs, noise, sigma.expand(len(noise))))
    theirs = denoiser.model_output(noise, denoiser.precondition(sigma), obs, act)
    return theirs, plain._parts(noise, sigma, obs, act)[2]


CONFIGS = [{"patch_size": 2}, {}, {"num_actions_conditioning": 2}]
configs = pytest.mark.parametrize("config", CONFIGS, ids=["patches", "pixels", "told"])
ROUNDING = 1e-5  # in float32 both are found to be some 1e-6 from the exact value, whatever the processor


@configs
def test_the_baseline_is_the_same_network(config):
    denoiser, *inputs = filled(**config)
    exact = copy.deepcopy(denoiser).double()
    for sigma in torch.tensor([5.0, 0.3, 0.002]):
        reference, twin = outputs(exact, PlainDenoiser(exact), *inputs, sigma)
        assert off(twin, reference) < 1e-7  # the network gives its output in float32
        for found in outputs(denoiser, PlainDenoiser(denoiser), *inputs, sigma):
            assert off(found, reference) < ROUNDING


def test_another_network_would_be_seen():
    """Any weight that is one per cent larger is more than rounding."""
    denoiser, *inputs = filled()
    for key in PlainDenoiser(denoiser).weights:
        plain = PlainDenoiser(denoiser)
        plain.weights[key] *= 1.01
        theirs, ours = outputs(denoiser, plain, *inputs, torch.tensor(0.3))
        assert off(ours, theirs) > ROUNDING, key


@configs
@pytest.mark.parametrize("residual", [False, True])
def test_the_baseline_samples_the_same_frames(config, residual):
    """Where the network is exact, no value comes to lie on the other side of a level: the frames are equal."""
    denoiser, obs, act, noise = filled(residual, **config)
    plain = PlainDenoiser(denoiser.double())
    network = plain._network
    plain._network = lambda *inputs: network(*inputs).float()  # as the original gives it

    def exact(denoiser):
        def denoise(noisy, sigma, obs, act):
            return denoiser.denoise(noisy.double(), sigma.double(), obs.double(), act)

        return SimpleNamespace(denoise=denoise)

    def exact_condition(obs, act, sigma_cond, sigmas):
        denoise = denoiser.condition(obs.double(), act)
        return lambda x, sigma: denoise(x.double(), sigma)

    for quality in QUALITIES.values():
        ours = plain_sample(exact(plain), obs, act, noise, quality)
        theirs = sample(exact_condition, obs, act, noise, quality)[0]
        assert ours.dtype == theirs.dtype == torch.float32
        assert_close(ours, theirs, 1e-6)


def test_the_baseline_learns():
    torch.manual_seed(0)
    plain = PlainDenoiser(Denoiser(DenoiserConfig(InnerModelConfig(**SHAPE))), train=True)
    obs, act = torch.rand(2, 6, 3, 16, 16) * 2 - 1, torch.randint(ACTIONS, (2, 6))
    plain.loss(obs, act, lambda n: torch.full((n,), 0.5)).backward()
    assert plain.weights["conv_out.weight"].grad.abs().sum() > 0


def test_functions_are_timed_in_turn():
    calls = []
    clock = Clock(torch.device("cpu"))
    medians = clock.medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0.0, least=2)
    assert calls == ["a", "b"] * 3  # one of each does not count
    assert medians.keys() == {"a", "b"} and min(medians.values()) >= 0


@pytest.mark.parametrize("name", sorted(set(SECTIONS) - {"waiting"}))
def test_every_section_measures(name, tiny, monkeypatch):
    rows = list(SECTIONS[name](SETTINGS))
    assert rows and all(row.section == name for row in rows)
    assert all(row.value >= 0 for row in rows)
    if name == "dream":
        ratios = {row.what: row.ratio for row in rows}
        assert ratios["batch 2, paper, plain float32"] == 1
        assert set(ratios) == {
            f"batch {b}, paper, {way}" for b in (1, 2) for way in ("plain float32", "float32", "bfloat16")
        }


def test_a_run_is_kept_and_taken_up_again(tmp_path):
    path, calls = tmp_path / "run.json", []

    def section(settings):
        calls.append(settings)
        yield Row("one", "nano", "what", 2.0, "x")

    def measured(again=False, **changes):
        run = Run(replace(SETTINGS, **changes), path)
        run.resume()
        return list(run.measure([("one", section)], again))

    assert measured() == measured() == [Row("one", "nano", "what", 2.0, "x")]
    assert len(calls) == 1
    measured(again=True)
    assert len(calls) == 2
    saved = json.loads(path.read_text())
    assert saved["done"] == ["one"] and len(saved["rows"]) == 1 and saved["about"]["torch"] == torch.__version__
    path.write_text(json.dumps(saved | {"about": {**saved["about"], "torch": "1.0"}}))
    measured()  # figures of another torch are not these
    assert len(calls) == 3
    path.write_text("[]")
    with pytest.raises(BadArgument, match="not a saved benchmark"):
        measured()


def test_the_command(tiny, tmp_path, capsys, monkeypatch):
    assert set(command.SECTIONS) == set(SECTIONS)
    out = tmp_path / "figures.json"
    words = ["benchmark", "--quick", "--only", "replay", "environment", "--sizes", "nano", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "segments/s" in said and "overhead" in said and str(out) in said
    assert {row["section"] for row in json.loads(out.read_text())["rows"]} == {"replay", "environment"}


@pytest.mark.parametrize("words", [["--threads", "0"], ["--batches", "0"], ["--only", "nothing"]])
def test_what_cannot_be_measured_is_told_in_one_line(words, capsys):
    assert main(["benchmark", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.slow
def test_waiting(tiny):
    assert {row.unit for row in SECTIONS["waiting"](SETTINGS)} == {"s"}
