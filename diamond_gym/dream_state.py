"""What a dream is made of: networks that predict a step, what the step leaves behind, the state that it changes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.folding import without_autocast
from diamond_gym.networks.inference import prepared
from diamond_gym.networks.reward_end import LstmState, RewardEnd
from diamond_gym.networks.ways import KERNELS
from diamond_gym.randomness import EXTRA_NOISE, NOISE, RowRandom, draw_category
from diamond_gym.sampler import SamplerConfig, objective_of, sample

if TYPE_CHECKING:
    from diamond_gym.cuda_graphs import OutsideRandom


@contextmanager
def without_gradient() -> Iterator[None]:
    """No gradient, and tensors that outlive `torch.inference_mode`, under which a caller may have begun the dream."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass(frozen=True)
class Copied:
    """A record of tensors and plain data that can be copied to a device."""

    def copied(self, device: str | torch.device) -> Self:
        """A copy on a device, in memory of its own."""

        def copy(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: copy(part) for name, part in value.items()}
            if isinstance(value, tuple | list):
                return type(value)(map(copy, value))
            return value.to(device, copy=True) if isinstance(value, Tensor) else value

        return type(self)(**copy(vars(self)))


@dataclass(frozen=True)
class DreamStep(Copied):
    """What a step leaves behind, all on the dream's device.

    Attributes:
        obs: The current frame of every row, float32 (B, C, H, W) in [-1, 1]; of a row that restarted, its
            start's.
        rew: Sampled rewards, float32 (B,) in {-1, 0, 1}.
        end: bool (B,), the model ended the game.
        trunc: bool (B,), the horizon was reached.
        rew_prob: Chances of the rewards -1, 0 and 1 that `rew` was sampled from, float32 (B, 3).
        end_prob: The chance of `end`, float32 (B,).
        final_obs: The frame the step led to, float32 (B, C, H, W): differs from `obs` in the rows that
            restarted, and may be the same tensor where there are none.
        start: int64 (B,), index of the start each row now dreams from; -1 for frames given to `reset`.
        final_start: int64 (B,), the same before any restart.
        trajectory: The sampler's images from noise to `final_obs`, num_denoising_steps + 1 of (B, C, H, W).
    """

    obs: Tensor
    rew: Tensor
    end: Tensor
    trunc: Tensor
    rew_prob: Tensor
    end_prob: Tensor
    final_obs: Tensor
    start: Tensor
    final_start: Tensor
    trajectory: list[Tensor]


@dataclass(frozen=True)
class Outcome:
    """What the networks make of a step: next frame, trajectory, chances, what was sampled of them, LSTM state.

    Of two stages `full` is the large frame (B, C, H, W), and the trajectory is that of the second one.
    """

    next_obs: Tensor
    trajectory: list[Tensor]
    rew_prob: Tensor
    end_prob: Tensor
    rew: Tensor
    end: Tensor
    memory: LstmState | None
    full: Tensor | None = None


class Predictor:
    """A world model's networks prepared for dreams: they predict the next frame, and from it reward and end.

    Attributes:
        frames: The denoiser, folded if it can be.
        outcome: The reward and end model, folded; without one rewards are 0 and nothing ends.
        dtype: The arithmetic of both.
        objective: What the denoiser learnt.
    """

    def __init__(self, denoiser: Denoiser, reward_end: RewardEnd | None, dtype: torch.dtype) -> None:
        self.frames, self.outcome = prepared(denoiser, dtype), prepared(reward_end, dtype)
        self.dtype, self.objective = dtype, objective_of(denoiser)

    def refresh(self) -> None:
        """Takes the networks' weights as they are now."""
        for part in (self.frames, self.outcome):
            if hasattr(part, "refresh"):
                part.refresh()

    def words(self) -> Callable[[Tensor, Tensor, int, int], Tensor] | None:
        """The kernels' source of random words for `RowRandom`, where they may compute the frames; else None."""
        if KERNELS not in getattr(self.frames, "forms", ()):
            return None
        from diamond_gym.networks.kernels import random_words

        return random_words()

    def autocast(self, device_type: str) -> AbstractContextManager[object]:
        """For networks that are not folded; those that are see to their precision themselves."""
        half = self.dtype != torch.float32
        return torch.autocast(device_type, self.dtype) if half else without_autocast(device_type)

    def __call__(
        self,
        obs: Tensor,
        act: Tensor,
        memory: LstmState | None,
        sampler: SamplerConfig,
        rng: "RowRandom | OutsideRandom",
    ) -> Outcome:
        """Predicts a step from the last frames (B, T, C, H, W), the actions (B, T[, A]) and the LSTM state before."""
        noise, uniform = rng.normal_and_uniform(obs.shape[2:], NOISE, 2)
        extra = rng.further(EXTRA_NOISE)
        with self.autocast(obs.device.type):
            next_obs, trajectory = sample(self.frames.condition, obs, act, noise, sampler, extra, self.objective)
            if self.outcome is None:
                nothing = torch.zeros(len(obs), dtype=torch.float32, device=obs.device)
                rew_prob = torch.stack((nothing, nothing + 1, nothing), dim=1)
                return Outcome(next_obs, trajectory, rew_prob, nothing, nothing, nothing.bool(), None)
            logits_rew, logits_end, (hx, cx) = self.outcome(obs[:, -1:], act[:, -1:], next_obs[:, None], memory)
        rew_prob, end_prob = logits_rew[:, 0].float().softmax(-1), logits_end[:, 0].float().softmax(-1)
        rew = (draw_category(rew_prob, uniform[:, 0]) - 1).to(torch.float32)
        end = draw_category(end_prob, uniform[:, 1]).bool()
        return Outcome(next_obs, trajectory, rew_prob, end_prob[:, 1], rew, end, (hx.float(), cx.float()))

    def burn_in(self, obs: Tensor, act: Tensor) -> LstmState:
        """LSTM state of `outcome` after the T - 1 transitions of obs (B, T, C, H, W) and act (B, T[, A])."""
        with self.autocast(obs.device.type):
            if obs.shape[1] > 1:
                _, _, (hx, cx) = self.outcome(obs[:, :-1], act[:, :-1], obs[:, 1:])
            else:  # nothing to burn in: only the shape of a zero state is wanted
                _, _, (hx, cx) = self.outcome(obs, act, obs)
                hx, cx = torch.zeros_like(hx), torch.zeros_like(cx)
        return hx.float(), cx.float()


@dataclass(frozen=True)
class DreamState(Copied):
    """A dream at one moment, copied; can be pickled (its tensors then travel by way of the CPU)."""

    fingerprint: dict[str, Any]
    obs: Tensor
    act: Tensor
    memory: LstmState | None
    steps: Tensor
    start: Tensor
    rng: dict[str, Tensor] | None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self.copied("cpu"))


def check_state(state: object, like: DreamState, num_starts: int, actions: tuple[int, int | None]) -> None:
    """Checks a state before a dream goes back to it.

    Args:
        state: What it is about.
        like: A state of the dream.
        num_starts: The starts there are.
        actions: The smallest and the largest number in an action, this if it is known.

    Raises:
        ValueError: What is wrong with it.
    """
    if not isinstance(state, DreamState) or not isinstance(state.fingerprint, dict):
        raise ValueError(f"restore_state needs what clone_state returned, got {type(state).__name__}.")
    for name, mine in like.fingerprint.items():
        theirs = state.fingerprint.get(name)
        if type(theirs) is not type(mine) or theirs != mine:
            raise ValueError(f"this state is of another dream: its {name} is {theirs!r}, here it is {mine!r}.")
    _check("frames", state.obs, like.obs)
    _check("actions", state.act, like.act, *actions)
    _check("steps", state.steps, like.steps, 0)
    _check("start", state.start, like.start, -1, num_starts - 1)
    if type(state) is not type(like) or (state.memory is None) != (like.memory is None):
        raise ValueError("this state is damaged: it is of a dream with other networks.")
    if state.memory is not None and like.memory is not None:
        if not isinstance(state.memory, tuple) or len(state.memory) != 2:
            raise ValueError("this state is damaged: its memory is no pair of tensors.")
        for part, one in zip(state.memory, like.memory, strict=True):
            _check("memory", part, one)
    if state.rng is not None:
        if not isinstance(state.rng, dict) or state.rng.keys() != {"seed", "draw"}:
            raise ValueError("this state is damaged: its random streams have no seed and draw.")
        _check("seed", state.rng["seed"], like.steps)
        _check("draw", state.rng["draw"], like.steps, 0)
    if hasattr(like, "full"):
        _check("full-size frames", getattr(state, "full", None), like.full)


def _check(name: str, tensor: object, like: Tensor, low: int | None = None, high: int | None = None) -> None:
    """Checks that a tensor has the dtype and shape of another, and finite values from `low` to `high`."""
    if not isinstance(tensor, Tensor) or (tensor.dtype, tensor.shape) != (like.dtype, like.shape):
        what = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"this state is damaged: its {name} is {what}, not {like.dtype} {tuple(like.shape)}.")
    outside = (low is not None and bool((tensor < low).any())) or (high is not None and bool((tensor > high).any()))
    if outside or not bool(tensor.isfinite().all()):
        raise ValueError(f"this state is damaged: its {name} holds numbers that cannot be.")


def put(state: Tensor | None, new: Tensor, rows: Tensor | None = None) -> Tensor:
    """Writes into the rows (B, ...) of a tensor of state, or into all of it, in place; a first one is made."""
    if state is None:
        return new.clone()
    if rows is not None:
        new = torch.where(rows.view(*rows.shape, *[1] * (state.ndim - rows.ndim)), new, state)
    return state.copy_(new)
