"""The benchmark command, and the plain baseline of `benchmarks/plain.py`, which has to compute the right thing."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from rounding import assert_close
from stubs import ACTIONS, save_tiny_model
from torch import nn

from benchmarks.plain import PlainDenoiser, plain_sample
from diamond_gym.cli import main
from diamond_gym.cli.benchmark import paper_model
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.sampler import QUALITIES, sample

SHAPE = {"cond_channels": 16, "depths": [1, 2], "channels": [32, 64], "attn_depths": [0, 1], "num_actions": ACTIONS}


def filled(residual=False, change_threshold=0, **config):
    """A denoiser none of whose layers is silent, and frames, actions and noise for it."""
    torch.manual_seed(0)
    denoiser = Denoiser(
        DenoiserConfig(InnerModelConfig(**SHAPE, **config), residual=residual, change_threshold=change_threshold)
    ).eval()
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
configs = pytest.mark.parametrize("config", CONFIGS, ids=["patches", "pixels", "given"])
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


def test_the_command(tmp_path, capsys):
    save_tiny_model()
    out = tmp_path / "figures.json"
    words = ["benchmark", "tiny", "--batches", "1", "2", "--precisions", "float32", "--eager", "--quality", "fast"]
    assert main([*words, "--seconds", "0.001", "--out", str(out)]) == 0
    printed, saved = capsys.readouterr().out, json.loads(out.read_text())
    assert f"torch {torch.__version__}" in printed and "frames/s" in printed and str(out) in printed
    assert saved["about"]["torch"] == torch.__version__ and saved["model"] == "tiny"
    assert [(row["batch"], row["networks"]) for row in saved["rows"]] == [(1, "eager"), (2, "eager")]
    assert all(row["frames/s"] > 0 for row in saved["rows"])


def test_the_papers_sizes_are_measured_with_random_weights():
    model = paper_model(num_actions=ACTIONS)
    assert model.denoiser.config == DenoiserConfig(InnerModelConfig(num_actions=ACTIONS))
    assert all(parameter.any() for key, parameter in model.denoiser.named_parameters() if key.endswith("weight"))


@pytest.mark.parametrize("words", [["--threads", "0"], ["--batches", "0"], ["--seconds", "0"], ["nobody"]])
def test_what_cannot_be_measured_is_refused_in_one_line(words, capsys):
    assert main(["benchmark", *words]) in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
