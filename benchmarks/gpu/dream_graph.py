"""A whole dream step, random numbers and restarts included, as one CUDA graph."""

import torch
from torch import Tensor

from benchmarks.gpu.graph import Graph
from diamond_gym.dream import Dream, DreamStep


class DreamGraph:
    """Steps a dream by replaying one graph, bit for bit what `Dream.step` gives.

    The dream's state is kept in tensors that stay in place, and so is the result of a step, which the next one
    overwrites.

    Args:
        dream: Already begun, with all starts burnt in.
    """

    def __init__(self, dream: Dream) -> None:
        assert dream.obs_window is not None
        self._dream = dream
        self._act = torch.zeros(dream.num_envs, dtype=torch.int64, device=dream.device)
        self._state = [tensor.clone() for tensor in self._read()]
        before = [tensor.clone() for tensor in self._state]
        stream = torch.cuda.Stream(dream.device) if dream.device.type == "cuda" else None
        self._stream, self._graph = stream, Graph(self._step, stream)
        for tensor, value in zip(self._state, before, strict=True):  # recording it took steps
            tensor.copy_(value)
        torch.cuda.synchronize() if stream is not None else None

    def _read(self) -> list[Tensor]:
        dream = self._dream
        memory = [] if dream._memory is None else list(dream._memory)
        return [dream.obs_window, dream.act_window, dream.steps, dream.start, dream._rng.draw, dream._rng.seed, *memory]

    def _write(self, state: list[Tensor]) -> None:
        dream = self._dream
        dream.obs_window, dream.act_window, dream.steps, dream.start, dream._rng.draw, dream._rng.seed = state[:6]
        dream._memory = (state[6], state[7]) if state[6:] else None

    def _step(self) -> DreamStep:
        self._write(self._state)
        step = self._dream.step(self._act)
        for tensor, value in zip(self._state, self._read(), strict=True):
            tensor.copy_(value)
        self._write(self._state)
        return step

    def step(self, act: Tensor) -> DreamStep:
        """As `Dream.step`; on the current stream, without waiting."""
        if self._stream is None:
            self._act.copy_(act)
            return self._graph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._act.copy_(act)
            step = self._graph()
        torch.cuda.current_stream().wait_stream(self._stream)
        return step
