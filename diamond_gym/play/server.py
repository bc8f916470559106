"""The server of `diamond-gym play`: a page, a WebSocket for each player, and who may use them."""

import asyncio
import contextlib
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from diamond_gym.errors import BadArgument
from diamond_gym.play.commands import obey
from diamond_gym.play.game import Game
from diamond_gym.play.guard import Guard
from diamond_gym.play.player import Busy, Player
from diamond_gym.play.protocol import MESSAGE_BYTES, MESSAGES_PER_SECOND, VERSION, BadMessage, Message, parse, png
from diamond_gym.play.recording import export
from diamond_gym.play.settings import Begin, Settings
from diamond_gym.play.worlds import Worlds, controls_of, own_quality
from diamond_gym.registry.models import Entry

T = TypeVar("T")

log = logging.getLogger("diamond_gym.play")

LINGER = 30.0  # seconds that a session waits for a lost connection
_BURST = 4 * MESSAGES_PER_SECOND  # messages that may come at once
_RECORDINGS = 32  # that can be fetched; older ones are deleted
STATIC = Path(__file__).with_name("static")


class Server:
    """Everything that is served, and all who play.

    Args:
        worlds: What can be played.
        settings: How.
        token: What the address has to carry; a new one by default.
    """

    def __init__(self, worlds: Worlds, settings: Settings, token: str | None = None) -> None:
        self.worlds, self.settings = worlds, settings
        self.token = token or secrets.token_urlsafe(16)
        self.players: dict[str, Player] = {}
        self._connections = 0
        workers = max(1, (os.cpu_count() or 1) // 4) if worlds.on_cpu else 1
        self._pool = ThreadPoolExecutor(min(workers, settings.max_sessions), thread_name_prefix="dream")
        self._places = set[Player]()  # those who play, or are about to
        self._folder = tempfile.TemporaryDirectory(prefix="diamond-gym-play-", ignore_cleanup_errors=True)
        self._recordings: dict[str, Path] = {}
        routes = [
            Route("/", self._page),
            Route("/api/worlds", self._worlds),
            Route("/api/preview/{world}.png", self._preview),
            Route("/api/recordings/{name}", self._recording),
            WebSocketRoute("/ws", self._play),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self.app = Starlette(routes=routes, middleware=[Middleware(Guard, token=self.token, host=settings.host)])

    def start(self) -> None:
        """Begins what runs besides requests; to be called once, where they are answered."""
        self._tasks = [asyncio.create_task(self._reap()), asyncio.create_task(self._preload())]

    async def _preload(self) -> None:
        """Loads the first model while nobody waits for it yet; whoever plays sees what may be wrong with it."""
        if self.worlds.first is not None:
            with contextlib.suppress(Exception):
                loaded = await asyncio.to_thread(self.worlds.take, self.worlds.first)
                await asyncio.to_thread(self.worlds.give_back, loaded)

    async def close(self) -> None:
        """Ends all sessions, and says so."""
        for task in self._tasks:
            task.cancel()
        ends = (self._end(player, 1001, "the server has ended") for player in list(self.players.values()))
        await asyncio.gather(*ends, return_exceptions=True)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._folder.cleanup()

    async def _reap(self) -> None:
        """Ends the sessions whose connection has been lost for too long."""
        while True:
            await asyncio.sleep(1)
            for player in list(self.players.values()):
                left = player.channel.left_at
                if left is not None and time.monotonic() - left > LINGER:
                    await self._end(player)

    async def _end(self, player: Player, code: int = 1000, reason: str = "") -> None:
        """Ends a session; what goes wrong there is logged, and the others go on."""
        try:
            await player.close(code, reason)
        except Exception:
            log.exception("a session could not be ended well")

    # What is asked for by HTTP

    async def _page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def _worlds(self, request: Request) -> Response:
        worlds = await asyncio.to_thread(self.worlds.listing)
        limits = {
            "sessions": self.settings.max_sessions,
            "message_bytes": MESSAGE_BYTES,
            "messages_per_second": MESSAGES_PER_SECOND,
        }
        return JSONResponse({"version": VERSION, "worlds": worlds, "limits": limits})

    async def _preview(self, request: Request) -> Response:
        pixels = await asyncio.to_thread(self.worlds.preview, request.path_params["world"])
        if pixels is None:
            raise HTTPException(404)
        return Response(png(pixels), media_type="image/png")

    async def _recording(self, request: Request) -> Response:
        path = self._recordings.get(request.path_params["name"])
        if path is None or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path)

    # Who plays

    async def _play(self, connection: WebSocket) -> None:
        await connection.accept()
        if self._connections >= 2 * self.settings.max_sessions + 8:
            await connection.close(1013, "too many connections")
            return
        self._connections += 1
        known = self.players.get(connection.query_params.get("resume", ""))
        player = known or Player(self)
        self.players[player.id] = player
        try:
            await player.attach(connection, known is not None)
            await self._listen(player, connection)
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # it was lost while something was sent
        finally:
            self._connections -= 1
            player.detach(connection)
            if player.game is None and not player.channel.attached:
                await player.close()

    async def _listen(self, player: Player, connection: WebSocket) -> None:
        """Reads messages until the connection ends; of too many no more."""
        left, last = float(_BURST), time.monotonic()
        while player.channel.is_at(connection):
            event = await connection.receive()
            if event["type"] == "websocket.disconnect":
                return
            now = time.monotonic()
            left, last = min(_BURST, left + (now - last) * MESSAGES_PER_SECOND) - 1, now
            if left < 0:
                await connection.close(1008, "too many messages")
                return
            try:
                message = parse(event.get("text") or event.get("bytes") or "")
            except BadMessage as error:
                await player.channel.send({"type": "error", "code": "bad_message", "text": str(error)})
                continue
            if player.channel.is_at(connection):
                await obey(player, message)

    async def work(self, function: Callable[..., T], *args: Any) -> T:
        """Computes in the worker, in turn with what other players want."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def open_game(self, player: Player, message: Message) -> tuple[Game, int, dict[str, Any]]:
        """The game that a `start` asks for, its steps a second, and the fields of `started`.

        Raises:
            Busy: There are as many games as there may be.
            DiamondGymError: What was asked for cannot be had.
        """
        entry = await asyncio.to_thread(self.worlds.entry, message["world"], message.get("model"))
        await self._admit(player)
        try:
            loaded = await asyncio.to_thread(self.worlds.take, entry)
            try:
                begin = self._begin(message, entry)
                game = await self.work(Game, loaded, begin)
            except BaseException:
                await asyncio.to_thread(self.worlds.give_back, loaded)
                raise
        except BaseException:
            if player.game is None:
                self._places.discard(player)
            raise
        listing = await asyncio.to_thread(self.worlds.listing)
        model, now = loaded.model, game.session.now
        started = {
            **next((world for world in listing if world["name"] == entry.card.game), {}),
            **controls_of(game.session.codec, game.session.meanings),
            "model": entry.name,
            "size": list(now.obs.shape[:2]),
            "seed": now.seed,
            "agent": game.agent_kind,
            "stages": 1 if model.upsampler is None else 2,
            "own_quality": own_quality(model),
            "horizon": game.session.dream.horizon or -1,
            "device": str(model.device),
            "precision": model.precision,
            "slow": loaded.seconds > 0.2,
        }
        return game, message.get("fps", self.settings.fps), started

    def _begin(self, message: Message, entry: Entry) -> Begin:
        mine, first = self.settings.world in (None, message["world"]), self.worlds.first
        begin, horizon = self.settings.begin if mine else Begin(), message.get("horizon")
        seed, record = message.get("seed", self.settings.seed), begin.record
        if record is not None and self.settings.world is None:  # a store holds one world
            record /= entry.card.game
        return replace(
            begin,
            seed=secrets.randbits(31) if seed is None else seed,
            quality=message.get("quality", begin.quality),
            agent=message.get("agent", True),
            horizon=begin.horizon if horizon is None else None if horizon < 0 else horizon,
            real=message.get("real", begin.real),
            record=record,
            replay=begin.replay if "seed" not in message and first is not None and entry.path == first.path else None,
        )

    async def _admit(self, player: Player) -> None:
        """Gives a player a place, if need be that of one whose connection was lost."""
        while player not in self._places and len(self._places) >= self.settings.max_sessions:
            lost = [other for other in self._places if other.channel.left_at is not None]
            if not lost:
                raise Busy(self.settings.max_sessions)
            await self._end(min(lost, key=lambda other: other.channel.left_at or 0))
        self._places.add(player)

    async def close_game(self, game: Game) -> str:
        """Ends a game and lets go of its model.

        Aside, as a recording may have to be written, and another model that is being loaded to be waited for.

        Returns:
            Why its recording could not be stored; empty where it was, and where there was none.
        """

        def close_and_give_back() -> str:
            try:
                return game.close()
            finally:
                self.worlds.give_back(game.loaded)

        why = await asyncio.to_thread(close_and_give_back)
        if why:  # the player may be gone
            log.warning(why)
        return why

    def leave(self, player: Player) -> None:
        """Forgets a player who has gone."""
        self.players.pop(player.id, None)
        self._places.discard(player)

    async def export(self, game: Game, kind: str, fps: int) -> dict[str, Any]:
        """Writes a game's last recording to be fetched, and gives the fields of `exported`.

        Raises:
            DiamondGymError: Nothing has been recorded, or it could not be written.
        """
        if game.recorded is None and kind != "log":
            raise BadArgument("nothing has been recorded yet")
        name = f"{secrets.token_urlsafe(12)}.{'json' if kind == 'log' else kind}"
        path = Path(self._folder.name) / name
        await asyncio.to_thread(export, game.recorded, game.log, kind, path, fps)
        self._recordings[name] = path
        while len(self._recordings) > _RECORDINGS:
            self._recordings.pop(next(iter(self._recordings))).unlink(missing_ok=True)
        return {"url": f"/api/recordings/{name}", "bytes": path.stat().st_size}
