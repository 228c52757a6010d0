"""Where HTTP comes in: each request gets its id, its key is checked before its body is read, and it goes to its route.

The hot route (chat completions) leads straight to its handler; all others go through FastAPI.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pointsman_servicekit.errors import InvalidArgument, PointsmanError
from pointsman_servicekit.logs import request_id
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pointsman_gateway.codec.headers import CALLER, caller_of
from pointsman_gateway.codec.limits import LIMITS, check_body
from pointsman_gateway.http.asgi_answer import ClientGone, send_error
from pointsman_gateway.http.openai.chat_encoder import Headers
from pointsman_gateway.pipeline.ports import Tenancy

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""Served to anybody, in addition to the console's static files. Every other path needs a key if keys are on."""

Route = Callable[["Call"], Awaitable[None]]

TurnedAway = Callable[[Scope, PointsmanError], None]
"""Called with each request that is refused here."""


def needs_key(path: str) -> bool:
    is_console_file = path == "/console" or (path.startswith("/console/") and not path.startswith("/console/api/"))
    return path not in OPEN_PATHS and not is_console_file


class Call:
    """One HTTP request on the hot route."""

    __slots__ = ("arrived", "headers", "receive", "scope", "send", "sent_beside")

    def __init__(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[bytes, bytes], name: str) -> None:
        self.arrived = time.perf_counter()
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers = headers
        self.sent_beside: Headers = [(b"x-request-id", name.encode())]

    async def body(self) -> bytes:
        """Raises InvalidArgument if it breaks a limit, ClientGone if the client disconnects before its end."""
        return await read_body(self.receive, self.headers)


async def read_body(receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
    """The whole body, checked against the limits.

    A body that is too long is refused as soon as that is known; the connection discards what still comes of it.
    Raises InvalidArgument, or ClientGone if the client disconnects before the end of the body.
    """
    if int(headers.get(b"content-length", b"0")) > LIMITS.bytes:
        raise _too_large()
    pieces: list[bytes] = []
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        piece, more = message.get("body", b""), message.get("more_body", False)
        pieces.append(piece)
        length += len(piece)
        if length > LIMITS.bytes:
            raise _too_large()
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    check_body(body)
    return body


class Edge:
    """The outermost ASGI application."""

    def __init__(
        self, app: ASGIApp, tenancy: Tenancy, hot: Mapping[tuple[str, str], Route], turned_away: TurnedAway
    ) -> None:
        """`hot` are handlers by method and path; they check the key themselves, before they read the body."""
        self._app = app
        self._tenancy = tenancy
        self._hot = hot
        self._turned_away = turned_away

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        name = name_of(headers.get(b"x-request-id"))
        token = request_id.set(name)
        try:
            route = self._hot.get((scope["method"], scope["path"]))
            if route is not None:
                await route(Call(scope, receive, send, headers, name))
            else:
                await self._serve(scope, receive, _SendWithId(send, name.encode()), headers)
        finally:
            request_id.reset(token)

    async def _serve(self, scope: Scope, receive: Receive, send: "_SendWithId", headers: Mapping[bytes, bytes]) -> None:
        """Through FastAPI, which reads the body only after the key has been checked here."""
        try:
            if needs_key(scope["path"]):
                shown = headers.get(b"authorization", b"").decode("latin-1")
                scope[CALLER] = await caller_of(self._tenancy, shown)
            await self._app(scope, _ReceiveWhole(receive, headers), send)
        except Exception as error:
            if send.has_ended:
                return  # Starlette raises again what it has answered
            if send.has_begun or not isinstance(error, PointsmanError):
                raise
            self._turned_away(scope, error)
            await send_error(send, error, [])


def name_of(given: bytes | None) -> str:
    """The id that the client gave its request, if it is usable; else a new one."""
    if given:
        name = given[:64].decode("latin-1")
        if name.isascii() and name.isprintable():
            return name
    return secrets.token_hex(8)


class _ReceiveWhole:
    """Hands the body on in one piece, once it has been checked."""

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes]) -> None:
        self._receive = receive
        self._headers = headers
        self._has_read = False

    async def __call__(self) -> Message:
        if self._has_read:
            return await self._receive()
        try:
            body = await read_body(self._receive, self._headers)
        except ClientGone:
            return {"type": "http.disconnect"}
        finally:
            self._has_read = True
        return {"type": "http.request", "body": body, "more_body": False}


class _SendWithId:
    """Adds the request's id to the response, and records how far the response has come."""

    def __init__(self, send: Send, name: bytes) -> None:
        self._send = send
        self._name = name
        self.has_begun = self.has_ended = False

    async def __call__(self, message: Any) -> None:
        self.has_ended = message["type"] == "http.response.body" and not message.get("more_body")
        if message["type"] == "http.response.start":
            self.has_begun = True
            message["headers"] = [*message["headers"], (b"x-request-id", self._name)]
        await self._send(message)


def _too_large() -> InvalidArgument:
    return InvalidArgument(f"the body is over {LIMITS.bytes} bytes", code="body_too_large")
