"""The dream on tensors: a batch of rows, each a game that only the world model plays (arXiv 2405.12399)."""

import copy
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from diamond_gym.device import PRECISIONS, pick_precision
from diamond_gym.dream_state import DreamState, DreamStep, Outcome, Predictor, check_state, put, without_gradient
from diamond_gym.networks.denoiser import Denoiser
from diamond_gym.networks.reward_end import LstmState, RewardEnd
from diamond_gym.randomness import START, RowRandom
from diamond_gym.sampler import SamplerConfig, check_sampler
from diamond_gym.starts import StartBank, Starts

if TYPE_CHECKING:
    from diamond_gym.cuda_graphs import Graph, OutsideRandom


class Dream:
    """A batch of dreams, tensors in and tensors out.

    One step writes the action into the last slot of the window, samples the next frame, samples reward and end, and
    restarts the finished rows. Nothing in it waits for the device once the starts are burnt in. Everything random comes
    from `RowRandom`, so a row depends on its own seed and on nothing else in the batch.

    The networks are prepared for dreams when the dream is made; whoever trains them further calls `refresh`. The state
    stays in the same tensors from the first reset on, so that on a GPU a whole step can be one CUDA graph.

    Example:
        >>> dream = diamond_gym.load_world_model("breakout-nano").dream(num_envs=64)  # doctest: +SKIP
        >>> obs = dream.reset(seed=0)  # doctest: +SKIP
        >>> step = dream.step(torch.randint(4, (64,), device=obs.device))  # doctest: +SKIP

    Attributes:
        sampler, horizon: As given when it was made; may be changed between steps.
        bank: The starts; others may take their place.
        obs_window: The last T frames of every row, float32 (B, T, C, H, W); None before the first reset. As all of the
            state it is overwritten by the next step.
        act_window: The actions between them, (B, T), the last slot waiting for the next one.
        steps: How many steps each row has dreamt since its start, int64 (B,).
        start: The start each row dreams from, int64 (B,), -1 for frames given to `reset`.
        fingerprint, state_type: What a cloned state has to agree with, and its class.
    """

    state_type: type[DreamState] = DreamState

    @without_gradient()
    def __init__(
        self,
        denoiser: Denoiser,
        reward_end: RewardEnd | None,
        starts: Starts,
        num_envs: int,
        sampler: SamplerConfig | None = None,
        horizon: int | None = 50,
        device: str | torch.device = "cpu",
        precision: str = "float32",
        *,
        seed: int | Sequence[int] | None = None,
        choice: str | int = "any",
        model: str = "",
        graph: bool = False,
    ) -> None:
        """Sets up a dream; `reset` starts it.

        Args:
            denoiser: Samples frames.
            reward_end: Gives reward and end; without it rewards are 0 and nothing ends but by the horizon.
            starts: The real frames to begin from.
            num_envs: Rows of the batch, B.
            sampler: Default: the paper's three Euler steps.
            horizon: Steps after which a row is truncated, None for never.
            device: Where both networks are.
            precision: "float32", or "bfloat16" for the networks (and nothing else).
            seed: Seed of a first `reset` that brings none; None for a fresh one.
            choice: Which starts to draw from: "any", "first" (beginnings of games) or one index.
            model: What to call the model in a cloned state, so that another model refuses it.
            graph: Record a step as one CUDA graph at its first call and replay it; elsewhere this changes nothing.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}.")
        self.num_envs, self.device = num_envs, torch.device(device)
        self.denoiser, self.reward_end = denoiser, reward_end
        self._predict = Predictor(denoiser, reward_end, PRECISIONS[pick_precision(precision, self.device)])
        self.sampler, self.horizon = sampler or SamplerConfig(), horizon
        check_sampler(self.sampler, self._predict.objective)
        self.bank = StartBank(starts, choice, self._predict, self.device)
        self._graph = graph and self.device.type == "cuda"
        # A CPU asks whether any row restarts, which costs nothing there; elsewhere every row computes a restart.
        self._waits = self.device.type == "cpu"
        self.num_starts, self.multi_hot = len(starts), starts.act.ndim == 3
        _, t, h, w, c = starts.obs.shape
        self.fingerprint = {"model": model, "num_envs": num_envs, "frames": (t, c, h, w)}
        self._new_state(seed)

    def _new_state(self, seed: int | Sequence[int] | None = None) -> None:
        """Makes the state of a dream that has not begun; without a seed its random streams get a fresh one."""
        first = secrets.randbits(63) if seed is None else seed
        self._rng: RowRandom | OutsideRandom = RowRandom(self.num_envs, self.device, first, self._predict.words())
        self._graphs = dict[tuple[Any, ...], "Graph[DreamStep]"]()
        self.obs_window: Tensor | None = None
        self.act_window: Tensor | None = None
        self._memory: LstmState | None = None
        self.steps = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self.start = torch.full_like(self.steps, -1)

    @property
    def ways(self) -> list[str]:
        """How frames have been computed where that was measured, a line for each size (`diamond_gym.networks.ways`)."""
        return [str(way) for way in getattr(self._predict.frames, "ways", {}).values()]

    def twin(self) -> Self:
        """Another dream of the same prepared networks and starts, which has not begun and has a state of its own."""
        twin = copy.copy(self)
        twin._new_state()
        return twin

    def draw_from(self, random: "OutsideRandom") -> None:
        """Has all numbers drawn by another source from now on, so that a larger CUDA graph can hold steps and restarts.

        Steps are no graphs of their own then, and all starts are burnt in before any of them is needed.
        """
        self._rng, self._graph, self.bank.eager = random, False, True

    @without_gradient()
    def reset(
        self,
        seed: int | Sequence[int | None] | None = None,
        *,
        mask: Tensor | None = None,
        obs: Tensor | None = None,
        act: Tensor | None = None,
        start: int | Tensor | None = None,
    ) -> Tensor:
        """Begins all rows, or those in `mask`, anew.

        Args:
            seed: Row i is seeded with seed + i, or with its own of a sequence. None: the streams go on.
            mask: bool (B,), the rows to reset.
            obs: Real frames to dream on from instead, uint8 (T, H, W, C) or (B, T, H, W, C).
            act: The actions between them as the networks take them, (T - 1[, A]) or (B, T - 1[, A]).
            start: A stored start, or one per row (B,), instead of a random one.

        Returns:
            The current frame of every row, float32 (B, C, H, W) in [-1, 1].
        """
        if self.obs_window is None and mask is not None and not bool(mask.all()):
            raise RuntimeError("the first reset must be of all rows.")
        rows = torch.ones(self.num_envs, dtype=torch.bool, device=self.device) if mask is None else mask.to(self.device)
        given = None if obs is None else self._given(obs, act)
        if isinstance(start, int) and not 0 <= start < self.num_starts:
            raise ValueError(f"start {start} does not exist: there are {self.num_starts}, counted from 0.")
        if seed is not None:
            self._rng.reseed(seed, mask)
        if given is not None:
            self._enter(rows, torch.full_like(self.start, -1), *given)
        else:
            self._restart(rows, start)
        return self.obs

    def _given(self, obs: Tensor, act: Tensor | None) -> tuple[Any, ...]:
        return self.bank.given(obs, act, self.num_envs)

    def _restart(self, rows: Tensor, start: int | Tensor | None = None) -> None:
        """Puts the rows onto a start: the given one, or one that each draws."""
        if start is None:
            index = self.bank.pool[self._rng.integers(len(self.bank.pool), START)]
        else:
            index = torch.as_tensor(start, dtype=torch.int64, device=self.device).expand(self.num_envs)
        self._enter(rows, index, *self.bank.window(index, rows))

    def _enter(self, rows: Tensor, index: Tensor, obs: Tensor, act: Tensor, memory: LstmState | None) -> None:
        """Replaces the rows' state, and ends the event in their random streams."""
        self._write(obs, act, memory, torch.where(rows, 0, self.steps), rows)
        put(self.start, index, rows)
        self._rng.advance(rows)

    @without_gradient()
    def step(self, act: Tensor, restart: bool = True, mask: Tensor | None = None) -> DreamStep:
        """Dreams one step of every row, or of the rows in `mask`; the others stand still.

        Args:
            act: Actions as the networks take them, on the device: int64 (B,), or vectors (B, A).
            restart: Whether finished rows restart within the step; else the caller has to `reset` them.
            mask: bool (B,) on the device; rows outside it keep their state and their random stream.

        Returns:
            What the step led to; of rows outside `mask`, rew is 0, end and trunc are False, and the rest means nothing.
        """
        if not self._graph:
            return self._step(act, restart, mask)
        inputs = (act,) if mask is None else (act, mask)
        key = restart, len(inputs), self.sampler, self.horizon, act.dtype
        if key not in self._graphs:
            from diamond_gym.cuda_graphs import Graph

            self.bank.prepare()
            before = self.clone_state(include_rng=True)
            self._graphs[key] = Graph(lambda act, mask=None: self._step(act, restart, mask), *inputs)
            self.restore_state(before)  # recording takes steps
        return self._graphs[key](*inputs).copied(self.device)  # the next replay overwrites them

    def _step(self, act: Tensor, restart: bool, mask: Tensor | None) -> DreamStep:
        window, waiting = self._windows()
        actions = torch.cat((waiting[:, :-1], act[:, None].to(waiting.dtype)), dim=1)
        outcome = self._imagine(window, actions)
        rew, end, steps = outcome.rew, outcome.end, self.steps + 1
        trunc = torch.zeros_like(end) if self.horizon is None else steps >= self.horizon
        final_start = self.start.clone()
        if mask is not None:
            rew, end, trunc = rew * mask, end & mask, trunc & mask
        self._take_up(outcome, actions, steps, mask)
        self._rng.advance(mask)
        obs = final_obs = self.obs
        done = end | trunc
        if restart and (not self._waits or bool(done.any())):
            self._restart(done)
            obs = self.obs
        return DreamStep(
            obs, rew, end, trunc, outcome.rew_prob, outcome.end_prob, final_obs, self.start.clone(), final_start,
            outcome.trajectory,
        )  # fmt: skip

    def _imagine(self, window: Tensor, actions: Tensor) -> Outcome:
        return self._predict(window, actions, self._memory, self.sampler, self._rng)

    def _take_up(self, outcome: Outcome, act: Tensor, steps: Tensor, rows: Tensor | None) -> None:
        """Moves the rows' windows on by a step; its actions (B, T[, A]) are complete."""
        window = torch.cat((self._windows()[0][:, 1:], outcome.next_obs[:, None]), dim=1)
        act = torch.cat((act[:, 1:], torch.zeros_like(act[:, :1])), dim=1)
        self._write(window, act, outcome.memory, steps, rows)

    def _write(self, obs: Tensor, act: Tensor, memory: LstmState | None, steps: Tensor, rows: Tensor | None) -> None:
        """Writes into the rows (B,) of the state, in place."""
        self.obs_window, self.act_window = put(self.obs_window, obs, rows), put(self.act_window, act, rows)
        put(self.steps, steps, rows)
        if memory is not None:
            hx, cx = (None, None) if self._memory is None else self._memory
            rows = None if rows is None else rows[None, :, None]
            self._memory = put(hx, memory[0], rows), put(cx, memory[1], rows)

    @property
    def obs(self) -> Tensor:
        """The current frame of every row, float32 (B, C, H, W) in [-1, 1], a copy."""
        return self.shown_window[:, -1].clone()

    @property
    def shown_window(self) -> Tensor:
        """The last frames that the dream keeps at the size of `obs`, (B, T, C, H, W), the newest last; not a copy."""
        return self._windows()[0]

    def _windows(self) -> tuple[Tensor, Tensor]:
        """The last frames and the actions between them."""
        if self.obs_window is None or self.act_window is None:
            raise RuntimeError("the dream has not begun: call reset first.")
        return self.obs_window, self.act_window

    @without_gradient()
    def clone_state(self, include_rng: bool = False) -> DreamState:
        """Copies the dream's state, with the random streams if asked (as ALE's `clone_state`)."""
        rng = self._rng.state_dict() if include_rng else None
        state = DreamState(self.fingerprint, *self._windows(), self._memory, self.steps, self.start, rng)
        return state.copied(self.device)

    def _any_state(self) -> DreamState:
        """A state that this dream could have."""
        index = torch.zeros_like(self.steps)
        return DreamState(self.fingerprint, *self.bank.window(index), index, index, self._rng.state_dict())

    @without_gradient()
    def check_state(self, state: DreamState, num_actions: int | None = None) -> None:
        """Refuses a state of another dream, or a damaged one (ValueError); `num_actions` if they are discrete."""
        most = 1 if self.multi_hot else None if num_actions is None else num_actions - 1
        like = self._any_state()
        check_state(state, like, self.num_starts, (-1 if like.act.is_floating_point() else 0, most))

    @without_gradient()
    def restore_state(self, state: DreamState) -> None:
        """Goes back to a cloned state; the random streams go on where they are unless it includes them.

        Raises:
            ValueError: The state is of another model, batch size or frame size, or damaged; nothing has changed then.
        """
        self.check_state(state)
        state = state.copied(self.device)
        self._write(state.obs, state.act, state.memory, state.steps, None)
        self.start.copy_(state.start)
        if state.rng is not None:
            self._rng.load_state_dict(state.rng)

    @without_gradient()
    def refresh(self) -> None:
        """Dreams on in the networks' weights as they are now; to be called after training them further."""
        self._predict.refresh()
        self.bank.forget()
        self._graphs.clear()
