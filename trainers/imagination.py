"""Imagination: windows of dreamed steps in which the agent acts and is trained.

Alonso et al. 2024 (arXiv 2405.12399), section on reinforcement learning in imagination.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diamond_gym.dream import Dream, DreamState, DreamStep, draw_category
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.networks.reward_end import LstmState


@dataclass(frozen=True)
class Window:
    """L steps of B dreams, one after the other; where one ends, another begins with the next step.

    Attributes:
        logits_act: The policy before each step, float32 (B, L, A), with its gradient.
        act: The actions drawn from it, int64 (B, L).
        val: The value of the frame before each step, float32 (B, L), with its gradient.
        rew: float32 (B, L).
        end: bool (B, L).
        trunc: bool (B, L).
        val_bootstrap: The value of the frame that each step really led to, float32 (B, L), without gradient: never
            of the start with which the next dream begins.
    """

    logits_act: Tensor
    act: Tensor
    val: Tensor
    rew: Tensor
    end: Tensor
    trunc: Tensor
    val_bootstrap: Tensor


class Imagination:
    """Dreams that go on from window to window, and what the agent remembers of them.

    The agent's memory (its LSTM state) passes from one window to the next without gradient. Where a dream ends,
    the last frame is valued with the memory that led to it; then the memory is zeroed and burnt in on the new
    start's earlier frames, T - 1 of them.

    Everything stays on the device; the host waits once a step, to learn which dreams have ended.

    Args:
        agent: Acts; its weights may change between windows.
        dream: Where it acts. Begun anew, unless it has begun already.
        seed: Of the dreams and the actions.
    """

    def __init__(self, agent: ActorCritic, dream: Dream, seed: int = 0) -> None:
        self.agent, self.dream = agent, dream
        self._chance = torch.Generator(dream.device).manual_seed(seed)
        if dream.obs_window is None:
            dream.reset(seed)
        self._obs = dream.obs
        self._memory = self._burn_in(self._frames)

    def window(self, length: int) -> Window:
        """Acts for `length` steps, L."""
        memory = self._memory[0].detach(), self._memory[1].detach()
        logits_of, acts, vals = list[Tensor](), list[Tensor](), list[Tensor]()
        steps, finals = list[DreamStep](), list[tuple[Tensor, Tensor]]()
        for _ in range(length):
            logits, val, memory = self.agent(self._obs, memory)
            act = draw_category(logits.detach().float().softmax(-1), self._uniform())
            step = self.dream.step(act)
            val_final, memory = self._finish(step, memory)
            finals.append((step.end | step.trunc, val_final))
            self._obs = step.obs
            for values, value in ((logits_of, logits), (acts, act), (vals, val)):
                values.append(value)
            steps.append(step)
        self._memory = memory
        with torch.no_grad():
            _, val_after, _ = self.agent(self._obs, memory)
        following = [*(val.detach() for val in vals[1:]), val_after]
        bootstrap = [torch.where(over, final, val) for (over, final), val in zip(finals, following, strict=True)]
        return Window(
            torch.stack(logits_of, dim=1),
            torch.stack(acts, dim=1),
            torch.stack(vals, dim=1),
            torch.stack([step.rew for step in steps], dim=1),
            torch.stack([step.end for step in steps], dim=1),
            torch.stack([step.trunc for step in steps], dim=1),
            torch.stack(bootstrap, dim=1),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the next window depends on, but for the agent, as plain data."""
        return {
            "memory": [part.detach().clone() for part in self._memory],
            "chance": self._chance.get_state(),
            "dream": dict(vars(self.dream.clone_state(include_rng=True))),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state, in dreams of the same model and as many of them.

        Raises:
            ValueError: The state is of other dreams.
        """
        self.dream.restore_state(DreamState(**state["dream"]))
        self._obs = self.dream.obs
        hx, cx = (part.to(self.dream.device, copy=True) for part in state["memory"])
        self._memory = hx, cx
        self._chance.set_state(state["chance"].cpu())

    @property
    def _frames(self) -> Tensor:
        """The last T frames of every dream, (B, T, C, H, W)."""
        assert self.dream.obs_window is not None
        return self.dream.obs_window

    def _uniform(self) -> Tensor:
        return torch.rand(self.dream.num_envs, generator=self._chance, dtype=torch.float32, device=self.dream.device)

    @torch.no_grad()
    def _burn_in(self, frames: Tensor) -> LstmState:
        """A fresh memory of all but the last of frames (B, T, C, H, W): the agent is about to see that one."""
        memory = self.agent.initial_state(len(frames), frames.device)
        for earlier in frames[:, :-1].unbind(1):
            _, _, memory = self.agent(earlier, memory)
        return memory

    def _finish(self, step: DreamStep, memory: LstmState) -> tuple[Tensor, LstmState]:
        """Values (B,) of the last frames of dreams that the step ended, and a fresh memory in their rows."""
        rows = (step.end | step.trunc).nonzero().squeeze(1)
        val_final = torch.zeros_like(step.rew)
        if not len(rows):
            return val_final, memory
        hx, cx = memory
        with torch.no_grad():
            _, val_final[rows], _ = self.agent(step.final_obs[rows], (hx[rows], cx[rows]))
        fresh = self._burn_in(self._frames[rows])
        return val_final, (hx.index_copy(0, rows, fresh[0]), cx.index_copy(0, rows, fresh[1]))
