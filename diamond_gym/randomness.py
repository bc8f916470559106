"""Random numbers that belong to a row of a batch, not to the batch.

A dream's row must draw the same start, noise, reward and end whether it is dreamt alone or among 511 others,
and whenever the others restart. A generator with a hidden position cannot promise that; a counter can: every
number here is a pure function of (the row's seed, the row's event counter, what the number is for, its
position), computed with Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
It runs on any torch device without a host synchronisation, and its whole state is two small integer tensors.

`benchmarks/test_dream.py` measures what a step's numbers cost. Nothing is drawn ahead: on a CPU it would save
nothing, and on other devices the some 110 small kernels depend on no network, so that they can be queued before they
are needed.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # Weyl sequence: golden ratio, sqrt(3) - 1
_ROUNDS = 10
_CACHE_WORDS = 24_576  # counters handled at a time on a CPU, so that the working set stays in the cache

# What a number is for: streams of one event never overlap.
START, NOISE = 0, 1
EXTRA_NOISE = 16  # and up: the k-th further noise of a stochastic sampler
UPSAMPLER = 2**31  # and up: the noise of a second stage, and UPSAMPLER + EXTRA_NOISE and up its further noise


def philox(counter: Sequence[Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Philox4x32-10, vectorised.

    Args:
        counter: Four int64 tensors of one shape, each holding 32-bit words (0 to 2^32 - 1). Not modified.
        key: Two int64 tensors of 32-bit words, broadcastable to that shape.

    Returns:
        Four int64 tensors of that shape, each a random 32-bit word.
    """
    c0, c1, c2, c3 = [c.clone(memory_format=torch.contiguous_format) for c in counter]
    p0, p1 = torch.empty_like(c0), torch.empty_like(c0)
    rounds = torch.arange(_ROUNDS, device=c0.device).view(_ROUNDS, *[1] * key[0].ndim)
    keys = [((k + step * rounds) & _WORD).unbind() for k, step in zip(key, _KEY_STEPS, strict=True)]
    for key0, key1 in zip(*keys, strict=True):
        # int64 multiplication wraps, so all 64 bits of the unsigned product are there: the low word is p &
        # _WORD and the high word (p >> 32) & _WORD. Words that are only ever xor-ed stay unmasked until they
        # are multiplied.
        torch.mul(c0, _MULTIPLIERS[0], out=p0)
        torch.mul(c2, _MULTIPLIERS[1], out=p1)
        torch.bitwise_right_shift(p1, 32, out=c0)
        torch.bitwise_right_shift(p0, 32, out=c2)
        c0.bitwise_xor_(c1).bitwise_xor_(key0).bitwise_and_(_WORD)
        c2.bitwise_xor_(c3).bitwise_xor_(key1).bitwise_and_(_WORD)
        c1, p1 = p1, c1
        c3, p0 = p0, c3
    return [c0, c1.bitwise_and_(_WORD), c2, c3.bitwise_and_(_WORD)]


def _signed(seed: int) -> int:
    """The int64 with the low 64 bits of `seed`."""
    return (int(seed) + 2**63) % 2**64 - 2**63


def draw_category(probs: Tensor, uniform: Tensor) -> Tensor:
    """Samples categoricals of chances (B, K) by inverting them at `uniform` (B,) in [0, 1): int64 (B,)."""
    return (uniform[:, None] >= probs.cumsum(-1)[:, :-1]).sum(-1)


class RowRandom:
    """One stream of random numbers per row of a batch.

    An *event* of a row (a step, a restart) uses one value of its draw counter; within an event, numbers for
    different purposes come from different streams. Reading does not move the counter, `advance` does, for the
    rows it is given. The two tensors stay in place, so that a CUDA graph can replay what reads and moves them.

    Example:
        >>> rows = RowRandom(3, "cpu", seed=7)
        >>> alone = RowRandom(1, "cpu", seed=9)
        >>> bool((rows.normal((2, 2), NOISE)[2] == alone.normal((2, 2), NOISE)[0]).all())
        True

    Attributes:
        seed: (B,) int64, the row's key.
        draw: (B,) int64, how many events the row has had.
    """

    def __init__(
        self,
        batch: int,
        device: str | torch.device,
        seed: int | Sequence[int] = 0,
        source: Callable[[Tensor, Tensor, int, int], Tensor] | None = None,
    ) -> None:
        """Begins the rows' streams.

        Args:
            batch, device: How many rows, and where.
            seed: See `reseed`.
            source: What computes `words` of seeds and draws, int64 (B,), faster than torch's operators do; None: these.
        """
        self._source = source
        self.seed = torch.zeros(batch, dtype=torch.int64, device=device)
        self.draw = torch.zeros(batch, dtype=torch.int64, device=device)
        self.reseed(seed)

    def reseed(self, seed: int | Sequence[int | None], mask: Tensor | None = None) -> None:
        """Begins the rows' streams anew.

        Args:
            seed: Any integer s (row i gets s + i), or one per row, None for a row that goes on. Modulo 2^64.
            mask: (B,) bool, the rows to seed; None for all.
        """
        batch = len(self.seed)
        seeds = list(seed) if isinstance(seed, Sequence) else [int(seed) + i for i in range(batch)]
        if len(seeds) != batch:
            raise ValueError(f"{batch} rows need {batch} seeds, got {len(seeds)}.")
        fresh = torch.tensor([_signed(s or 0) for s in seeds], dtype=torch.int64).to(self.seed.device)
        if None in seeds:
            given = torch.tensor([s is not None for s in seeds]).to(self.seed.device)
            mask = given if mask is None else mask & given
        if mask is None:
            self.seed.copy_(fresh)
            self.draw.zero_()
        else:
            self.seed.copy_(torch.where(mask, fresh, self.seed))
            self.draw.masked_fill_(mask, 0)

    def advance(self, mask: Tensor | None = None) -> None:
        """Ends an event: of every row, or of the rows in `mask` (B,) bool."""
        self.draw.add_(1 if mask is None else mask.to(torch.int64))

    def words(self, blocks: int, stream: int, rows: slice = slice(None)) -> Tensor:
        """Random 32-bit words of some rows: int64 of shape (rows, 4 * blocks)."""
        if self._source is not None:
            return self._source(self.seed[rows], self.draw[rows], blocks, stream)
        seed, draw = self.seed[rows, None], self.draw[rows, None]
        block = torch.arange(blocks, device=seed.device)
        counter = (block, draw & _WORD, torch.full_like(draw, stream), (draw >> 32) & _WORD)
        key = (seed & _WORD, (seed >> 32) & _WORD)
        return torch.cat(philox(torch.broadcast_tensors(*counter), key), dim=1)

    def integers(self, high: int, stream: int) -> Tensor:
        """Uniform int64 in [0, high), `high` < 2^31: shape (B,). The bias is below high / 2^32."""
        return (self.words(1, stream)[:, 0] * high) >> 32

    def normal(self, shape: Sequence[int], stream: int) -> Tensor:
        """Standard normal float32 of shape (B, *shape), by the Box-Muller transform on pairs of words.

        Radii reach 6.7. Equal on every device up to the rounding of log, sin and cos.
        """
        return self.normal_and_uniform(shape, stream, 0)[0]

    def further(self, stream: int) -> Callable[[Sequence[int]], Tensor]:
        """A source of standard normal noise of shapes (B, ...), at each call from the next stream, beginning here."""
        streams = itertools.count(stream)
        return lambda shape: self.normal(shape[1:], next(streams))

    def normal_and_uniform(self, shape: Sequence[int], stream: int, count: int) -> tuple[Tensor, Tensor]:
        """`normal` and, at the price of that alone, up to four uniforms in [0, 1), multiples of 2^-24, (B, count)."""
        size, batch, device = math.prod(shape), len(self.seed), self.seed.device
        blocks = (size + 3) // 4
        step = batch if device.type != "cpu" else max(1, _CACHE_WORDS // blocks)
        normal = torch.empty(batch, 2, 2, blocks, dtype=torch.float32, device=device)
        spare = torch.empty(batch, 4, dtype=torch.int64, device=device)
        for i in range(0, batch, step):
            words = self.words(blocks + 1, stream, slice(i, i + step)).view(-1, 4, blocks + 1)
            spare[i : i + step] = words[:, :, blocks]
            radius = words[:, 0::2, :blocks].to(torch.float32).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
            angle = words[:, 1::2, :blocks].to(torch.float32).mul_(2.0**-31 * math.pi)
            torch.mul(radius, angle.cos(), out=normal[i : i + step, :, 0])
            torch.mul(radius, angle.sin_(), out=normal[i : i + step, :, 1])
        normal = normal.view(batch, 4 * blocks)[:, :size].reshape(batch, *shape)
        return normal, (spare[:, :count] >> 8).to(torch.float32) * 2.0**-24

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the two tensors: everything there is to remember."""
        return {"seed": self.seed.clone(), "draw": self.draw.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continues from a `state_dict` of the same batch size."""
        if state["seed"].shape != self.seed.shape or state["draw"].shape != self.draw.shape:
            raise ValueError(f"This random state has {len(state['seed'])} rows, the batch has {len(self.seed)}.")
        self.seed.copy_(state["seed"])
        self.draw.copy_(state["draw"])
