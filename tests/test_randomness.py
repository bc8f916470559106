import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from diamond_gym.randomness import EXTRA_NOISE, NOISE, START, RowRandom, philox

# The known answers that come with Random123 (Salmon et al.), philox4x32 with 10 rounds: counter, key, output.
KNOWN_ANSWERS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
WORDS = st.integers(0, 2**32 - 1)


def philox_in_python(counter, key):
    """The definition, on Python's unbounded integers."""
    for _ in range(10):
        high0, low0 = divmod(counter[0] * 0xD2511F53, 2**32)
        high1, low1 = divmod(counter[2] * 0xCD9E8D57, 2**32)
        counter = (high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0)
        key = ((key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32)
    return counter


def run_philox(counter, key):
    counter, key = ([torch.tensor([w]) for w in words] for words in (counter, key))
    return tuple(int(w) for w in philox(counter, tuple(key)))


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter, key, answer):
    assert philox_in_python(counter, key) == answer
    assert run_philox(counter, key) == answer


@given(st.tuples(*[WORDS] * 4), st.tuples(*[WORDS] * 2))
def test_philox_is_exact_for_all_words(counter, key):
    assert run_philox(counter, key) == philox_in_python(counter, key)


def test_philox_is_exact_in_vectorised_kernels():
    rng = np.random.default_rng(0)
    words = torch.from_numpy(rng.integers(0, 2**32, (6, 1001)))
    out = torch.stack(philox(list(words[:4]), (words[4], words[5]))).T.tolist()
    for row, answer in zip(words.T.tolist(), out, strict=True):
        assert philox_in_python(tuple(row[:4]), tuple(row[4:])) == tuple(answer)


def test_the_counter_and_the_key_are_as_documented():
    seed, draw = 5 + (7 << 32), 3 + (2 << 32)
    rows = RowRandom(1, "cpu", seed)
    rows.draw += draw
    words = rows.words(2, stream=9)[0].view(4, 2).T.tolist()
    assert [tuple(w) for w in words] == [philox_in_python((b, 3, 9, 2), (5, 7)) for b in range(2)]


@given(st.integers(0, 2**64), st.integers(1, 9), array_shapes(max_dims=3, max_side=9))
def test_a_row_draws_the_same_alone_and_in_any_batch(seed, batch, shape):
    rows = RowRandom(batch, "cpu", seed)
    rows.advance(torch.arange(batch) % 2 == 0)
    for i in range(batch):
        alone = RowRandom(1, "cpu", seed + i)
        if i % 2 == 0:
            alone.advance()
        assert torch.equal(rows.normal(shape, NOISE)[i], alone.normal(shape, NOISE)[0])
        uniform = rows.normal_and_uniform(shape, NOISE, 3)[1]
        assert uniform.shape == (batch, 3)
        assert torch.equal(uniform[i], alone.normal_and_uniform(shape, NOISE, 3)[1][0])
        assert torch.equal(rows.integers(100, START)[i], alone.integers(100, START)[0])


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 30, 56), (1, 5, 7)])
def test_large_batches_are_equal_whatever_the_blocking(shape):
    rows = RowRandom(33, "cpu", 4)
    normal = rows.normal(shape, NOISE)
    for i in (0, 1, 16, 31, 32):
        assert torch.equal(normal[i], RowRandom(1, "cpu", 4 + i).normal(shape, NOISE)[0])


def test_normal_is_standard_normal():
    x = RowRandom(16, "cpu", 1).normal((3, 64, 64), NOISE).flatten().double()
    n = len(x)
    assert abs(float(x.mean())) < 4 / n**0.5
    assert abs(float((x**2).mean()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float((x**3).mean())) < 4 * (15 / n) ** 0.5
    assert abs(float((x**4).mean()) - 3) < 4 * (96 / n) ** 0.5
    cdf = torch.special.ndtr(x.sort().values)  # Kolmogorov and Smirnov: 1.95 is passed with probability 0.999
    assert float((cdf - torch.arange(n) / n).abs().max()) * n**0.5 < 1.95
    pairs = x.view(-1, 2)
    assert abs(float((pairs[:, 0] * pairs[:, 1]).mean())) < 4 / len(pairs) ** 0.5


def test_streams_events_and_seeds_differ():
    rows = RowRandom(2, "cpu", 0)
    draws = [rows.normal((4,), stream)[0] for stream in (START, NOISE, EXTRA_NOISE, EXTRA_NOISE + 1)]
    draws.append(rows.normal((4,), NOISE)[1])
    rows.advance()
    draws.append(rows.normal((4,), NOISE)[0])
    for i, a in enumerate(draws):
        assert all(not torch.isclose(a, b).any() for b in draws[:i])


def test_the_uniforms_beside_the_normals_are_uniform_and_independent():
    normal, uniform = RowRandom(20_000, "cpu", 3).normal_and_uniform((4,), NOISE, 4)
    assert torch.equal(normal, RowRandom(20_000, "cpu", 3).normal((4,), NOISE))
    numbers = torch.cat((normal, uniform), dim=1).double()
    assert float((torch.corrcoef(numbers.T) - torch.eye(8)).abs().max()) < 0.03
    for quantile in (0.1, 0.5, 0.9):
        assert abs(float((uniform < quantile).double().mean()) - quantile) < 0.01


def test_uniform_and_integers_stay_in_range_and_cover_it():
    rows = RowRandom(20_000, "cpu", 3)
    uniform = rows.normal_and_uniform((1,), START, 2)[1]
    assert uniform.shape == (20_000, 2)
    assert 0 <= float(uniform.min()) < 1e-3 < 0.999 < float(uniform.max()) < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.01
    counts = torch.bincount(rows.integers(7, START), minlength=7)
    assert len(counts) == 7
    assert (counts - 20_000 / 7).abs().max() < 250  # five standard deviations


def test_uniform_never_reaches_one():
    largest = torch.tensor([0xFFFFFFFF])
    rows = RowRandom(1, "cpu")
    rows.words = lambda blocks, *_: largest.expand(1, 4 * blocks)
    assert float(rows.normal_and_uniform((2,), NOISE, 1)[1]) < 1
    assert int(rows.integers(3, START)) == 2
    assert torch.isfinite(rows.normal((2,), NOISE)).all()
    largest.zero_()
    assert torch.isfinite(rows.normal((2,), NOISE)).all()


def test_reseeding_some_rows_leaves_the_others():
    rows = RowRandom(3, "cpu", 10)
    rows.advance()
    before = rows.normal((5,), NOISE)
    rows.reseed(10, torch.tensor([False, True, False]))
    after = rows.normal((5,), NOISE)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[2], before[2])
    assert torch.equal(after[1], RowRandom(1, "cpu", 11).normal((5,), NOISE)[0])
    rows.reseed([None, 5, None])
    assert rows.seed.tolist() == [10, 5, 12]
    assert rows.draw.tolist() == [1, 0, 1]


def test_a_state_can_be_pickled_and_is_a_copy():
    rows = RowRandom(2, "cpu", 10)
    rows.advance()
    state = pickle.loads(pickle.dumps(rows.state_dict()))
    expected = rows.normal((5,), NOISE)
    rows.advance()
    other = RowRandom(2, "cpu")
    other.load_state_dict(state)
    assert torch.equal(other.normal((5,), NOISE), expected)
    with pytest.raises(ValueError, match="2 rows, the batch has 3"):
        RowRandom(3, "cpu").load_state_dict(state)
    with pytest.raises(ValueError, match="3 rows need 3 seeds"):
        RowRandom(3, "cpu", [1, 2])


@pytest.mark.gpu
def test_a_gpu_draws_the_same_up_to_rounding():
    ours, theirs = RowRandom(5, "cpu", 10), RowRandom(5, "cuda", 10)
    assert torch.equal(ours.words(100, NOISE), theirs.words(100, NOISE).cpu())
    assert torch.equal(ours.integers(2**31 - 1, START), theirs.integers(2**31 - 1, START).cpu())
    torch.testing.assert_close(ours.normal((3, 64, 64), NOISE), theirs.normal((3, 64, 64), NOISE).cpu())
