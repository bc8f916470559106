"""Compiled networks use the kernels; where these cannot be built or used, there is torch."""

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from kernel_parts import CONFIGS, SHAPE, dtypes, filled, needs_kernels
from stubs import ACTIONS
from torch import nn

from diamond_gym.device import compile_network, cpp_compiler
from diamond_gym.errors import BadArgument
from diamond_gym.networks import kernels
from diamond_gym.networks.blocks import ResBlocks
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.folding import fold_norms
from diamond_gym.networks.inference import FoldedDenoiser, FoldedRewardEnd
from diamond_gym.networks.kernels import built_kernels
from diamond_gym.networks.kernels.dreams import KernelResBlocks, use_kernels
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig


@needs_kernels
@dtypes
@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_a_compiled_denoiser_uses_them(config, dtype):
    torch.manual_seed(0)
    denoiser = filled(Denoiser(config))
    compiled = copy.deepcopy(denoiser)
    compile_network(compiled.inner_model)
    folded, sigmas = FoldedDenoiser(compiled, dtype), (5.0, 0.3)
    obs, act, noisy = torch.rand(3, 4, 3, 10, 14) * 2 - 1, torch.randint(ACTIONS, (3, 4)), torch.randn(3, 3, 10, 14)
    ours, exact = (f.condition(obs, act, None, sigmas) for f in (folded, FoldedDenoiser(denoiser)))
    assert any(isinstance(m, KernelResBlocks) for m in folded.inner.modules())
    assert folded.inner._compiled_call_impl is None  # torch.compile is not waited for
    for sigma in sigmas:
        levels = (ours(noisy, sigma) - exact(noisy, sigma)).abs() * 127.5
        assert levels.mean() < (0.01 if dtype == torch.float32 else 1)
    before = folded.condition(obs, act)(noisy, 0.3)  # embeddings of several levels at once may be rounded otherwise
    assert pickle.loads(pickle.dumps(folded)).condition(obs, act)(noisy, 0.3).equal(before)
    compiled.inner_model.unet.u_blocks[0].resblocks[0].conv1.weight.mul_(-3)
    folded.refresh()
    assert not folded.condition(obs, act)(noisy, 0.3).equal(before)


@needs_kernels
@dtypes
def test_a_compiled_reward_and_end_model_uses_them(dtype):
    torch.manual_seed(0)
    model = filled(RewardEnd(RewardEndConfig(lstm_dim=16, img_size=16, num_actions=ACTIONS, **SHAPE)))
    compiled = copy.deepcopy(model)
    compile_network(compiled.encoder)
    folded = FoldedRewardEnd(compiled, dtype)
    obs, following, act = torch.rand(3, 2, 3, 16, 16), torch.rand(3, 2, 3, 16, 16), torch.randint(ACTIONS, (3, 2))
    ours, theirs = folded(obs, act, following), model(obs, act, following)
    assert any(isinstance(m, KernelResBlocks) for m in folded.networks.encoder.modules())
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        exact = dtype == torch.float32
        torch.testing.assert_close(a, b, atol=1e-5 if exact else 0.02, rtol=1e-4 if exact else 0.05)


@pytest.mark.parametrize(("width", "dtype"), [(32, torch.float16), (24, torch.float32), (40, torch.bfloat16)])
def test_what_they_cannot_do_is_left_to_torch(width, dtype):
    network = nn.Sequential(ResBlocks([width], [width], 8, attn=False))
    fold_norms(network)
    assert not use_kernels(network, dtype)
    assert isinstance(network[0], ResBlocks)


def test_without_a_compiler_or_the_processor_torch_compiles(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "_processor_features", lambda: "avx2 fma")
    broken = (sys.executable, "-c", "import sys; sys.exit('no such flag' if '-shared' in sys.argv else 0)")
    monkeypatch.setattr(kernels, "cpp_compiler", lambda: (list(broken), b"1"))
    assert built_kernels.__wrapped__() is None
    assert "no such flag" in caplog.text
    monkeypatch.setattr(kernels, "_processor_features", lambda: "avx fma")
    assert built_kernels.__wrapped__() is None
    monkeypatch.setattr("diamond_gym.networks.kernels.built_kernels", lambda: None)
    denoiser = Denoiser(CONFIGS["nano's kind"])
    compile_network(denoiser.inner_model)
    inner = FoldedDenoiser(denoiser, torch.bfloat16).inner
    assert inner._compiled_call_impl is not None
    assert not any(isinstance(m, KernelResBlocks) for m in inner.modules())


@pytest.mark.parametrize("named", ["no-such-compiler", "false", "'"])
def test_no_compiler_is_said_in_one_line(named, monkeypatch):
    monkeypatch.setattr("diamond_gym.device.cpp_compiler", cpp_compiler.__wrapped__)
    monkeypatch.setenv("CXX", named)
    with pytest.raises(BadArgument, match="name one in CXX"):
        compile_network(nn.Linear(1, 1))
    monkeypatch.delenv("CXX")
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(BadArgument, match="name one in CXX"):
        compile_network(nn.Linear(1, 1))


@needs_kernels
@pytest.mark.slow
def test_processes_that_build_at_once(tmp_path):
    program = "from diamond_gym.networks.kernels import built_kernels; assert built_kernels() is not None"
    environment = {"XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **environment}) for _ in range(2)]
    try:
        assert [process.wait() for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
    assert [path.suffix for path in (tmp_path / "diamond-gym" / "kernels").iterdir()] == [".so"]
