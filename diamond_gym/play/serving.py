"""From an address to a server that answers there, until it is interrupted."""

import contextlib
import socket
from collections.abc import Callable

import uvicorn
import websockets  # noqa: F401  (uvicorn serves no WebSockets without it, and does not say so)

from diamond_gym.errors import BadArgument
from diamond_gym.play.protocol import MESSAGE_BYTES
from diamond_gym.play.server import Server

_PORT = 8000


class Running(uvicorn.Server):
    """A server that answers; it says good-bye to players before it closes their connections.

    Args:
        server: What to serve.
        ready: Called once it can be reached.
    """

    def __init__(self, server: Server, ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                server.app,
                log_level="error",
                lifespan="off",
                access_log=False,
                server_header=False,
                ws_max_size=MESSAGE_BYTES,
                ws_per_message_deflate=False,
                limit_concurrency=64,
                timeout_graceful_shutdown=3,
            )
        )
        self._server, self._ready = server, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        self._server.start()
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends all sessions, and then the connections."""
        await self._server.close()
        await super().shutdown(sockets)


def listen(host: str, port: int | None) -> socket.socket:
    """A socket to listen on; without a port 8000, or any other if that is taken.

    Raises:
        BadArgument: The address or the port cannot be had.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reason = "no host is named"
    for wanted in () if not host else (_PORT, 0) if port is None else (port,):
        try:
            listening.bind((host, wanted))
            return listening
        except (OSError, UnicodeError, ValueError, TypeError) as error:  # the latter of hosts that are no words
            reason = getattr(error, "strerror", None) or "no such host"
    listening.close()
    raise BadArgument(f"cannot serve at {host[:100]}:{port or _PORT} ({reason}); choose another --port or --host")


def serve(server: Server, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serves at a socket until it is interrupted; `ready` is called once it can be reached."""
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        Running(server, ready).run(sockets=[listening])
