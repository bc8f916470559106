"""`diamond-gym play`: a dream to be played, in the browser or in the terminal."""

import os
import secrets
import sys
import threading
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diamond_gym.cli.options import OWN, check_agent, check_horizon, check_least, check_most, check_quality
from diamond_gym.errors import BadArgument
from diamond_gym.registry import resolve
from diamond_gym.registry.loading import Precision

if TYPE_CHECKING:
    from diamond_gym.play.recording import ActionLog
    from diamond_gym.play.settings import Begin
    from diamond_gym.play.worlds import Worlds
    from diamond_gym.registry.models import Entry


@dataclass(frozen=True)
class Play:
    """Opens a page for playing a world model, in any number of tabs, each with a dream of its own."""

    game: str | None = None
    """The game to begin with; the page offers the others."""
    model: str | None = None
    """A model's name or folder, instead of the game's default model."""
    agent: str | None = None
    """Who plays while no key is held: own (the model's own agent), or the .zip of a Stable-Baselines3 agent."""
    quality: str | None = None
    """fast, paper or fine; for CSGO fast or quality (default: what the model's card says)."""
    seed: int | None = None
    """Seeds every dream that the page does not seed (default: a new one each time)."""
    horizon: int = -1
    """Steps after which a dream restarts; -1 for no limit."""
    fps: int = 15
    """Steps per second (the game itself shows 15 of these a second)."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    precision: Precision = "auto"
    """auto (measured), float32 or bfloat16."""
    compile: bool = False
    """Compile the networks, for faster frames: seconds at first on x86 CPUs, else a minute or two."""
    real: bool = False
    """Play the real game beside the dream, with the same actions; needs ale-py."""
    record: Path | None = None
    """Record from the first step on, into this folder, which train-wm --data can read; where no game or model is named,
    into a folder for each world in it."""
    replay: Path | None = None
    """Replay a recorded action log."""
    host: str = "127.0.0.1"
    """The address to serve at; any but this machine's own lets in others who know the token."""
    port: int | None = None
    """The port (default: 8000, or a free one if that is taken)."""
    no_open: bool = False
    """Do not open a browser."""
    max_sessions: int = 4
    """How many dreams may be played at the same time."""
    terminal: bool = False
    """Play in this terminal instead, in coloured half blocks."""

    def __post_init__(self) -> None:
        check_least(self, seed=0, fps=1, port=1, max_sessions=1)
        check_most(self, fps=60, port=65_535)
        check_horizon(self, "horizon")
        check_quality(self.quality)
        check_agent(self.agent)
        if self.terminal and self.game is None and self.model is None and self.replay is None:
            raise BadArgument("say what to play: diamond-gym play Breakout --terminal, or the name of a model")

    def run(self) -> int:
        """Serves until it is interrupted, or plays in the terminal."""
        agent_file = None if self.agent == OWN else self.agent
        if agent_file is not None and not Path(agent_file).is_file():
            raise BadArgument(f"there is no agent at {agent_file}")
        log = self._log()
        word = self.model or (log.model if log is not None else self.game)
        entry = None if word is None else resolve(word)
        if entry is not None and self.model is not None:
            entry.card.check_game(self.game)
        from diamond_gym.play.recording import check_store
        from diamond_gym.play.settings import Begin
        from diamond_gym.play.worlds import Worlds, check_real, leave_a_core, qualities_of
        from diamond_gym.trainers.worlds import about_of

        if self.real:
            check_real(None if entry is None else entry.card)
        if entry is not None and self.quality not in (None, *(own := qualities_of(entry.card))):
            raise BadArgument(f"--quality must be {' or '.join(own)} for {entry.name}, not {self.quality}")
        if self.record is not None:
            check_store(self.record, None if entry is None else about_of(entry.card))
        leave_a_core()
        begin = Begin(
            seed=secrets.randbits(31) if self.seed is None else self.seed,
            quality=self.quality,
            agent_file=agent_file,
            agent_plays=self.agent is not None,
            horizon=None if self.horizon == -1 else self.horizon,
            real=self.real,
            record=self.record,
            replay=log,
        )
        recorded = {} if log is None else log.settings  # what the same bits need
        precision: Precision = self.precision
        if precision == "auto" and recorded.get("precision") in ("float32", "bfloat16"):
            precision = recorded["precision"]
        worlds = Worlds(self.device, precision, self.compile or recorded.get("compile") is True, entry)
        if self.terminal:
            assert entry is not None
            return self._in_terminal(worlds, entry, begin)
        return self._in_browser(worlds, entry, begin)

    def _log(self) -> "ActionLog | None":
        """The recording to be played again."""
        if self.replay is None:
            return None
        if self.replay.exists() and not self.replay.is_file():
            raise BadArgument(f"{self.replay} is not a file")
        from diamond_gym.play.recording import ActionLog

        return ActionLog.read(self.replay)

    def _in_terminal(self, worlds: "Worlds", entry: "Entry", begin: "Begin") -> int:
        from diamond_gym.play.game import Game
        from diamond_gym.play.terminal import play_in_terminal

        loaded = worlds.take(entry)
        game = Game(loaded, begin)
        try:
            play_in_terminal(game, self.fps)
        finally:
            why = game.close()
            if why:  # also where something else went wrong, whose message follows
                print(why, file=sys.stderr)
        return 1 if why else 0

    def _in_browser(self, worlds: "Worlds", entry: "Entry | None", begin: "Begin") -> int:
        from diamond_gym.play.server import Server
        from diamond_gym.play.serving import listen, serve
        from diamond_gym.play.settings import Settings

        world = None if entry is None else entry.card.game
        server = Server(worlds, Settings(begin, self.seed, world, self.fps, self.host, self.max_sessions))
        listening = listen(self.host, self.port)
        port = listening.getsockname()[1]
        address = address_of(self.host, port, server.token, world)

        def ready() -> None:
            print(f"play at  {address}", flush=True)
            for line in hints(self.host, port, os.environ):
                print(line, flush=True)
            if not self.no_open and has_a_screen(os.environ):
                # aside, as some wait for the browser to end
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        with listening:
            serve(server, listening, ready)
        return 0


def address_of(host: str, port: int, token: str, world: str | None) -> str:
    """The page's address, as a browser on this machine reaches it."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/?token={token}" + ("" if world is None else f"&world={world}")


def has_a_screen(environ: Mapping[str, str]) -> bool:
    """Whether a browser can open a window here; where it cannot, one of text would take the terminal."""
    if "SSH_CONNECTION" in environ:
        return False
    return sys.platform in ("darwin", "win32") or "DISPLAY" in environ or "WAYLAND_DISPLAY" in environ


def hints(host: str, port: int, environ: Mapping[str, str]) -> list[str]:
    """Lines that say how to reach the page from the other end of an SSH connection, and who else can."""
    from diamond_gym.play.guard import is_loopback

    lines = []
    if "SSH_CONNECTION" in environ and is_loopback(host):
        server = environ["SSH_CONNECTION"].split()[2:3] or ["HOST"]
        user = environ.get("USER", "USER")
        lines.append(f"over SSH, on your own machine:  ssh -N -L {port}:localhost:{port} {user}@{server[0]}")
    if not is_loopback(host):
        lines.append("everybody who knows this address and its token can play")
    return [*lines, "Ctrl-C ends it"]
