"""A session as somebody plays it: by hand or by the agent, recorded, replayed, branched; without network or clock."""

import secrets
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.play.branches import Branches, Spread
from diamond_gym.play.controls import Controls
from diamond_gym.play.reality import Reality
from diamond_gym.play.recording import MOST_GIF_STEPS, ActionLog, Recorder, check_store
from diamond_gym.play.session import PlaySession
from diamond_gym.play.settings import Begin
from diamond_gym.play.timeline import PlayStep
from diamond_gym.play.view import View
from diamond_gym.play.worlds import Loaded, check_real, open_agent
from diamond_gym.registry.models import home_folder
from diamond_gym.trainers.worlds import about_of

Pixels = npt.NDArray[np.uint8]


class Game:
    """A session, who plays it, and what becomes of it.

    Attributes:
        session: The dream.
        controls: What the player holds.
        control: "human" or "agent", who plays while nothing is held.
        denoise: Whether the denoising is shown.
        branches: The futures that are shown; None without.
        notices: Lines to be shown to the player.
        recorder: Of the recording under way.
        recorded: Of the last one that has ended.
    """

    def __init__(self, loaded: Loaded, begin: Begin) -> None:
        """Begins a game.

        Raises:
            DiamondGymError: The model, agent, real game or store cannot be used; there is no such quality.
        """
        card = loaded.entry.card
        self.world, self.loaded, self.begin = card.game, loaded, begin
        self.notices: list[str] = []
        agent, why = open_agent(loaded, begin.agent_file) if begin.agent else (None, "")
        if why:
            self.notices.append(why)
        self.agent_kind: str | None = None if agent is None else agent.kind
        self.control = "agent" if begin.agent_plays and agent is not None else "human"
        horizon, self._spare = begin.horizon, loaded.dream.twin()
        self._replay: deque[Sequence[Any]] = deque()
        if begin.replay is not None:
            self._replay.extend(begin.replay.operations)
            horizon = begin.replay.settings.get("horizon")
            if horizon is not None and not (type(horizon) is int and horizon > 0):
                raise BadArgument(f"the recording's horizon is {horizon!r:.40}, which is not one")
        self.session = PlaySession(loaded.model, seed=None, horizon=horizon, agent=agent, dream=loaded.dream.twin())
        if begin.record is not None:
            check_store(begin.record, about_of(self.loaded.entry.card))
        self.controls = Controls(self.session.codec, self.session.meanings)
        self.seek: int | None = None
        self.denoise = False
        self.branches: Branches | None = None
        self._spread: Spread | None = None
        self.recorder: Recorder | None = None
        self.recorded: Recorder | None = None
        settings = {
            "horizon": horizon,
            "device": loaded.model.device.type,
            "precision": loaded.model.precision,
            "compile": loaded.compiled,
        }
        self.log = ActionLog(self.world, card.name, loaded.model.fingerprint, settings, self.session.operations)
        if begin.quality is not None and not self._replay:
            self._apply("quality", begin.quality)
        if self._replay:
            self._replay_step()
        else:
            self._apply("real" if begin.real else "reset", begin.seed)
        if begin.record is not None:
            self.record(True)

    def _apply(self, name: str, value: Any = None, by: str = "human") -> PlayStep:
        """Does an operation, and notes what it led to in the log and in the recording."""
        if name == "real" and self.session.reality is None:
            self._open_reality()
        before = self.session.now.step
        with self.loaded.lock if name in ("reset", "start", "real") else nullcontext():
            step = self.session.apply(name, value, by)
        self.log.note(step.obs)
        if self.recorder is not None and step.step != before:
            frame, reward, end, trunc, life_lost = _recorded(step)
            if name == "act":
                had_room = not self.recorder.full
                self.recorder.add(step.action, reward, end, trunc, frame, life_lost)
                if had_room and self.recorder.full:
                    self.notices.append(f"the recording is full: it keeps these {self.recorder.num_steps:,} steps")
            else:
                self.recorder.begin(frame, self._is_first(step))
        return step

    def _is_first(self, step: PlayStep) -> bool:
        starts = self.loaded.model.starts
        return step.episode_step == 0 and step.start >= 0 and starts is not None and bool(starts.first[step.start])

    def advance(self) -> PlayStep:
        """The next step: of a recording, of whoever plays, or a new dream's beginning where the last has ended.

        It follows the step that is shown, be it an earlier one.
        """
        if self.seek is not None:
            self.rewind(self.seek)
        if self._replay and self.controls.idle:
            return self._replay_step()
        self._replay.clear()
        now = self.session.now
        if now.ended or (now.real is not None and now.real.ended):
            return self.new_start()
        chosen = now.agent_action if self.control == "agent" and self.controls.idle else None
        if chosen is not None:
            return self._apply("act", chosen, "agent")
        return self._apply("act", self.controls.take())

    def _replay_step(self) -> PlayStep:
        assert self.begin.replay is not None
        while self._replay:
            name, value = self._replay.popleft()
            step = self._apply(name, value)
            if not self.begin.replay.agrees(len(self.log.operations), step.obs) and not self.notices:
                self.notices.append("these frames are not the recorded ones: another device, precision or version?")
            if name not in ("quality", "dice"):
                break
        if not self._replay:
            self.notices.append("the recording has ended")
        return self.session.now

    def reset(self, seed: int | None = None) -> PlayStep:
        """Begins anew from a seed, by default the present one."""
        self._replay.clear()
        self.seek = None
        seed = self.session.now.seed if seed is None else seed
        return self._apply("reset" if self.session.now.real is None else "real", seed)

    def new_start(self) -> PlayStep:
        """Begins another dream."""
        self.seek = None
        if self.session.now.real is not None:
            return self._apply("real", (self.session.now.seed + 1) % 2**63)
        return self._apply("reset")

    def set_real(self, on: bool) -> PlayStep:
        """Has the real game run beside a new dream, or no longer.

        Raises:
            DiamondGymError: It cannot be played here.
        """
        if self.recorder is not None:
            raise BadArgument("stop the recording first: it holds either the dream or the real game")
        self.seek = None
        return self._apply("real", self.session.now.seed) if on else self._apply("reset")

    def _open_reality(self) -> None:
        check_real(self.loaded.entry.card)
        assert self.loaded.model.starts is not None
        self.session.reality = Reality(self.world, self.loaded.model.starts.obs.shape[1])

    def set_quality(self, name: str) -> None:
        """Samples frames otherwise from here on."""
        self._apply("quality", name)

    def rewind(self, step: int) -> PlayStep:
        """Goes back to a step exactly; the quality stays as it is now."""
        self._replay.clear()
        self.seek = None
        session, quality, before = self.session, self.session.now.quality, self.session.now.step
        shown = session.rewind(step)
        self.log.cut()
        if self.recorder is not None:
            self.recorder.rewind(before - shown.step, _recorded(shown)[0])
        if session.now.quality != quality:
            self._apply("quality", quality)
        return session.now

    def look_back(self, step: int | None) -> None:
        """Shows an earlier step, or the present one again; nothing is lost."""
        if step is not None:
            self.session.at(step)
        self.seek = None if step == self.session.now.step else step

    def take_over(self, by: str) -> None:
        """Has "human" or "agent" play while no key is held.

        Raises:
            BadArgument: There is no agent.
        """
        if by == "agent" and self.agent_kind is None:
            raise BadArgument("this model has no agent; train one with `diamond-gym train-agent`")
        self.control = by

    def branch(self, kind: str, steps: int, count: int) -> Branches:
        """Futures from here; the action is the one that is held, or the last one."""
        now = self.session.now
        action = self.controls.take() if not self.controls.idle or now.action is None else now.action
        self.branches = Branches(self.session, self._spare, kind, action, steps, count)
        return self.branches

    def choose(self, index: int) -> PlayStep:
        """Goes on in one of the branches."""
        if self.branches is None:
            raise BadArgument("there are no branches to choose from")
        self.branches.choose(index, self._apply)
        self.branches = None
        return self.session.now

    def spread(self, step: int) -> Pixels | None:
        """A part of the work on the spread over other noises: the heat map once it is done, for the frame it is of.

        Args:
            step: The frame's; work on an earlier one is given up.
        """
        if self.session.before is None or self.session.now.step != step:
            return None
        if self._spread is None or self._spread.step != step:
            self._spread = Spread(self.session, self._spare)
        if not self._spread.done:
            self._spread.advance()
        return self._spread.heat_map() if self._spread.done else None

    def record(self, on: bool) -> dict[str, Any] | None:
        """Begins a recording, or ends it and writes it to its store, and returns what clients hear of it then."""
        if on == (self.recorder is not None):
            return None
        if on:
            self.recorder, now = Recorder(), self.session.now
            self.recorder.begin(_recorded(now)[0], self._is_first(now))
            return None
        store, why = self._save()
        if why:  # it can still be fetched
            self.notices.append(why)
        assert self.recorded is not None
        steps = self.recorded.num_steps
        films = [] if not steps else ["mp4", "gif"] if steps <= MOST_GIF_STEPS else ["mp4"]
        return {"id": secrets.token_urlsafe(9), "steps": steps, "formats": [*films, "log"], "store": store}

    def _save(self) -> tuple[str | None, str]:
        """Ends the recording under way: the store that it was written to, and why there is none."""
        if self.recorder is None:
            return None, ""
        self.recorded, self.recorder = self.recorder, None
        try:
            played_by = "person" if self.control == "human" else "agent"
            saved = self.recorded.save(self.store, about_of(self.loaded.entry.card), played_by)
            return str(self.store) if saved else None, ""
        except (DiamondGymError, OSError) as error:
            return None, f"the recording ({self.recorded.num_steps:,} steps) was not stored: {error}"

    @property
    def store(self) -> Path:
        """The folder that recordings are stored in: by default one in the user's own."""
        if self.begin.record is not None:
            return self.begin.record
        kind = "dream" if self.session.now.real is None else "real"
        return home_folder() / "recordings" / f"{self.world}-{kind}"

    def view(self) -> View:
        """The game's present state and pictures for clients."""
        session, seek = self.session, self.seek
        step = session.now if seek is None else session.at(seek)
        denoising = session.trajectory if self.denoise and seek is None else []
        small = session.small if seek is None else None
        return View(step, seek, session.first, session.now.step, small, denoising)

    def close(self) -> str:
        """Ends the recording under way, and the real game.

        Returns:
            Why the recording could not be stored; empty where it was, and where there was none.
        """
        try:
            return self._save()[1]
        finally:
            if self.session.reality is not None:
                self.session.reality.close()


def _recorded(step: PlayStep) -> tuple[Pixels, float, bool, bool, bool]:
    """The frame, reward, end, truncation and loss of a life that a recording has of a step.

    They are the real game's where that runs beside the dream, whose horizon cuts off both; a dream's lost life ends it.
    """
    if (real := step.real) is None:
        return step.obs, step.reward, step.terminated, step.truncated, False
    return real.frame, real.reward, real.terminated, real.truncated or step.truncated, real.life_lost
