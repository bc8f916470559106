"""One player's dream: stepped, rewound and noted operation by operation. It knows no network and no clock."""

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.dream import Dream
from diamond_gym.dream_state import DreamState
from diamond_gym.envs.checks import choose_sampler
from diamond_gym.errors import BadArgument
from diamond_gym.frames import to_pixels
from diamond_gym.play.agent import Agent
from diamond_gym.play.controls import Action, as_inputs, check_action
from diamond_gym.play.reality import Reality, RealStep
from diamond_gym.play.timeline import NOTHING, PlayStep, Snapshot, Timeline
from diamond_gym.sampler import SamplerConfig
from diamond_gym.two_stage import TwoStageDream, TwoStageSampler
from diamond_gym.world_model import WorldModel

Pixels = npt.NDArray[np.uint8]
Operation = tuple[str, Any]

OPERATIONS = ("reset", "start", "real", "act", "quality", "dice")


class PlaySession:
    """A dream of one row with everything that play needs of it.

    The frames after given operations are those of an environment: "reset" and "act" do to the dream what
    `DreamEnv.reset` and `DreamEnv.step` do. Nothing but operations decides what comes next, so that going back restores
    a snapshot and replays the operations since then, and a list of operations is a recording.

    Example:
        >>> session = PlaySession(load_world_model("breakout-nano"), seed=7)  # doctest: +SKIP
        >>> session.apply("act", 1).reward  # doctest: +SKIP
        0.0

    Attributes:
        now: The present step.
        reality: The real game, which the operation "real" needs.
        operations: Each `(name, value)` since the session began, as `apply` takes them; rewound ones are gone.
        before: The dream's state before the last step, with its random stream; None at a beginning.
    """

    def __init__(
        self,
        model: WorldModel,
        *,
        seed: int | None = 0,
        quality: str | None = None,
        horizon: int | None = None,
        agent: Agent | None = None,
        dream: Dream | None = None,
    ) -> None:
        """Begins a dream.

        Args:
            model: The world model.
            seed: Fixes everything random; None to leave the beginning to `apply`, as for a recording.
            quality: How frames are sampled; None for the model's own way.
            horizon: Steps after which a dream ends, None for never.
            agent: Looks on, and may choose actions.
            dream: A dream of one row of the model that nobody else uses; a new one by default.

        Raises:
            DiamondGymError: There is no such quality, or the model has no starts.
        """
        self.model, self.agent = model, agent
        self.reality: Reality | None = None
        self.dream = dream or model.dream(1)
        self.dream.horizon = horizon
        self.codec, self.meanings = model.codec, list(model.action_meanings)
        self.operations: list[Operation] = []
        self._trajectory: list[Tensor] = []  # the present frame while it was denoised, (1, C, H, W) in [-1, 1]
        self.before: DreamState | None = None
        self.now = PlayStep(-1, NOTHING, terminated=True, episode=-1)  # so that a beginning has to come first
        self._timeline = Timeline()
        self._seed, self._real_runs = seed or 0, False
        self._quality: str | None = None
        if quality is not None:
            self.apply("quality", quality)
        if seed is not None:
            self.apply("reset", seed)

    def apply(self, name: str, value: Any = None, by: str = "human") -> PlayStep:
        """Does one operation.

        Args:
            name: "reset" (value: a seed, or None to go on with the random stream), "start" (a start's index), "real"
                (a seed for the real game, from whose frames the dream goes on), "act" (an action), "quality" (a name or
                None), or "dice" (a seed for the random stream from here on).
            value: The operation's.
            by: Who chose an action, "human" or "agent".

        Returns:
            The present step. "quality" and "dice" make no new one.

        Raises:
            BadArgument: The operation or its value cannot be.
        """
        done = self._do(name, value, by)
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        self.operations.append((name, plain))
        if done is None:
            self.now = replace(self.now, quality=self._quality)
            return self.now
        self.now = done
        snapshot = self._snapshot() if self._timeline.wants_snapshot else None
        self._timeline.add(done, len(self.operations), snapshot)
        return done

    def _do(self, name: str, value: Any, by: str) -> PlayStep | None:
        """Does an operation, and notes nothing."""
        if name == "quality":
            if type(value) not in (str, type(None)):
                raise BadArgument(f"a quality must be a word, not {value!r:.40}")
            sampler = choose_sampler(self.model, value, {})
            if isinstance(self.dream, TwoStageDream):
                assert isinstance(sampler, TwoStageSampler)
                self.dream.sampler, self.dream.upsampler_sampler = sampler.dynamics, sampler.upsampler
            else:
                assert isinstance(sampler, SamplerConfig)
                self.dream.sampler = sampler
            self._quality = value
            return None
        if name == "act":
            return self._act(check_action(value, self.codec), by)
        if name not in OPERATIONS:
            raise BadArgument(f"there is no operation {name!r}: there are {', '.join(OPERATIONS)}")
        if not (value is None and name == "reset") and not (type(value) is int and 0 <= value < 2**63):
            raise BadArgument(f"{name} takes a whole number from 0 on, not {value!r:.40}")
        if name == "dice":
            assert value is not None
            self.dream.restore_state(with_dice(self.dream.clone_state(include_rng=True), value))
            return None
        return self._begin(name, value)

    def _begin(self, name: str, value: int | None) -> PlayStep:
        self._real_runs = name == "real"
        if name == "start":
            if value is None or value >= self.dream.num_starts:
                raise BadArgument(f"there are {self.dream.num_starts} starts, counted from 0, and no {value}")
            self.dream.reset(start=value)
        elif name == "real":
            if self.reality is None:
                raise BadArgument("the real game cannot be played here: only Atari games can, with ale-py installed")
            obs, act = self.reality.begin(value)
            self.dream.reset(value, obs=torch.from_numpy(obs), act=torch.from_numpy(act))
        else:
            self.dream.reset(value)
        self._seed = self._seed if value is None or name == "start" else value
        self._trajectory, self.before = [], None
        return self._seen(
            PlayStep(
                step=self.now.step + 1,
                obs=pixels_of(self.dream),
                start=int(self.dream.start[0]),
                seed=self._seed,
                episode=self.now.episode + 1,
                quality=self._quality,
            )
        )

    def _act(self, action: Action, by: str) -> PlayStep:
        if self.now.ended:
            raise BadArgument("the dream has ended, or not begun: reset it first")
        now = self.now
        self.before = self.dream.clone_state(include_rng=True)
        step = self.dream.step(as_inputs(action, self.codec, self.dream.device), restart=False)
        self._trajectory, obs, reward = step.trajectory, pixels_of(self.dream), float(step.rew)
        return self._seen(
            replace(
                now,
                step=now.step + 1,
                obs=obs,
                action=action,
                by=by,
                reward=reward,
                total=now.total + reward,
                end_prob=float(step.end_prob),
                terminated=bool(step.end),
                truncated=bool(step.trunc),
                episode_step=now.episode_step + 1,
                quality=self._quality,
            )
        )

    def _seen(self, step: PlayStep) -> PlayStep:
        """The step with what the agent thinks of it, and what the real game did."""
        if self._real_runs and self.reality is not None:
            real = self.reality
            now = RealStep(real.frame) if step.action is None else real.step(int(step.action), step.obs)
            step = replace(step, real=now, real_total=step.real_total + now.reward)
        if self.agent is not None:
            chances, value = self.agent.see(step.obs, self.dream.shown_window[0], step.action is None)
            chosen = self.agent.draw(np.random.default_rng([self._seed, step.step, 9]))
            step = replace(step, probabilities=tuple(chances), value=value, agent_action=chosen)
        return step

    @property
    def trajectory(self) -> list[Pixels]:
        """The present frame while it was denoised, from noise on, n + 1 of uint8 (H, W, C); empty at a beginning."""
        return [to_pixels(image)[0].cpu().numpy() for image in self._trajectory]

    @property
    def small(self) -> Pixels | None:
        """The small frame, uint8 (h, w, C), that the present one was made from in a model of two stages."""
        if not isinstance(self.dream, TwoStageDream) or self.dream.obs_window is None:
            return None
        return to_pixels(self.dream.obs_window[:, -1])[0].cpu().numpy()

    @property
    def first(self) -> int:
        """The earliest step that one can go back to."""
        return self._timeline.first

    def at(self, step: int) -> PlayStep:
        """An earlier step, or the present one.

        Raises:
            BadArgument: It is not on the timeline.
        """
        moment = self._timeline.moment(step)
        pixels = np.frombuffer(bytearray(zlib.decompress(moment.pixels)), np.uint8)
        return replace(moment.step, obs=pixels.reshape(self.now.obs.shape))

    def thumbnails(self, count: int) -> list[tuple[int, Pixels]]:
        """Steps and frames, spread over the timeline."""
        first, last = self.first, self.now.step
        steps = sorted({first + (last - first) * i // max(1, count - 1) for i in range(count)})
        return [(step, self.at(step).obs) for step in steps]

    def rewind(self, step: int) -> PlayStep:
        """Goes back to a step, as if nothing had come after it.

        Raises:
            BadArgument: It is not on the timeline.
        """
        shown, moment, base = self.at(step), self._timeline.moment(step), self._timeline.base(step)
        self._timeline.cut(step)
        replayed = self.operations[base.operations : moment.operations]
        del self.operations[moment.operations :]
        assert base.snapshot is not None
        self.dream.restore_state(base.snapshot.dream)
        self._do("quality", base.step.quality, "human")
        self._seed, self._real_runs = base.step.seed, base.snapshot.real is not None
        self._trajectory, self.before, self.now = [], None, base.step
        if self.agent is not None:
            self.agent.restore(base.snapshot.agent)
        if self.reality is not None and self._real_runs:
            self.reality.restore_state(base.snapshot.real)
        for name, value in replayed:
            self.now = self._do(name, value, "human") or self.now
        self.now = shown
        return shown

    def _snapshot(self) -> Snapshot:
        agent = None if self.agent is None else self.agent.state()
        real = self.reality.clone_state() if self.reality is not None and self._real_runs else None
        return Snapshot(self.dream.clone_state(include_rng=True), agent, real)


def pixels_of(dream: Dream) -> Pixels:
    """The present frame of a dream of one row, uint8 (H, W, C)."""
    return to_pixels(dream.obs)[0].cpu().numpy()


def with_dice(state: DreamState, seed: int) -> DreamState:
    """A state of a dream of one row with another random stream; it has to include its own."""
    assert state.rng is not None
    stream = {"seed": torch.full_like(state.rng["seed"], seed), "draw": torch.zeros_like(state.rng["draw"])}
    return replace(state, rng=stream)
