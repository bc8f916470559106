"""The kernels compute what the networks do, for any size, batch and number of threads; without them there is torch."""

import copy
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stubs import ACTIONS
from torch import library, nn

from diamond_gym.device import compile_network, cpp_compiler
from diamond_gym.errors import BadArgument
from diamond_gym.frames import quantise
from diamond_gym.networks import kernels
from diamond_gym.networks.blocks import Downsample, ResBlocks, SelfAttention2d, Upsample
from diamond_gym.networks.denoiser import Denoiser, DenoiserConfig, InnerModelConfig
from diamond_gym.networks.folding import Enter, Leave, fold_norms, hold
from diamond_gym.networks.inference import FoldedDenoiser, FoldedRewardEnd
from diamond_gym.networks.kernels import built_kernels, random_words
from diamond_gym.networks.kernels.dreams import (
    KernelDownsample,
    KernelEnter,
    KernelLeave,
    KernelResBlocks,
    KernelUpsample,
    kernel_frame,
    use_kernels,
)
from diamond_gym.networks.reward_end import RewardEnd, RewardEndConfig
from diamond_gym.randomness import RowRandom

KERNELS = built_kernels()
HAS_BFLOAT16 = KERNELS is not None and bool(KERNELS.has_bfloat16())
needs_kernels = pytest.mark.skipif(KERNELS is None, reason="no AVX2, or no C++ compiler")
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="no AVX512-BF16, or no C++ compiler")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.012}  # of the norm of what comes out
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
SHAPE = {"cond_channels": 16, "depths": [1, 2], "channels": [32, 64], "attn_depths": [0, 1]}
CONFIGS = {
    "paper's kind": DenoiserConfig(InnerModelConfig(**SHAPE, num_actions=ACTIONS)),
    "nano's kind": DenoiserConfig(InnerModelConfig(**SHAPE, num_actions=ACTIONS, patch_size=2), residual=True),
}
widths = st.integers(1, 9).map(lambda n: 16 * n)


def filled(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return module.eval().requires_grad_(False)


def images(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


def blocks(
    dtype: torch.dtype, wide: int, skip: int, out: int, attn: bool = False
) -> tuple[ResBlocks, nn.Module, nn.Module]:
    """Blocks, what computes their folded modulation, and their form on the kernels."""
    whole = filled(nn.Sequential(ResBlocks([wide + skip], [out], 8, attn=attn)))
    folded = copy.deepcopy(whole)
    modulation = fold_norms(folded)
    hold(folded, dtype)
    assert use_kernels(folded, dtype)
    assert isinstance(folded[0], KernelResBlocks)
    return whole[0], modulation, folded[0]


def replaced(module: nn.Module, dtype: torch.dtype, kind: type[nn.Module]) -> nn.Module:
    """A part of a network in the form that calls the kernels."""
    folded = copy.deepcopy(nn.Sequential(module.conv if isinstance(module, Downsample) else module))  # as it is folded
    hold(folded, dtype)
    assert use_kernels(folded, dtype)
    assert type(folded[0]) is kind
    return folded[0]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs).norm() / theirs.norm())


@needs_kernels
@dtypes
@settings(max_examples=40)
@example(batch=2, height=3, width=3, wide=16, skip=16, out=32, seed=0)  # as wide as both together: nothing projects
@given(
    batch=st.integers(1, 3), height=st.integers(1, 19), width=st.integers(1, 19), wide=widths,
    skip=st.sampled_from([0, 16, 64]), out=widths, seed=st.integers(0, 99),
)  # fmt: skip
def test_a_residual_block(dtype, batch, height, width, wide, skip, out, seed):
    torch.manual_seed(seed)
    whole, modulation, ours = blocks(dtype, wide, skip, out)
    x, cond = images(dtype, batch, wide, height, width), torch.randn(batch, 8)
    skips = [images(dtype, batch, skip, height, width)] if skip else None
    theirs = whole(x.float(), cond, None if skips is None else [s.float() for s in skips])[0]
    result, outputs = ours(x, modulation(cond), skips)
    assert outputs[0] is result
    assert result.shape == theirs.shape
    assert relative(result, theirs) < TOLERANCE[dtype]


@needs_kernels
@settings(max_examples=60)
@given(
    batch=st.integers(1, 3), channels=st.sampled_from([1, 3]), side=st.integers(1, 9), residual=st.booleans(),
    threshold=st.sampled_from([0.0, 1.0, 4.0, 4.3, 200.0]), near=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_a_frame_is_the_same_to_the_last_bit(batch, channels, side, residual, threshold, near, seed):
    torch.manual_seed(seed)
    inner = replace(CONFIGS["nano's kind"].inner_model, img_channels=channels)
    denoiser = Denoiser(DenoiserConfig(inner, residual=residual, change_threshold=threshold if residual else 0.0))
    window = quantise(torch.randn(batch, 2, channels, side, 3), nearest=True)
    last = window[:, -1]  # not in one piece
    steps = torch.randint(-6, 7, last.shape) / 255 if near else torch.randn(last.shape)
    halves = torch.randint(0, 2, last.shape) / 255  # between two levels
    image = (last + steps + halves) * 1.1
    ours = kernel_frame(denoiser.config)(image, last)
    assert ours.dtype == torch.float32 and ours.equal(denoiser.frame(image, last))
    assert ours.is_contiguous()


@needs_kernels
@dtypes
@settings(max_examples=20)
@given(batch=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 70), wide=widths)
def test_an_enlargement(dtype, batch, height, width, wide):
    torch.manual_seed(0)
    theirs, x = filled(Upsample(wide)), images(dtype, batch, wide, height, width)
    assert relative(replaced(theirs, dtype, KernelUpsample)(x), theirs(x.float())) < TOLERANCE[dtype]


@needs_kernels
@dtypes
@settings(max_examples=20)
@given(batch=st.integers(1, 3), height=st.integers(1, 19), width=st.integers(1, 19), wide=widths)
def test_halving(dtype, batch, height, width, wide):
    torch.manual_seed(0)
    theirs, x = filled(Downsample(wide)), images(dtype, batch, wide, height, width)
    wanted = theirs(x.float())
    found = replaced(theirs, dtype, KernelDownsample)(x)
    assert found.shape == wanted.shape and relative(found, wanted) < TOLERANCE[dtype]


@needs_kernels
@dtypes
@settings(max_examples=20)
@given(batch=st.integers(1, 3), height=st.integers(1, 19), width=st.integers(1, 19), wide=widths)
def test_attention(dtype, batch, height, width, wide):
    torch.manual_seed(0)
    whole = blocks(dtype, wide, 0, wide, attn=True)[0]
    nn.init.normal_(whole.resblocks[0].attn.qkv_proj.weight, std=0.2)  # some pixels see few others
    folded = copy.deepcopy(nn.Sequential(whole))
    modulation = fold_norms(folded)
    hold(folded, dtype)
    assert use_kernels(folded, dtype) and not any(isinstance(m, SelfAttention2d) for m in folded.modules())
    x, cond = images(dtype, batch, wide, height, width), torch.randn(batch, 8)
    wanted = whole(x.float(), cond)[0]
    assert relative(folded[0](x, modulation(cond))[0], wanted) < 2 * TOLERANCE[dtype]


@needs_kernels
@dtypes
@settings(max_examples=30)
@given(
    batch=st.integers(1, 3), channels=st.integers(1, 7), patch=st.integers(1, 3), height=st.integers(1, 13),
    width=st.integers(1, 13), wide=widths, added=st.booleans(), bias=st.booleans(),
)  # fmt: skip
def test_images_enter_and_leave(dtype, batch, channels, patch, height, width, wide, added, bias):
    torch.manual_seed(0)
    depth, frames = channels * patch**2, torch.randn(batch, channels, height, width)
    enter = Enter(torch.randn(wide, depth, 3, 3) * 0.1, torch.randn(wide) if bias else None, patch)
    inside = enter(frames)
    more = images(dtype, *inside.shape) if added else None
    wanted = inside if more is None else inside + more.float()
    found = replaced(enter, dtype, KernelEnter)(frames, more)
    assert found.dtype == dtype and found.shape == wanted.shape
    assert relative(found, wanted) < TOLERANCE[dtype]
    leave = filled(Leave(nn.GroupNorm(wide // 16, wide), nn.Conv2d(wide, depth, 3, padding=1), patch))
    nn.init.normal_(leave.norm.weight)
    wanted = leave(found.float(), frames.shape)
    found = replaced(leave, dtype, KernelLeave)(found, frames.shape)
    assert found.dtype == torch.float32 and found.shape == wanted.shape
    assert relative(found, wanted) < 2 * TOLERANCE[dtype]


@needs_kernels
@dtypes
@pytest.mark.parametrize("attn", [False, True])
def test_an_image_does_not_depend_on_its_batch_or_on_the_threads(dtype, attn):
    torch.manual_seed(0)
    _, modulation, ours = blocks(dtype, 64, 32, 32, attn)
    side = 20 if attn else 64
    x, skip = images(dtype, 5, 64, side, side), images(dtype, 5, 32, side, side)
    condition = modulation(torch.randn(5, 8))
    together = ours(x, condition, [skip])[0]
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for i in range(5):
                assert ours(x[i : i + 1], condition[i : i + 1], [skip[i : i + 1]])[0].equal(together[i : i + 1])
            assert ours(x, condition, [skip])[0].equal(together)
            shared = ours(x, condition[:1].expand(5, -1), [skip])[0]  # one condition for all rows, stride 0
            assert shared[0].equal(together[0])
    finally:
        torch.set_num_threads(threads)


@needs_kernels
@dtypes
@pytest.mark.parametrize("skip", [0, 16])
def test_they_are_operators_of_torch(dtype, skip):
    """With a schema and the shapes of their results, so that what calls them can be traced and exported."""
    torch.manual_seed(0)
    _, modulation, ours = blocks(dtype, 32, skip, 16)
    block, x, condition = ours.resblocks[0], images(dtype, 2, 32, 5, 3), modulation(torch.randn(2, 8))
    more = images(dtype, 2, skip, 5, 3) if skip else None
    weights, checks = (*block.convolutions, *block.projection), ("test_schema", "test_faketensor")
    library.opcheck(KERNELS.resblock.default, (x, more, condition, *weights, *block.norms), test_utils=checks)
    library.opcheck(KERNELS.upsample.default, (x, *_square(dtype).convolution), test_utils=checks)
    more, odd = images(dtype, 2, 16, 3, 2), torch.randn(2, 3, 5, 3)
    down = replaced(Downsample(32), dtype, KernelDownsample)
    library.opcheck(KERNELS.halve.default, (x, *down.convolution), test_utils=checks)
    enter = replaced(Enter(torch.randn(16, 12, 3, 3), None, 2), dtype, KernelEnter)
    library.opcheck(KERNELS.enter.default, (odd, 2, *enter.convolution, more), test_utils=checks)
    leave = replaced(Leave(nn.GroupNorm(2, 16), nn.Conv2d(16, 12, 3, padding=1), 2), dtype, KernelLeave)
    library.opcheck(KERNELS.leave.default, (more, *leave.arguments, 2, 3, 5, 3), test_utils=checks)
    attention = blocks(dtype, 32, 0, 32, attn=True)[2].resblocks[0].attention
    library.opcheck(KERNELS.attention.default, (x, *attention), test_utils=checks)
    more = images(dtype, 2, skip, 5, 3) if skip else None
    traced = torch.export.export(block, (x, condition, more)).module()
    assert traced(x, condition, more).equal(block(x, condition, more))


def _square(dtype: torch.dtype) -> KernelUpsample:
    folded = nn.Sequential(filled(Upsample(32)))
    hold(folded, dtype)
    assert use_kernels(folded, dtype)
    return folded[0]


@needs_kernels
@given(st.integers(0, 2**64), st.integers(0, 2**40), st.integers(1, 70), st.sampled_from([0, 1, 16, 2**31 + 17]))
def test_random_words_are_those_of_torchs_operators(seed, draw, size, stream):
    theirs, ours = RowRandom(3, "cpu", seed), RowRandom(3, "cpu", seed, random_words())
    for rows in (theirs, ours):
        rows.draw += draw + torch.tensor([0, 1, 2**32])
    for found, wanted in zip(*(r.normal_and_uniform((size,), stream, 4) for r in (ours, theirs)), strict=True):
        assert found.equal(wanted)
    library.opcheck(KERNELS.words.default, (ours.seed, ours.draw, size, stream), test_utils="test_faketensor")
    with pytest.raises(RuntimeError, match="seeds and draws"):
        KERNELS.words(ours.seed, ours.draw[:2], size, stream)


@needs_kernels
def test_what_does_not_fit_is_refused():
    _, modulation, ours = blocks(torch.float32, 32, 0, 16)
    block, x, condition = ours.resblocks[0], images(torch.float32, 2, 32, 5, 3), modulation(torch.randn(2, 8))
    wrong = [
        (x.double(), condition), (x[:, :16], condition), (x[0], condition), (x[:, :20], condition),
        (x, condition[:1]), (x, condition[:, :20]), (x, condition.double()), (x, condition.T.contiguous().T),
    ]  # fmt: skip
    for arguments in wrong:
        with pytest.raises(RuntimeError):
            block(*arguments)
    with pytest.raises(RuntimeError):
        block(x, condition, x[:1])
    enter = replaced(Enter(torch.randn(16, 12, 3, 3), None, 2), torch.float32, KernelEnter)
    leave = replaced(Leave(nn.GroupNorm(2, 16), nn.Conv2d(16, 12, 3, padding=1), 2), torch.float32, KernelLeave)
    frames, inside = torch.randn(2, 3, 6, 4), images(torch.float32, 2, 16, 3, 2)
    leave(enter(frames, inside), frames.shape)
    for call in (
        lambda: enter(frames.double()), lambda: enter(frames[0]), lambda: enter(frames.repeat(1, 2, 1, 1)),
        lambda: enter(frames, inside[:1]), lambda: leave(inside, frames[..., :2].shape), lambda: leave(x, frames.shape),
        lambda: replaced(Downsample(16), torch.float32, KernelDownsample)(x),
        lambda: KERNELS.attention(x, *blocks(torch.float32, 16, 0, 16, attn=True)[2].resblocks[0].attention),
    ):  # fmt: skip
        with pytest.raises(RuntimeError):
            call()


@needs_kernels
@dtypes
def test_large_and_small_numbers(dtype):
    torch.manual_seed(0)
    whole, modulation, ours = blocks(dtype, 32, 0, 32)
    cond = torch.randn(2, 8)
    for factor in (1e-6, 1e4):
        x = images(dtype, 2, 32, 8, 8) * factor
        assert relative(ours(x, modulation(cond))[0], whole(x.float(), cond)[0]) < TOLERANCE[dtype]
    x = images(dtype, 2, 32, 8, 8) + 30  # a mean far above the spread
    assert relative(ours(x, modulation(cond))[0], whole(x.float(), cond)[0]) < TOLERANCE[dtype]


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
