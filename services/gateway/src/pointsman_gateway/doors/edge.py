"""Where HTTP comes in: each request gets its id, a bound on its body, and goes to its route.

The hot route (chat completions) leads straight to its handler; all others go through FastAPI.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pointsman_servicekit.errors import InvalidArgument, PointsmanError
from pointsman_servicekit.logs import request_id
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pointsman_gateway.doors.asgi_answer import send_error
from pointsman_gateway.doors.hang_up import ClientGone
from pointsman_gateway.doors.limits import LIMITS, check_body
from pointsman_gateway.doors.openai_answers import Headers

MOST_DISCARDED = 4 * LIMITS.bytes
"""Bytes that are read of a body that is too long: a client still sending when its connection closes reads no answer."""

Route = Callable[["Call"], Awaitable[None]]

TurnedAway = Callable[[Scope, PointsmanError], None]
"""Hears of a request that is refused here."""


def _nobody_hears(scope: Scope, error: PointsmanError) -> None:
    pass


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
        """Raises InvalidArgument where it is too large, ClientGone where it never comes to its end."""
        message = await self.receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            return _bounded(message.get("body", b""))
        pieces, length = [], 0
        while True:
            if message["type"] != "http.request":
                raise ClientGone
            pieces.append(message.get("body", b""))
            length += len(pieces[-1])
            if length > LIMITS.bytes:
                pieces.clear()
            if not message.get("more_body") or length > MOST_DISCARDED:
                break
            message = await self.receive()
        if length > LIMITS.bytes:
            raise _too_large()
        return b"".join(pieces)


def _bounded(body: bytes) -> bytes:
    if len(body) > LIMITS.bytes:
        raise _too_large()
    return body


class Edge:
    """The outermost ASGI application."""

    def __init__(
        self, app: ASGIApp, hot: Mapping[tuple[str, str], Route], turned_away: TurnedAway = _nobody_hears
    ) -> None:
        """`hot` by method and path."""
        self._app = app
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
                await _Checked(self._app, name.encode(), headers, self._turned_away)(scope, receive, send)
        finally:
            request_id.reset(token)


def name_of(given: bytes | None) -> str:
    """The client's own name for the request, where it is one; else one of ours."""
    if given:
        name = given[:64].decode("latin-1")
        if name.isascii() and name.isprintable():
            return name
    return secrets.token_hex(8)


class _Checked:
    """FastAPI's application, with the request's id on every answer and a bound on every body."""

    def __init__(self, app: ASGIApp, name: bytes, headers: Mapping[bytes, bytes], turned_away: TurnedAway) -> None:
        self._app = app
        self._name = name
        self._turned_away = turned_away
        self._headers = headers
        self._begun = self._complete = False
        self._read = 0
        self._body = bytearray()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_id(message: Any) -> None:
            await send(self._with_id(message))

        async def receive_so_much() -> Message:
            message = await receive()
            self._read += len(message.get("body", b""))
            if self._read > LIMITS.bytes:
                raise _too_large()
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                check_body(bytes(self._body))
            return message

        try:
            if int(self._headers.get(b"content-length", b"0")) > LIMITS.bytes:
                raise _too_large()
            await self._app(scope, receive_so_much, send_with_id)
        except Exception as error:
            if self._complete:
                return  # Starlette raises again what it has answered
            if self._begun or not isinstance(error, PointsmanError):
                raise
            self._turned_away(scope, error)
            if error.code == "body_too_large":
                await self._discard(receive)
            await send_error(send_with_id, error, [])

    async def _discard(self, receive: Receive) -> None:
        """The rest of a body that is too long."""
        more = True
        while more and self._read <= MOST_DISCARDED:
            message = await receive()
            self._read += len(message.get("body", b""))
            more = message.get("more_body", False)

    def _with_id(self, message: Any) -> Any:
        self._complete = message["type"] == "http.response.body" and not message.get("more_body")
        if message["type"] == "http.response.start":
            self._begun = True
            message["headers"] = [*message["headers"], (b"x-request-id", self._name)]
        return message


def _too_large() -> InvalidArgument:
    return InvalidArgument(f"the body is over {LIMITS.bytes} bytes", code="body_too_large")
