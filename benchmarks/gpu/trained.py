"""A network in training whose updates a CUDA graph can record."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from diamond_gym.trainers.optim import parameter_groups


class Trained:
    """A network with its optimizer, its average, and one update in place."""

    def __init__(self, module: nn.Module, lr: float, weight_decay: float, max_norm: float, ema: float) -> None:
        self.module, self._max_norm, self._ema = module, max_norm, ema
        parameters = next(module.parameters())
        on_gpu = parameters.is_cuda
        self.lr = torch.tensor(lr, device=parameters.device)
        self.base_lr = lr
        groups = parameter_groups(module, weight_decay)
        rate: Any = self.lr if on_gpu else lr
        self.optimizer = torch.optim.AdamW(groups, lr=rate, eps=1e-8, fused=on_gpu or None, capturable=on_gpu)
        self.average = copy.deepcopy(module).requires_grad_(False) if ema else module
        self.parameters = list(module.parameters())
        self._averaged = list(self.average.parameters())

    def set_lr(self, factor: float) -> None:
        """Scales the learning rate."""
        self.lr.fill_(self.base_lr * factor)
        if not self.lr.is_cuda:
            for group in self.optimizer.param_groups:
                group["lr"] = self.base_lr * factor

    def forget(self) -> None:
        """Zeroes what the optimizer remembers, in place."""
        for state in self.optimizer.state.values():
            for tensor in state.values():
                if isinstance(tensor, Tensor):
                    tensor.zero_()

    def update(self, loss: Tensor) -> None:
        """One step of the optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self._max_norm)
        self.optimizer.step()
        if self._ema:
            torch._foreach_lerp_(self._averaged, self.parameters, 1 - self._ema)
