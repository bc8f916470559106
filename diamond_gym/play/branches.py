"""Futures of a session that have not been chosen yet, and how much the present frame is left to chance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_gym.dream import Dream
from diamond_gym.dream_state import DreamState
from diamond_gym.errors import BadArgument
from diamond_gym.play.controls import Action, as_inputs
from diamond_gym.play.session import PlaySession, pixels_of, with_dice
from diamond_gym.play.timeline import PlayStep
from diamond_gym.two_stage import TwoStageDream

Pixels = npt.NDArray[np.uint8]

DICE, STEPS = 9, 16  # branches of other dice, and steps of each, where the player says no other number
NOISES = 6  # that the present frame is sampled with for `Spread`


@dataclass
class Branch:
    """One of several futures.

    Attributes:
        label: A word for it.
        action: What is held in it.
        dice: The seed of its random stream; None for the session's own.
        obs: Its latest frame, uint8 (H, W, C).
        steps: Steps it has gone on for; it stops where its game ends.
        reward: The sum of its rewards.
        ended: Whether its game has ended.
    """

    label: str
    action: Action
    dice: int | None
    state: DreamState
    obs: Pixels
    steps: int = 0
    reward: float = 0.0
    ended: bool = False


class Branches:
    """A grid of futures from a session's present state; the session itself stands still.

    Each is dreamt as a batch of one row, as the session dreams: going on in one shows the very frames again.

    Args:
        session: Where they begin.
        dream: A dream of one row of the same model that nobody uses meanwhile, such as `session.dream.twin()`.
        kind: "dice": the same action under other random streams. "actions": each action under the present one.
        action: What is held in branches of other dice.
        steps: How far they go.
        count: How many branches of other dice.

    Raises:
        BadArgument: The dream has ended, or its actions cannot be listed one by one.
    """

    def __init__(
        self,
        session: PlaySession,
        dream: Dream,
        kind: str,
        action: Action,
        steps: int = STEPS,
        count: int = DICE,
    ) -> None:
        if session.now.ended:
            raise BadArgument("the dream has ended: there is nothing to branch from")
        self.kind, self.steps, self.at = kind, steps, session.now.step
        self._session, self._dream = session, as_careful(dream, session)
        state = session.dream.clone_state(include_rng=True)
        obs = session.now.obs
        if kind == "dice":
            seeds = np.random.default_rng([session.now.seed, session.now.step, 11]).integers(2**62, size=count)
            self.branches = [
                Branch(f"dice {i + 1}", action, int(seed), with_dice(state, int(seed)), obs)
                for i, seed in enumerate(seeds)
            ]
        else:
            if session.codec.is_vector:
                raise BadArgument("this world's actions are too many to show one by one")
            words = session.meanings or [str(i) for i in range(session.model.num_actions)]
            self.branches = [Branch(word, i, None, state, obs) for i, word in enumerate(words)]

    @property
    def shown(self) -> int:
        """Steps that all branches have gone, but for those that have ended."""
        return min((branch.steps for branch in self.branches if not branch.ended), default=self.steps)

    @property
    def done(self) -> bool:
        """Whether all have gone as far as they go."""
        return self.shown >= self.steps

    def advance(self) -> int:
        """Dreams one step of the branch whose turn it is; its index. There is none when all are done."""
        going = [i for i, branch in enumerate(self.branches) if not branch.ended]
        index = min(going, key=lambda i: self.branches[i].steps)
        branch = self.branches[index]
        self._dream.restore_state(branch.state)
        step = self._dream.step(as_inputs(branch.action, self._session.codec, self._dream.device), restart=False)
        branch.state, branch.obs = self._dream.clone_state(include_rng=True), pixels_of(self._dream)
        branch.steps, branch.reward = branch.steps + 1, branch.reward + float(step.rew)
        branch.ended = bool(step.end | step.trunc)
        return index

    def choose(self, index: int, apply: Callable[[str, Any], PlayStep]) -> PlayStep:
        """Has the session go on in a branch, to the last of its frames; the session must not have moved since.

        Args:
            index: The branch's.
            apply: The session's, or what calls that.

        Raises:
            BadArgument: There is no such branch.
        """
        if not 0 <= index < len(self.branches):
            raise BadArgument(f"there are {len(self.branches)} branches, counted from 0, and no {index}")
        branch = self.branches[index]
        if branch.dice is not None and branch.steps:
            apply("dice", branch.dice)
        for _ in range(branch.steps):
            apply("act", branch.action)
        return self._session.now


class Spread:
    """How the present frame would differ under other noises; the session's random stream stays where it is.

    Args:
        session: Whose frame; a dream's beginning has no other noises.
        dream: A dream of one row of the same model that nobody uses meanwhile.
    """

    def __init__(self, session: PlaySession, dream: Dream) -> None:
        assert session.before is not None
        self.step = session.now.step
        self._before, self._session, self._dream = session.before, session, dream
        action = session.codec.rest if session.now.action is None else session.now.action
        self._act = as_inputs(action, session.codec, dream.device)
        self._frames: list[Tensor] = []

    @property
    def done(self) -> bool:
        """Whether all frames have been sampled."""
        return len(self._frames) >= NOISES

    def advance(self) -> None:
        """Samples another frame."""
        dream = as_careful(self._dream, self._session)
        dream.restore_state(with_dice(self._before, len(self._frames) + 1))
        self._frames.append(dream.step(self._act, restart=False).final_obs)

    def heat_map(self) -> Pixels:
        """The standard deviation of the frames' levels as colours, uint8 (H, W, 3): black is 0, white 8 and more.

        Small models leave little to chance: the bundled ones reach 1 to 4 levels.
        """
        levels = torch.cat(self._frames).mul(127.5).std(0).amax(0).cpu().numpy()  # (H, W)
        heat = np.clip(levels / 8, 0, 1)[..., None] * 3 - np.array([0.0, 1.0, 2.0])
        heat_map: Pixels = (np.clip(heat, 0, 1) * 255).astype(np.uint8)
        return heat_map


def as_careful(dream: Dream, session: PlaySession) -> Dream:
    """The dream, which from now on samples as the session's does and ends where that ends."""
    dream.horizon, dream.sampler = session.dream.horizon, session.dream.sampler
    if isinstance(dream, TwoStageDream) and isinstance(session.dream, TwoStageDream):
        dream.upsampler_sampler = session.dream.upsampler_sampler
    return dream
