"""What the players of the starts did next, replayed in their dreams."""

import torch
from torch import Tensor

from diamond_gym.errors import BadArgument
from diamond_gym.starts import Starts


class Replay:
    """The recorded actions that follow each start.

    Which one is due follows from the start that a row dreams from and its steps since: there is nothing to remember.
    """

    def __init__(self, starts: Starts | None, device: torch.device) -> None:
        """Takes the recordings of the starts.

        Raises:
            BadArgument: They have none.
        """
        if starts is None or starts.next_act is None or starts.next_act.shape[1] == 0:
            raise BadArgument("replay=True needs starts that bring the actions of their players; this model's do not.")
        self._next_act = torch.from_numpy(starts.next_act).to(device)  # (N, K[, A])

    def __call__(self, act: Tensor, start: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the recorded actions in the place of others.

        Args:
            act: int64 (B,) or (B, A), taken where there is no recorded action (any more).
            start: int64 (B,), the starts of the rows; -1 for frames from elsewhere.
            steps: int64 (B,), the steps since.

        Returns:
            The actions, and a mask (B,) of the rows whose action is a recorded one.
        """
        last = self._next_act.shape[1] - 1
        recorded = self._next_act[start.clamp(min=0), steps.clamp(max=last)].to(act.dtype)  # (B[, A])
        rows = (start >= 0) & (steps <= last) & (recorded.view(len(start), -1)[:, 0] >= 0)
        return torch.where(rows.view(-1, *[1] * (act.ndim - 1)), recorded, act), rows
