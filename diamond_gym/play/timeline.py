"""The last minutes of play: every frame, and now and then all that the next ones depend on."""

import zlib
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.dream_state import DreamState
from diamond_gym.errors import BadArgument
from diamond_gym.frames import to_frames, to_pixels
from diamond_gym.play.controls import Action
from diamond_gym.play.reality import RealStep

Pixels = npt.NDArray[np.uint8]

SNAPSHOT_EVERY = 8  # steps; going back replays fewer than that
MOST_STEPS, MOST_BYTES = 15 * 60 * 3, 64 << 20  # what is kept: three minutes, or less if frames are large
NOTHING = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class PlayStep:
    """A step, or a beginning, as a player sees it.

    Attributes:
        step: Frames since the session began, the first is 0.
        obs: The frame, uint8 (H, W, C).
        action: What led to it; None at a dream's beginning.
        by: "human" or "agent", who chose it.
        reward: Of this step.
        total: The rewards since the dream began.
        end_prob: The model's chance that the step ended the game.
        terminated: Whether it did.
        truncated: Whether it reached the horizon.
        start: The start that the dream began from, -1 for real frames.
        seed: The last seed that was given.
        episode: Dreams before this one.
        episode_step: Steps since it began.
        quality: How frames are sampled; None for the model's own way.
        probabilities: The agent's chances of each action now, or that each button is pressed; empty without an agent,
            and where actions cannot be listed.
        value: The agent's value of the frame.
        agent_action: What the agent would do now, drawn by its chances: the same however often the step is played.
        real: What the real game did, if it runs beside the dream.
        real_total: Its rewards since then.
    """

    step: int
    obs: Pixels
    action: Action | None = None
    by: str = "human"
    reward: float = 0.0
    total: float = 0.0
    end_prob: float = 0.0
    terminated: bool = False
    truncated: bool = False
    start: int = -1
    seed: int = 0
    episode: int = 0
    episode_step: int = 0
    quality: str | None = None
    probabilities: tuple[float, ...] = ()
    value: float | None = None
    agent_action: Action | None = None
    real: RealStep | None = None
    real_total: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether a new dream has to begin."""
        return self.terminated or self.truncated


class Snapshot:
    """All that the next steps of a session depend on; frames on 8-bit levels are kept compressed, and are exact so.

    Args:
        dream: The dream's state with its random stream.
        agent: The agent's state.
        real: The real game's state; None if it does not run.
    """

    def __init__(self, dream: DreamState, agent: Any, real: Any) -> None:
        self.agent, self.real = agent, real
        self._frames: dict[str, tuple[bytes, tuple[int, ...]]] = {}
        for name in ("obs", "full"):
            tensor: Tensor | None = getattr(dream, name, None)
            if tensor is not None and torch.equal(to_frames(pixels := to_pixels(tensor)), tensor):
                self._frames[name] = zlib.compress(pixels.cpu().numpy().tobytes(), 1), tuple(pixels.shape)
                changed: dict[str, Any] = {name: tensor.new_empty(0)}
                dream = replace(dream, **changed)
        self._dream = dream

    @property
    def dream(self) -> DreamState:
        """The dream's state."""
        frames: dict[str, Any] = {}
        for name, (content, shape) in self._frames.items():
            pixels = torch.frombuffer(bytearray(zlib.decompress(content)), dtype=torch.uint8).view(shape)
            frames[name] = to_frames(pixels.to(self._dream.steps.device))
        return replace(self._dream, **frames)

    @property
    def bytes(self) -> int:
        """About what it takes of memory."""
        return sum(len(content) for content, _ in self._frames.values()) + self._dream.obs.nbytes


@dataclass(frozen=True)
class Moment:
    """A frame of the timeline.

    Attributes:
        step: The step without its pixels.
        pixels: These, compressed.
        operations: How many operations led to it.
        snapshot: What comes next depends on it; only some moments have one.
    """

    step: PlayStep
    pixels: bytes
    operations: int
    snapshot: Snapshot | None

    @property
    def bytes(self) -> int:
        """About what it takes of memory."""
        return len(self.pixels) + (0 if self.snapshot is None else self.snapshot.bytes)


class Timeline:
    """Moments in order, the earliest of which has a snapshot."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque()
        self._bytes = 0

    @property
    def first(self) -> int:
        """The earliest step that one can go back to."""
        return self._moments[0].step.step

    @property
    def wants_snapshot(self) -> bool:
        """Whether the next moment has to have a snapshot."""
        return not any(moment.snapshot for moment in list(self._moments)[1 - SNAPSHOT_EVERY :])

    def add(self, step: PlayStep, operations: int, snapshot: Snapshot | None) -> None:
        """Adds a moment, and lets go of what is too old or too much."""
        pixels = zlib.compress(step.obs.tobytes(), 1)
        self._moments.append(Moment(replace(step, obs=NOTHING), pixels, operations, snapshot))
        self._bytes += self._moments[-1].bytes
        while len(self._moments) > 1 and (
            len(self._moments) > MOST_STEPS or self._bytes > MOST_BYTES or self._moments[0].snapshot is None
        ):
            self._bytes -= self._moments.popleft().bytes

    def moment(self, step: int) -> Moment:
        """The moment of a step.

        Raises:
            BadArgument: It is not on the timeline.
        """
        index = step - self.first
        if not 0 <= index < len(self._moments):
            raise BadArgument(f"one can go back to the steps {self.first} to {self._moments[-1].step.step}")
        return self._moments[index]

    def base(self, step: int) -> Moment:
        """The last moment with a snapshot that is not later than a step."""
        return next(self._moments[i] for i in range(step - self.first, -1, -1) if self._moments[i].snapshot)

    def cut(self, step: int) -> None:
        """Forgets all that is later than a step."""
        while self._moments[-1].step.step > step:
            self._bytes -= self._moments.pop().bytes
