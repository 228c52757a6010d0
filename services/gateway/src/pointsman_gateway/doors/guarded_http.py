"""HTTP/1.1 as uvicorn speaks it, with an eye on clients that send too much, too slowly, or read nothing."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from pointsman_gateway.doors.hang_up import HUNG_UP, ON_HANG_UP


def _unheard(code: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Guard:
    """What one client may do."""

    connections: int = 2000
    """At once, of all clients; keep it below what the process may open (`ulimit -n`)."""
    headers: int = 100
    header_bytes: int = 32 * 1024
    """Of the request line and all headers."""
    handshake_seconds: float = 10.0
    """For TLS."""
    header_seconds: float = 10.0
    """From connecting, or from a further request's first byte, to the end of its headers."""
    body_seconds: float = 60.0
    """From there to the end of the body."""
    idle_seconds: float = 30.0
    """Between two requests."""
    stalled_seconds: float = 30.0
    """In which a client must read something of an answer that waits for it."""
    refused: Callable[[str], None] = _unheard
    """Hears the code of each refusal."""


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    code: str
    message: str

    def response(self) -> bytes:
        """All that is sent; then the connection is closed."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        body = json.dumps({"error": error}, separators=(",", ":")).encode()
        head = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *(["retry-after: 1"] if self.status == 503 else []),
        ]
        return "\r\n".join([*head, "", ""]).encode() + body


BAD_HTTP = Refusal(400, "bad_http", "this is not HTTP/1.1")
NEVER = float("inf")


class _Unreadable(Exception):
    """Ends the parsing of a request."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. Whoever made it calls `sweep` now and then: no request starts a timer of its own."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], guard: Guard) -> None:
        super().__init__(config, server_state, app_state)
        self.access_log = False  # addresses may hold secrets; uvicorn asks whether any logger listens, not its setting
        self._guard = guard
        self._fed = 0
        """Bytes since headers last ended; of headers that begin in the middle of a read, those of later reads."""
        self._of: object = None
        """The scope of the request of which more is awaited, or of the last one before it."""
        self._awaits_body = False
        self._due = NEVER
        self._must_read = NEVER
        self._refusal = BAD_HTTP

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's is
        if len(self.connections) >= self._guard.connections:
            self.transport = transport
            self._refuse(
                Refusal(503, "too_many_connections", f"{self._guard.connections} connections are open already")
            )
            return
        super().connection_made(transport)
        self._due = self.loop.time() + self._guard.header_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            scope: Any = cycle.scope
            on_hang_up, scope[ON_HANG_UP] = scope.get(ON_HANG_UP), HUNG_UP
            if callable(on_hang_up):
                on_hang_up()

    def data_received(self, data: bytes) -> None:
        self._fed += len(data)
        super().data_received(data)
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:
            self._await_headers()
        elif cycle.response_complete:
            # Something came that is no request yet (an empty line), or a body that nobody wants any more.
            self._await_headers() if self.timeout_keep_alive_task is None else self._await_nothing()
        elif cycle.more_body:
            self._fed = 0
            self._await(body=True, seconds=self._guard.body_seconds)
        else:
            self._await_nothing()

    def on_headers_complete(self) -> None:
        guard = self._guard
        if len(self.headers) > guard.headers:
            self._refusal = _too_large(f"at most {guard.headers} headers")
            raise _Unreadable
        if self._fed > guard.header_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > guard.header_bytes:
                self._refusal = _too_large(f"the request line and all headers have at most {guard.header_bytes} bytes")
                raise _Unreadable
        scope: Any = self.scope
        scope[ON_HANG_UP] = None
        super().on_headers_complete()
        self._fed = 0

    def send_400_response(self, msg: str) -> None:
        """Called where the parser cannot go on."""
        self._refuse(self._refusal)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._must_read = self.loop.time() + self._guard.stalled_seconds

    def resume_writing(self) -> None:
        super().resume_writing()
        self._must_read = NEVER

    def sweep(self, now: float) -> None:
        """Closes the connection where its client is late."""
        if now > self._must_read:
            self._guard.refused("reads_nothing")
            self.transport.abort()
        elif now > self._due:
            guard = self._guard
            if self._waits_for_us():
                self._due = now + guard.header_seconds
            elif self._awaits_body:
                self._refuse(Refusal(408, "slow_body", f"the body did not come within {guard.body_seconds:g} s"))
            else:
                self._refuse(Refusal(408, "slow_headers", f"no headers came within {guard.header_seconds:g} s"))

    def cut(self) -> None:
        """At once, whatever is under way."""
        self.transport.abort()

    def _waits_for_us(self) -> bool:
        """We do not read on, or have not answered the request before yet."""
        before = not self._awaits_body and self.cycle is not None and not self.cycle.response_complete
        return before or self.flow.read_paused

    def _await_headers(self) -> None:
        if self._fed > self._guard.header_bytes:
            most = self._guard.header_bytes
            self._refuse(_too_large(f"the request line and all headers have at most {most} bytes"))
        self._await(body=False, seconds=self._guard.header_seconds)

    def _await(self, *, body: bool, seconds: float) -> None:
        if self._of is not self.scope or self._awaits_body is not body or self._due == NEVER:
            self._of, self._awaits_body = self.scope, body
            self._due = self.loop.time() + seconds

    def _await_nothing(self) -> None:
        self._fed, self._due, self._awaits_body = 0, NEVER, False

    def _refuse(self, refusal: Refusal) -> None:
        if self.transport.is_closing():
            return
        self._guard.refused(refusal.code)
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(refusal.response())
        self.transport.close()


def _too_large(message: str) -> Refusal:
    return Refusal(431, "headers_too_large", message)
