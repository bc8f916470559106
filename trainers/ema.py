"""An exponential moving average of a network's weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """Averages w <- decay * w + (1 - decay) * new, with a shorter memory in the first steps.

    Args:
        module: The network that is trained; its floating-point state is averaged.
        decay: Long-run decay per update, in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the module's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        state = module.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [state[k] for k in self.average], 1 - decay)

    def state_dict(self) -> dict[str, object]:
        """The average and its age."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restores what state_dict gave."""
        average: Mapping[str, Tensor] = state["average"]  # type: ignore[assignment]
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        for key, value in self.average.items():
            value.copy_(average[key])
