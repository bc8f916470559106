"""One player at the server: the game paced by the clock, and messages obeyed."""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.websockets import WebSocket

from diamond_gym.errors import BadArgument, DiamondGymError
from diamond_gym.play.branches import NOISES
from diamond_gym.play.channel import Channel
from diamond_gym.play.game import Game
from diamond_gym.play.protocol import VERSION, Kind
from diamond_gym.play.view import View

if TYPE_CHECKING:
    from diamond_gym.play.server import Server

T = TypeVar("T")

_END_SHOWN = 0.7  # seconds that a dream's last frame stays
_LATE = 0.25  # seconds behind from which on the pace begins anew instead of catching up

log = logging.getLogger("diamond_gym.play")


class Busy(Exception):
    """There are as many games as there may be: `limit` of them."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


class Player:
    """A session of the protocol: at most one game, and at most one connection.

    Args:
        server: Where the player is; it computes, and opens and closes games.

    Attributes:
        id: The secret with which a lost session is resumed.
        channel: The way to the client.
        game: What is played; None before the first `start`.
        fps: Steps a second that are wanted.
        paused: Whether the player has paused.
        hidden: Whether the page is out of sight, which pauses as well.
        started: The fields of the message `started`.
        branching: Dreams branches, which pauses as well.
        exporting: Writes a recording.
        closed: Whether the session has ended.
    """

    def __init__(self, server: "Server") -> None:
        self.id = secrets.token_urlsafe(24)
        self.channel = Channel()
        self.game: Game | None = None
        self.server = server
        self._busy = asyncio.Lock()
        self._tasks = set[asyncio.Task[None]]()
        self.branching: asyncio.Task[None] | None = None
        self.exporting: asyncio.Task[None] | None = None
        self._runs, self._news = asyncio.Event(), asyncio.Event()
        self.paused = self.hidden = self._frame_due = self.closed = False
        self.fps, self._times = 15, deque[float](maxlen=30)
        self.started: dict[str, Any] = {}
        self._view: View | None = None

    # Connections

    async def attach(self, socket: WebSocket, resumed: bool) -> None:
        """Takes a connection, in place of one that there may be."""
        await self.channel.attach(socket)
        await self.channel.send({"type": "hello", "version": VERSION, "session": self.id, "resumed": resumed})
        if self.game is not None:
            await self.channel.send({"type": "started", **self.started})
            self.changed(frame=True)

    def detach(self, socket: WebSocket) -> None:
        """Notes that a connection is lost; the game waits."""
        if self.channel.detach(socket):
            if self.game is not None:
                self.game.controls.release()
            self.changed()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Ends the session for good, and lets go of its memory."""
        if self.closed:
            return
        self.closed = True
        self.server.leave(self)
        if reason:
            await self.channel.send({"type": "closed", "reason": reason})
        try:
            await self.end_game()
        finally:
            await self.channel.close(code, reason)

    async def begin(self, game: Game, fps: int, started: dict[str, Any]) -> None:
        """Plays a game in place of the present one.

        Args:
            game: The game.
            fps: Its steps a second.
            started: The fields of the message `started`.
        """
        await self.end_game()
        if self.closed:
            await self.server.close_game(game)
            return
        self.game, self.fps, self.started, self.paused = game, fps, started, False
        await self.channel.send({"type": "started", **started})
        await self.change(game, lambda: None)
        self.spawn(self._pace(game))
        self.spawn(self._show(game))

    async def end_game(self) -> None:
        """Ends the present game, if there is one, and lets go of its memory."""
        tasks, self._tasks, self.branching, self.exporting = self._tasks, set(), None, None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._busy:  # a message may still be at work on it
            game, self.game, self._view = self.game, None, None
            why = "" if game is None else await self.server.close_game(game)
        if why:
            await self.channel.send({"type": "notice", "text": why})

    # The game

    def spawn(self, task: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Does something on the side; the player sees it if it fails."""

        async def guarded() -> None:
            try:
                await task
            except Exception as error:
                await self.failed(error)

        spawned = asyncio.create_task(guarded())
        self._tasks.add(spawned)
        spawned.add_done_callback(self._tasks.discard)
        return spawned

    async def failed(self, error: Exception) -> None:
        """Says what went wrong; with a traceback in the log where it is our own mistake."""
        if not isinstance(error, DiamondGymError):
            log.error("a player's game failed", exc_info=error)
        text = " ".join(str(error).split())[:300] if isinstance(error, DiamondGymError) else "something went wrong"
        code = getattr(error, "code", "unavailable" if isinstance(error, BadArgument) else "failed")
        await self.channel.send({"type": "error", "code": code, "text": text})

    def changed(self, frame: bool = False) -> None:
        """Has the state sent, with the frame if it is another one, and the game run or stand still."""
        still = self.paused or self.hidden or self.branching is not None
        if self.game is not None and self.channel.attached and not still:
            self._runs.set()
        else:
            self._runs.clear()
            self._times.clear()
        self._frame_due |= frame
        self._news.set()

    async def do(self, function: Callable[..., T], *args: Any) -> T:
        """Computes with the game in a worker, one thing at a time, also where nobody waits for it any more."""
        async with self._busy:
            job = asyncio.ensure_future(self.server.work(function, *args))
            try:
                return await asyncio.shield(job)
            except asyncio.CancelledError:
                await asyncio.wait([job])
                raise

    async def change(self, game: Game, function: Callable[..., T], *args: Any) -> T:
        """Changes the game in a worker, and has what is to be seen then sent."""

        def function_and_view() -> tuple[T, View]:
            return function(*args), game.view()

        result, self._view = await self.do(function_and_view)
        notices, game.notices = game.notices, []
        for text in notices:
            await self.channel.send({"type": "notice", "text": text})
        self.changed(frame=True)
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
                step = await self.change(game, game.advance)
            except Exception as error:
                self.paused = True
                self.changed()
                await self.failed(error)
                continue
            self._times.append(time.monotonic())
            due += _END_SHOWN if step.ended else 1 / self.fps

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
                self.spawn(self._spread(game, spread_of))

    async def _spread(self, game: Game, step: int) -> None:
        """Sends the heat map of a frame, unless another one comes first."""
        while game.denoise and game.session.before is not None and game.session.now.step == step:
            heat = await self.do(game.spread, step)
            if heat is not None:
                await self.channel.send({}, [(Kind.SPREAD, NOISES, heat)], step)
                return

    def _state(self, game: Game, view: View) -> dict[str, Any]:
        times = self._times
        fps = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
        return {
            "type": "state",
            **view.fields(),
            "control": game.control,
            "fps": round(fps, 1),
            "target_fps": self.fps,
            "paused": self.paused,
            "hidden": self.hidden,
            "recording": None if game.recorder is None else game.recorder.num_steps,
            "denoise": game.denoise,
            "branching": self.branching is not None,
        }
