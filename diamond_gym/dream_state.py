"""What a dream gives out: the outcome of a step, and itself at one moment."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diamond_gym.reward_end import LstmState


@dataclass(frozen=True)
class DreamStep:
    """What a step leaves behind, all on the dream's device.

    Attributes:
        obs: The current frame of every row, float32 (B, C, H, W) in [-1, 1]; of a row that restarted, its
            start's.
        rew: Sampled rewards, float32 (B,) in {-1, 0, 1}.
        end: bool (B,), the model ended the game.
        trunc: bool (B,), the horizon was reached.
        final_obs: The frame the step led to, float32 (B, C, H, W): differs from `obs` in the rows that
            restarted.
        start: int64 (B,), index of the start each row now dreams from; -1 for frames given to `reset`.
        final_start: int64 (B,), the same before any restart.
        trajectory: The sampler's images from noise to `final_obs`, num_denoising_steps + 1 of (B, C, H, W).
    """

    obs: Tensor
    rew: Tensor
    end: Tensor
    trunc: Tensor
    final_obs: Tensor
    start: Tensor
    final_start: Tensor
    trajectory: list[Tensor]


@dataclass(frozen=True)
class DreamState:
    """A dream at one moment, copied; can be pickled (its tensors then travel by way of the CPU)."""

    fingerprint: dict[str, Any]
    obs: Tensor
    act: Tensor
    memory: LstmState | None
    steps: Tensor
    start: Tensor
    rng: dict[str, Tensor] | None

    def __getstate__(self) -> dict[str, Any]:
        memory = None if self.memory is None else tuple(m.cpu() for m in self.memory)
        rng = None if self.rng is None else {k: v.cpu() for k, v in self.rng.items()}
        moved = {k: getattr(self, k).cpu() for k in ("obs", "act", "steps", "start")}
        return {"fingerprint": self.fingerprint, "memory": memory, "rng": rng, **moved}
