"""Imagination: windows of dreamed steps in which the agent acts and is trained, and the registered models it dreams in.

Alonso et al. 2024 (arXiv 2405.12399), section on reinforcement learning in imagination.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diamond_gym.dream import Dream
from diamond_gym.dream_state import DreamStep
from diamond_gym.envs.checks import choose_sampler
from diamond_gym.errors import BadArgument
from diamond_gym.networks.actor_critic import ActorCritic
from diamond_gym.networks.reward_end import LstmState
from diamond_gym.randomness import draw_category
from diamond_gym.registry import Entry, load_world_model
from diamond_gym.sampler import SamplerConfig
from diamond_gym.schema import SamplerFields
from diamond_gym.trainers.start_states import recorded_starts
from diamond_gym.trainers.worlds import check_rewarded
from diamond_gym.two_stage import TwoStageSampler
from diamond_gym.world_model import WorldModel


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
        real: bool (B, L), whether the step was dreamed; None where all were. The others have no reward and no end.
    """

    logits_act: Tensor
    act: Tensor
    val: Tensor
    rew: Tensor
    end: Tensor
    trunc: Tensor
    val_bootstrap: Tensor
    real: Tensor | None = None

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values (B, L) over the steps that were dreamed."""
        return values.mean() if self.real is None else (values * self.real).sum() / self.real.sum()


class Imagination:
    """Dreams that go on from window to window, and what the agent remembers of them.

    The agent's memory (its LSTM state) passes from one window to the next without gradient. Where a dream ends,
    the last frame is valued with the memory that led to it; then the memory is zeroed and burnt in on the new
    start's earlier frames, T - 1 of them.

    The agent sees what an environment of the dream shows, so that it plays as well there: of two stages, the large
    frames. A start keeps T' of these, one in most models: with one, there is no earlier frame to burn in, and a memory
    begins at zero, as it does in the real game.

    Everything stays on the device, and what passes to the next window stays in the same tensors. The host waits once a
    step to learn which dreams have ended; not so with random numbers from outside, as a CUDA graph needs it: then a
    dream that ends stands still until the window is over (`Window.real`), as to begin it anew within the window would
    take a burn-in of every row at each step.

    Args:
        agent: Acts; its weights may change between windows.
        dream: Where it acts. Begun anew, unless it has begun already.
        seed: Of the dreams and the actions.
        uniform: Gives numbers in [0, 1), float32 of a shape, for the actions; its own from the seed if None.
    """

    def __init__(
        self,
        agent: ActorCritic,
        dream: Dream,
        seed: int = 0,
        uniform: Callable[[tuple[int, ...]], Tensor] | None = None,
    ) -> None:
        self.agent, self.dream, self._waits = agent, dream, uniform is None
        self._chance = torch.Generator(dream.device).manual_seed(seed)
        own = partial(torch.rand, generator=self._chance, dtype=torch.float32, device=dream.device)
        self._uniform = uniform or own
        if dream.obs_window is None:
            dream.reset(seed)
        self._memory = self._burn_in(dream.shown_window)

    def begin(self) -> None:
        """Begins all dreams anew, in the world model as it is by now."""
        self.dream.refresh()
        self.dream.reset()
        self._remember(self._burn_in(self.dream.shown_window))

    def window(self, length: int) -> Window:
        """Acts for `length` steps, L."""
        return self._window(length) if self._waits else self._window_that_waits_for_nothing(length)

    def _window(self, length: int) -> Window:
        obs, (hx, cx) = self.dream.obs, self._memory
        memory = hx.clone(), cx.clone()
        logits_of, acts, vals = list[Tensor](), list[Tensor](), list[Tensor]()
        steps, finals = list[DreamStep](), list[tuple[Tensor, Tensor]]()
        for _ in range(length):
            logits, val, memory = self.agent(obs, memory)
            act = draw_category(logits.detach().float().softmax(-1), self._uniform((len(obs),)))
            step = self.dream.step(act)
            over = step.end | step.trunc
            val_final, memory = self._finish(over, step.final_obs, memory)
            finals.append((over, val_final))
            obs = step.obs
            for values, value in ((logits_of, logits), (acts, act), (vals, val)):
                values.append(value)
            steps.append(step)
        self._remember(memory)
        with torch.no_grad():
            _, val_after, _ = self.agent(obs, memory)
        following = [*(val.detach() for val in vals[1:]), val_after]
        bootstrap = [torch.where(over, final, val) for (over, final), val in zip(finals, following, strict=True)]
        outcomes = ([getattr(step, name) for step in steps] for name in ("rew", "end", "trunc"))
        return Window(*(torch.stack(part, dim=1) for part in (logits_of, acts, vals, *outcomes, bootstrap)))

    def _window_that_waits_for_nothing(self, length: int) -> Window:
        before = [part.clone() for part in self._memory]
        seen, parts = list[Tensor](), list[tuple[Tensor, ...]]()
        with torch.no_grad():
            obs, memory = self.dream.obs, (before[0], before[1])
            going_on = torch.ones(len(obs), dtype=torch.bool, device=obs.device)
            for _ in range(length):
                seen.append(obs)
                logits, _, memory = self.agent(obs, memory)
                act = draw_category(logits.float().softmax(-1), self._uniform((len(obs),)))
                step = self.dream.step(act, restart=False, mask=going_on)
                parts.append((act, step.rew, step.end, step.trunc, going_on))
                obs, going_on = step.final_obs, going_on & ~(step.end | step.trunc)
            _, val_after, _ = self.agent(obs, memory)
            self.dream.reset(mask=~going_on)
            fresh = self._burn_in(self.dream.shown_window)
            self._remember(torch.where(going_on[:, None], old, new) for old, new in zip(memory, fresh, strict=True))
        act, rew, end, trunc, real = (torch.stack(part, dim=1) for part in zip(*parts, strict=True))
        # With gradient all frames go through the encoder at once, a tenth of the kernels of one step after the other.
        logits, val, _ = self.agent.sequence(torch.stack(seen, dim=1), (before[0], before[1]))
        # The frame after a dream's last step is what the agent goes on seeing.
        bootstrap = torch.cat((val.detach()[:, 1:], val_after[:, None]), dim=1)
        return Window(logits, act, val, rew, end, trunc, bootstrap, real)

    def state_dict(self) -> dict[str, Any]:
        """All that the next window depends on, but for the agent, as plain data."""
        return {
            "memory": [part.clone() for part in self._memory],
            "chance": self._chance.get_state(),
            "dream": dict(vars(self.dream.clone_state(include_rng=True))),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state, in dreams of the same model and as many of them.

        Raises:
            ValueError: The state is of other dreams.
        """
        try:
            dream = self.dream.state_type(**state["dream"])
        except TypeError:
            raise ValueError("this state is of dreams of another number of stages.") from None
        self.dream.restore_state(dream)
        self._remember(state["memory"])
        self._chance.set_state(state["chance"].cpu())

    @torch.no_grad()
    def _remember(self, memory: Iterable[Tensor]) -> None:
        """Keeps a memory for the next window."""
        for mine, new in zip(self._memory, memory, strict=True):
            mine.copy_(new)

    @torch.no_grad()
    def _burn_in(self, frames: Tensor) -> LstmState:
        """A fresh memory of all but the last of frames (B, T, C, H, W): the agent is about to see that one."""
        memory = self.agent.initial_state(len(frames), frames.device)
        for earlier in frames[:, :-1].unbind(1):
            _, _, memory = self.agent(earlier, memory)
        return memory

    def _finish(self, over: Tensor, final_obs: Tensor, memory: LstmState) -> tuple[Tensor, LstmState]:
        """Values (B,) of the last frames of dreams that are over (B,), and a fresh memory in their rows."""
        val_final = torch.zeros(len(over), dtype=torch.float32, device=over.device)
        rows = over.nonzero().squeeze(1)
        if not len(rows):
            return val_final, memory
        hx, cx = memory
        with torch.no_grad():
            _, val, _ = self.agent(final_obs[rows], (hx[rows], cx[rows]))
        fresh = self._burn_in(self.dream.shown_window[rows])
        hx, cx = (old.index_copy(0, rows, new) for old, new in zip(memory, fresh, strict=True))
        return val_final.index_copy(0, rows, val), (hx, cx)


def world_to_dream_in(
    entry: Entry,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    compile: bool = False,
    quality: str | None = None,
    sampler: SamplerFields | None = None,
    data: str | None = None,
) -> tuple[WorldModel, SamplerConfig | TwoStageSampler]:
    """Loads a registered model without the agent it may have, so that its fingerprint is that of the dreams alone.

    On a CPU it dreams by the kernels where these are faster, also if it is not to be compiled.

    Args:
        entry: The model.
        device: Where to dream.
        precision: "float32" or "bfloat16".
        compile, quality: See `diamond_gym.envs.DreamVectorEnv`.
        sampler: Fields in the place of the quality's.
        data: The folder of recordings to begin from, instead of the model's own starts.

    Returns:
        The model, and how its dreams are sampled.

    Raises:
        BadArgument: Nothing is rewarded in the model's dreams, or they have no starts; it has no such quality; or
            compiling was asked for and cannot work; or the recordings have other frames or actions.
    """
    check_rewarded(entry)
    model = load_world_model(entry, str(device), "float32").to_device(str(device), precision)
    chosen = choose_sampler(model, quality, sampler or {})
    if data is not None:
        model.starts = recorded_starts(model, data)
    if model.starts is None:
        raise BadArgument(f"an agent cannot learn in {entry.name}: it has no starts for its dreams")
    model.requires_grad_(False)
    if compile:
        model.compile_networks()
    else:
        model.use_kernels()
    dreams = WorldModel(
        model.denoiser, model.reward_end, None, model.upsampler, starts=model.starts, precision=model.precision
    )
    return dreams, chosen
