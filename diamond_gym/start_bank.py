"""Starts on the device, and what the reward/end model remembers of each of them."""

import numpy as np
import torch
from torch import Tensor

from diamond_gym.networks.inference import FoldedRewardEnd
from diamond_gym.networks.reward_end import LstmState, RewardEnd
from diamond_gym.starts import Starts

_CPU_BLOCK, _DEVICE_BLOCK = 1, 32
_EAGER_UP_TO = 1024


def to_frames(pixels: Tensor) -> Tensor:
    """uint8 (..., H, W, C) -> float32 (..., C, H, W) in [-1, 1]."""
    return pixels.movedim(-1, -3).to(torch.float32).div_(255).mul_(2).sub_(1)


def to_pixels(frames: Tensor) -> Tensor:
    """float32 (..., C, H, W) in [-1, 1] -> contiguous uint8 (..., H, W, C), to the nearest level."""
    return frames.clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8).movedim(-3, -1).contiguous()


class StartBank:
    """The starts a dream may draw, as uint8 on the device, with the LSTM state each of them leaves behind.

    Burning in the LSTM at a restart would cost T - 1 calls of the reward/end model, for every row if the host
    is not to ask which rows restart. So each start's state is computed once and kept. Starts are burnt in in
    fixed blocks, which makes the state a function of the start alone, and not of who else restarts at the
    moment: one at a time when first needed on a CPU, all at once beforehand on other devices (up to 1024
        starts).

    The bank belongs to the weights it was built with: build a new one after training the reward/end model
    further.
    """

    def __init__(
        self,
        starts: Starts,
        choice: str | int,
        reward_end: RewardEnd | FoldedRewardEnd | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.pool = torch.from_numpy(starts.pool(choice)).to(device)
        self.obs = torch.from_numpy(np.ascontiguousarray(starts.obs)).to(device)  # (N, T, H, W, C)
        act = torch.from_numpy(np.ascontiguousarray(starts.act))
        slot = torch.zeros_like(act[:, :1]) if act.shape[1] else act.new_zeros(len(act), 1, *act.shape[2:])
        self.act = torch.cat((act, slot), dim=1).to(device)  # (N, T[, A]), the last slot waits for an action
        self._reward_end, self._dtype = reward_end, dtype
        self._block = _CPU_BLOCK if device.type == "cpu" else _DEVICE_BLOCK
        self._hx: Tensor | None = None  # (N, D), filled block by block
        self._cx: Tensor | None = None
        self._unknown = set(range(-(-len(starts) // self._block))) if reward_end is not None else set()
        self.eager = device.type != "cpu" and len(starts) <= _EAGER_UP_TO

    @property
    def incomplete(self) -> bool:
        """Whether some start has not been burnt in yet."""
        return bool(self._unknown)

    def prepare(self, index: Tensor | None = None) -> None:
        """Burns in the starts of `index` (K,), or all of them; the host waits unless all are known."""
        if index is None:
            blocks = set(self._unknown)
        else:
            blocks = self._unknown.intersection(index.div(self._block, rounding_mode="floor").tolist())
        for block in sorted(blocks):
            first = block * self._block
            rows = torch.arange(first, first + self._block, device=self.obs.device).clamp_(max=len(self.obs) - 1)
            memory = self.burn_in(to_frames(self.obs[rows]), self.act[rows])
            assert memory is not None
            hx, cx = memory
            if self._hx is None or self._cx is None:
                self._hx, self._cx = (hx.new_zeros(len(self.obs), hx.shape[2]) for _ in range(2))
            self._hx[rows], self._cx[rows] = hx[0], cx[0]
            self._unknown.discard(block)

    def burn_in(self, obs: Tensor, act: Tensor) -> LstmState | None:
        """LSTM state after the T - 1 transitions of obs (B, T, C, H, W) and act (B, T); None without one."""
        if self._reward_end is None:
            return None
        with torch.autocast(obs.device.type, self._dtype, enabled=self._dtype != torch.float32):
            if obs.shape[1] > 1:
                _, _, (hx, cx) = self._reward_end(obs[:, :-1], act[:, :-1], obs[:, 1:])
            else:  # nothing to burn in: only the shape of a zero state is wanted
                _, _, (hx, cx) = self._reward_end(obs, act, obs)
                hx, cx = torch.zeros_like(hx), torch.zeros_like(cx)
        return hx.float(), cx.float()

    def window(self, index: Tensor) -> tuple[Tensor, Tensor, LstmState | None]:
        """Frames (B, T, C, H, W), actions (B, T) and LSTM state ((1, B, D) twice) of starts `index` (B,)."""
        memory = None
        if self._hx is not None and self._cx is not None:
            memory = (self._hx[index][None], self._cx[index][None])
        return to_frames(self.obs[index]), self.act[index], memory

    def given(self, obs: Tensor, act: Tensor, batch: int) -> tuple[Tensor, Tensor, LstmState | None]:
        """The same of frames and actions from outside, for `batch` rows.

        Args:
            obs: Frames, uint8 (T, H, W, C) for all rows, or (B, T, H, W, C).
            act: The actions between them, (T - 1[, A]) or (B, T - 1[, A]).
            batch: B.

        Raises:
            ValueError: They have the wrong shape or dtype.
        """
        frames, actions = tuple(self.obs.shape[1:]), (self.obs.shape[1] - 1, *self.act.shape[2:])
        if obs.dtype != torch.uint8 or tuple(obs.shape) not in (frames, (batch, *frames)):
            raise ValueError(
                f"obs must be uint8 frames of shape {frames} or {(batch, *frames)}, "
                f"got {str(obs.dtype).removeprefix('torch.')} of shape {tuple(obs.shape)}."
            )
        actions = (*obs.shape[:-4], *actions)
        if tuple(act.shape) != actions or act.is_floating_point() != self.act.is_floating_point():
            wanted, got = (str(a.dtype).removeprefix("torch.") for a in (self.act, act))
            raise ValueError(
                f"act must be the {wanted} actions between the frames, of shape {actions}, "
                f"got {got} of shape {tuple(act.shape)}."
            )
        window = to_frames(obs.to(self.obs.device)).view(-1, *to_frames(self.obs[:1]).shape[1:])
        act = act.to(self.act.device, self.act.dtype).view(len(window), *actions[obs.ndim - 4 :])
        act = torch.cat((act, self.act.new_zeros(len(act), 1, *act.shape[2:])), dim=1)
        parts = [self.burn_in(*part) for part in zip(window.split(self._block), act.split(self._block), strict=True)]
        known = [part for part in parts if part is not None]
        memory = None
        if known:
            hx, cx = (torch.cat([part[k] for part in known], dim=1) for k in range(2))
            memory = hx.expand(-1, batch, -1), cx.expand(-1, batch, -1)
        return window.expand(batch, *window.shape[1:]), act.expand(batch, *act.shape[1:]), memory
