"""One player at the server: the game paced by the clock, and messages obeyed."""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.play.branches import DICE, STEPS
from diamond_gym.play.channel import Channel, Socket
from diamond_gym.play.game import Game
from diamond_gym.play.protocol import VERSION, Kind, Message
from diamond_gym.play.view import View, branches_message

T = TypeVar("T")

_END_SHOWN = 0.7  # seconds that a dream's last frame stays
_LATE = 0.25  # seconds behind from which on the pace begins anew instead of catching up

# Messages after which the branches that are shown would be those of another moment.
_ELSEWHERE = ("step", "reset", "new_start", "seek", "resume_from", "branch", "real", "quality")

log = logging.getLogger("diamond_gym.play")


class Busy(Exception):
    """There are as many games as there may be."""


class House(Protocol):
    """What a player needs of the server."""

    async def work(self, function: Callable[..., T], *args: Any) -> T:
        """Computes in a worker thread, in turn with what other players want."""
        ...

    async def open_game(self, player: "Player", message: Message) -> tuple[Game, int, dict[str, Any]]:
        """The game that a `start` asks for, its steps a second, and the fields of `started`."""
        ...

    def close_game(self, game: Game) -> None:
        """Lets go of a game's model."""

    def leave(self, player: "Player") -> None:
        """Forgets a player who has gone."""

    async def export(self, game: Game, kind: str, fps: int) -> dict[str, Any]:
        """Writes a game's last recording to be fetched, and gives the fields of `exported`."""
        ...


class Player:
    """A session of the protocol: at most one game, and at most one connection.

    Args:
        house: The server.
    """

    def __init__(self, house: House) -> None:
        self.id = secrets.token_urlsafe(24)
        self.channel = Channel()
        self.game: Game | None = None
        self._house = house
        self._busy = asyncio.Lock()
        self._tasks = set[asyncio.Task[None]]()
        self._branching: asyncio.Task[None] | None = None
        self._runs, self._news = asyncio.Event(), asyncio.Event()
        self._paused = self._hidden = self._frame_due = self._closed = False
        self._fps, self._times = 15, deque[float](maxlen=30)
        self._started: dict[str, Any] = {}
        self._view: View | None = None

    # Connections

    async def attach(self, socket: Socket, resumed: bool) -> None:
        """Takes a connection, in place of one that there may be."""
        await self.channel.attach(socket)
        await self.channel.send({"type": "hello", "version": VERSION, "session": self.id, "resumed": resumed})
        if self.game is not None:
            await self.channel.send({"type": "started", **self._started})
            self._changed(frame=True)

    def detach(self, socket: Socket) -> None:
        """Notes that a connection is lost; the game waits."""
        if self.channel.detach(socket):
            if self.game is not None:
                self.game.controls.release()
            self._changed()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Ends the session for good, and lets go of its memory."""
        if self._closed:
            return
        self._closed = True
        self._house.leave(self)
        if reason:
            await self.channel.send({"type": "closed", "reason": reason})
        await self._end_game()
        await self.channel.close(code, reason)

    async def _end_game(self) -> None:
        tasks, self._tasks, self._branching = self._tasks, set(), None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        game, self.game, self._view = self.game, None, None
        if game is not None:
            self._house.close_game(game)

    # The game

    def _spawn(self, task: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await task
            except Exception as error:
                await self._failed(error)

        spawned = asyncio.create_task(guarded())
        self._tasks.add(spawned)
        spawned.add_done_callback(self._tasks.discard)
        return spawned

    async def _failed(self, error: Exception) -> None:
        """Says what went wrong; with a traceback in the log where it is our own mistake."""
        if not isinstance(error, DiamondGymError):
            log.error("a player's game failed", exc_info=error)
        text = " ".join(str(error).split())[:300] if isinstance(error, DiamondGymError) else "something went wrong"
        code = getattr(error, "code", "unavailable" if isinstance(error, BadArgument) else "failed")
        await self.channel.send({"type": "error", "code": code, "text": text})

    def _changed(self, frame: bool = False) -> None:
        """Has the state sent, with the frame if it is another one, and the game run or stand still."""
        still = self._paused or self._hidden or self._branching is not None
        if self.game is not None and self.channel.attached and not still:
            self._runs.set()
        else:
            self._runs.clear()
            self._times.clear()
        self._frame_due |= frame
        self._news.set()

    async def _do(self, function: Callable[..., T], *args: Any) -> T:
        """Computes with the game in a worker, one thing at a time, also where nobody waits for it any more."""
        async with self._busy:
            job = asyncio.ensure_future(self._house.work(function, *args))
            try:
                return await asyncio.shield(job)
            except asyncio.CancelledError:
                await asyncio.wait([job])
                raise

    async def _change(self, game: Game, function: Callable[..., T], *args: Any) -> T:
        """Changes the game in a worker, and has what is to be seen then sent."""

        def changed() -> tuple[T, View]:
            return function(*args), game.view()

        result, self._view = await self._do(changed)
        notices, game.notices = game.notices, []
        for text in notices:
            await self.channel.send({"type": "notice", "text": text})
        self._changed(frame=True)
        return result

    async def _pace(self, game: Game) -> None:
        """Steps the game by the wall clock: a step is due a period after the one before it was due."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if not self._runs.is_set():
                await self._runs.wait()
                due = loop.time()
            now = loop.time()
            if due > now:
                await asyncio.sleep(min(due - now, 0.1))
                continue
            if now - due > _LATE:
                due = now
            try:
                step = await self._change(game, game.advance)
            except Exception as error:
                self._paused = True
                self._changed()
                await self._failed(error)
                continue
            self._times.append(time.monotonic())
            due += _END_SHOWN if step.ended else 1 / self._fps

    async def _show(self, game: Game) -> None:
        """Sends the newest state and frame, as often as the client can take them."""
        spread_of = -1
        while True:
            await self._news.wait()
            if self._frame_due:
                await self.channel.wait_until_seen()
            self._news.clear()
            due, self._frame_due = self._frame_due, False
            view = self._view
            if view is None:
                continue
            pictures = list(view.pictures()) if due else []
            await self.channel.send(self._state(game, view), pictures, view.step.step)
            if game.denoise and view.seek is None and view.step.step != spread_of:
                spread_of = view.step.step
                self._spawn(self._spread(game, spread_of))

    async def _spread(self, game: Game, step: int) -> None:
        """Sends the heat map of a frame, unless another one comes first."""
        while game.denoise and game.session.before is not None and game.session.now.step == step:
            heat = await self._do(game.spread, step)
            if heat is not None:
                await self.channel.send({}, [(Kind.SPREAD, game.noises, heat)], step)
                return

    async def _branch(self, game: Game, message: Message) -> None:
        """Dreams the branches and sends their frames as they come, in turn with what other players want."""
        count, steps = message.get("count", DICE), message.get("steps", STEPS)
        branches = await self._do(game.branch, message["kind"], steps, count)
        await self.channel.send(branches_message(branches))
        shown = 0
        while not branches.done:
            index = await self._do(branches.advance)
            branch = branches.branches[index]
            await self.channel.send({}, [(Kind.BRANCH, index, branch.obs)], branch.steps)
            if branches.shown > shown or branch.ended:
                shown = branches.shown
                await self.channel.send(branches_message(branches))

    async def _leave_branches(self, game: Game) -> None:
        task, self._branching = self._branching, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        game.branches = None

    def _state(self, game: Game, view: View) -> dict[str, Any]:
        times = self._times
        fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
        return {
            "type": "state",
            **view.fields(),
            "control": game.control,
            "fps": round(fps, 1),
            "target_fps": self._fps,
            "paused": self._paused,
            "hidden": self._hidden,
            "recording": None if game.recorder is None else game.recorder.num_steps,
            "denoise": game.denoise,
            "branching": self._branching is not None,
        }

    # Messages

    async def obey(self, message: Message) -> None:
        """Does what a message asks for; what cannot be done is answered by an error."""
        name, game = message["type"], self.game
        try:
            if name == "start":
                await self._start(message)
            elif name == "close":
                await self.close()
            elif name == "ack":
                self.channel.seen(message["sequence"])
            elif name == "visible":
                self._hidden = not message["on"]
                self._changed()
            elif game is None:
                await self.channel.send({"type": "error", "code": "not_started", "text": "start comes first"})
            else:
                if name in _ELSEWHERE:
                    await self._leave_branches(game)
                await self._obey_in(game, name, message)
        except Exception as error:
            await self._failed(error)

    async def _start(self, message: Message) -> None:
        try:
            game, fps, started = await self._house.open_game(self, message)
        except Busy as busy:
            await self.channel.send({"type": "busy", "limit": int(str(busy))})
            return
        await self._end_game()
        if self._closed:
            self._house.close_game(game)
            return
        self.game, self._fps, self._started, self._paused = game, fps, started, False
        await self.channel.send({"type": "started", **started})
        await self._change(game, lambda: None)
        self._spawn(self._pace(game))
        self._spawn(self._show(game))

    async def _obey_in(self, game: Game, name: str, message: Message) -> None:
        controls = game.controls
        change: dict[str, Callable[[], Awaitable[Any]]] = {
            "reset": lambda: self._change(game, game.reset, message.get("seed")),
            "new_start": lambda: self._change(game, game.new_start),
            "quality": lambda: self._change(game, game.set_quality, message["name"]),
            "seek": lambda: self._change(game, game.look_back, message["step"]),
            "resume_from": lambda: self._change(game, game.rewind, message["step"]),
            "real": lambda: self._change(game, game.set_real, message["on"]),
            "choose": lambda: self._change(game, game.choose, message["index"]),
            "step": lambda: self._change(game, game.advance),
            "thumbnails": lambda: self._thumbnails(game, message["count"]),
            "record": lambda: self._record(game, message["on"]),
        }
        if name == "keys":
            controls.hold(message["down"])
        elif name == "action":
            controls.give(message["action"])
        elif name == "mouse":
            controls.move(message["dx"], message["dy"], message["buttons"])
        elif name == "speed":
            self._fps = message["fps"]
            self._changed()
        elif name == "control":
            game.take_over(message["by"])
            self._changed()
        elif name == "pause":
            self._paused = message["on"]
            self._changed()
            if game.seek is not None and not self._paused:
                await self._change(game, game.look_back, None)
        elif name == "denoise":
            game.denoise = message["on"]
            await self._change(game, lambda: None)
        elif name == "branch":
            self._paused = True
            if game.seek is not None:
                await self._change(game, game.rewind, game.seek)
            self._branching = self._spawn(self._branch(game, message))
            self._changed()
        elif name == "cancel_branch":
            await self._leave_branches(game)
            self._changed()
        elif name == "export":
            self._spawn(self._export(game, message["format"]))
        else:
            if name in ("seek", "step"):
                self._paused = True
                self._changed()
            elif name == "resume_from":
                self._paused = False
            elif name == "choose":
                task, self._branching = self._branching, None
                if task is not None:
                    task.cancel()
                    await asyncio.wait([task])
            await change[name]()

    async def _thumbnails(self, game: Game, count: int) -> None:
        for step, pixels in await self._do(game.thumbnails, count):
            await self.channel.send({}, [(Kind.THUMBNAIL, 0, pixels)], step)

    async def _record(self, game: Game, on: bool) -> None:
        recorded = await self._change(game, game.record, on)
        if recorded is not None:
            await self.channel.send({"type": "recorded", **recorded})

    async def _export(self, game: Game, kind: str) -> None:
        await self.channel.send({"type": "exported", "format": kind, **await self._house.export(game, kind, self._fps)})
