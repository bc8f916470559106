"""The check that a request knows the token and comes from the server's own page."""

import contextlib
import ipaddress
import secrets
import socket
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; connect-src 'self' ws: wss:; "
     b"object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]  # fmt: skip


class Guard:
    """Lets those in who know the token and come from here; everything else is refused before it is looked at.

    Args:
        app: What is behind it.
        token: The token in the address.
        host: The address that the server is bound to.
    """

    def __init__(self, app: ASGIApp, token: str, host: str) -> None:
        self._app, self._token = app, token.encode()
        self._names = {"localhost"} if is_loopback(host) else {"localhost", socket.gethostname().lower(), host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        problem = self._problem(HTTPConnection(scope))

        async def send_with_headers(event: Message) -> None:
            if event["type"] == "http.response.start":
                event = {**event, "headers": [*event["headers"], *_HEADERS]}
            await send(event)

        if problem is None:
            await self._app(scope, receive, send_with_headers)
        elif scope["type"] == "http":
            await PlainTextResponse(problem, 403)(scope, receive, send_with_headers)
        else:
            await WebSocket(scope, receive, send).close(1008)  # before it is accepted: status 403

    def _problem(self, request: HTTPConnection) -> str | None:
        hosts, origins = request.headers.getlist("host"), request.headers.getlist("origin")
        if len(hosts) != 1 or not self._is_here(hosts[0]):
            return "this host is not served here"
        if origins and (len(origins) > 1 or not _same(origins[0], hosts[0])):
            return "requests from other sites are refused"
        if request.url.path.startswith("/static/"):
            return None
        given = request.query_params.get("token", "")
        if not secrets.compare_digest(given.encode("utf-8", "surrogatepass"), self._token):
            return "the token is missing or wrong: use the address that diamond-gym play printed"
        return None

    def _is_here(self, host: str) -> bool:
        """Whether a Host names this machine. A number always does: only names can be made to lead here."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self._names:
            return True
        with contextlib.suppress(ValueError):
            return not name.endswith(".") and ipaddress.ip_address(name) is not None
        return False


def _same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
