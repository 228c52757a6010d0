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

from pointsman_gateway.http.asgi_answer import HUNG_UP, ON_HANG_UP
from pointsman_gateway.http.connection_limits import DiscardingTransport, UnreadBody


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
BAD_TRANSFER_ENCODING = Refusal(400, "bad_transfer_encoding", "the only Transfer-Encoding known here is 'chunked'")
TOO_MANY_TRAILERS = Refusal(400, "trailers_too_large", "there is too much between two chunks, or after the last one")
NEVER = float("inf")

SINGLE_HEADERS = (b"authorization", b"host")
"""A proxy in front may read the first of two, and this gateway the last: both are refused."""


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
        self._has_headers = False
        """Whether the current request's headers are complete: what the parser then calls headers are trailers."""
        self._trailers = 0
        self._trailer_bytes = 0
        self._has_body_come = False
        """Whether the last read had a part of the body."""
        self._without_body = 0
        """Bytes since then: chunk extensions and trailers."""
        self._discarding: DiscardingTransport | None = None
        self._unread: UnreadBody | None = None
        """Not None once the rest of a body is discarded."""
        self._keeps_alive = False
        """What uvicorn said of the connection before its request's body was found to be incomplete."""

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
        if self._discarding is not None:
            self._discarding.release()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            scope: Any = cycle.scope
            on_hang_up, scope[ON_HANG_UP] = scope.get(ON_HANG_UP), HUNG_UP
            if callable(on_hang_up):
                on_hang_up()

    def data_received(self, data: bytes) -> None:
        if self._unread is not None:
            self._unread.discard(data)
            return
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
            self._bound_what_is_no_body(len(data))
            self._answer_without_the_body()
            self._await(body=True, seconds=self._guard.body_seconds)
        else:
            self._await_nothing()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_headers:
            super().on_header(name, value)
            return
        # Trailers are counted and dropped: merged into the headers, a key in them would count as one.
        self._trailers += 1
        self._trailer_bytes += len(name) + len(value) + 4
        if self._trailers > self._guard.headers or self._trailer_bytes > self._guard.header_bytes:
            self._refusal = TOO_MANY_TRAILERS
            raise _Unreadable

    def on_body(self, body: bytes) -> None:
        self._has_body_come = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._has_headers = False
        cycle: Any = self.cycle
        if cycle is not None and cycle.transport is self._discarding and not cycle.response_started:
            cycle.keep_alive = self._keeps_alive

    def on_headers_complete(self) -> None:
        guard = self._guard
        if len(self.headers) > guard.headers:
            self._refusal = _too_large(f"at most {guard.headers} headers")
            raise _Unreadable
        self._refuse_ambiguous_headers()
        if self._fed > guard.header_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > guard.header_bytes:
                self._refusal = _too_large(f"the request line and all headers have at most {guard.header_bytes} bytes")
                raise _Unreadable
        scope: Any = self.scope
        scope[ON_HANG_UP] = None
        super().on_headers_complete()
        self._fed = 0
        self._has_headers = self._has_body_come = True
        self._trailers = self._trailer_bytes = self._without_body = 0

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
        elif self._unread is not None:
            if now > self._unread.due:
                self.transport.abort()
        elif now > self._due:
            guard = self._guard
            if self._waits_for_us():
                self._due = now + guard.header_seconds
            elif self._awaits_body:
                self._refuse(Refusal(408, "slow_body", f"the body did not come within {guard.body_seconds:g} s"))
            else:
                self._refuse(Refusal(408, "slow_headers", f"no headers came within {guard.header_seconds:g} s"))

    def shutdown(self) -> None:
        super().shutdown()
        self._keeps_alive = False

    def cut(self) -> None:
        """At once, whatever is under way."""
        self.transport.abort()

    def _refuse_ambiguous_headers(self) -> None:
        """Raises _Unreadable if another server could take the request for one with another key, host or body."""
        names = [name for name, _ in self.headers]
        for name in SINGLE_HEADERS:
            if names.count(name) > 1:
                self._refusal = Refusal(400, "duplicate_header", f"there are two '{name.decode()}' headers; send one")
                raise _Unreadable
        if b"transfer-encoding" in names:
            encodings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
            if encodings != [b"chunked"]:
                self._refusal = BAD_TRANSFER_ENCODING
                raise _Unreadable

    def _bound_what_is_no_body(self, read: int) -> None:
        """Bounds trailers and chunk extensions that the parser has not passed on yet, since they have no end so far."""
        self._without_body = 0 if self._has_body_come else self._without_body + read
        self._has_body_come = False
        if self._without_body > self._guard.header_bytes:
            self._refuse(TOO_MANY_TRAILERS)

    def _answer_without_the_body(self) -> None:
        """Lets an answer that needs no body (401) be sent at once: it closes the connection, and the rest is discarded.

        Undone in `on_message_complete` if the body comes to its end before the answer begins.
        """
        cycle: Any = self.cycle
        if self._discarding is None:
            self._discarding = DiscardingTransport(self.transport, self._close_or_discard)
        if cycle.transport is not self._discarding:
            cycle.transport = self._discarding
            self._keeps_alive, cycle.keep_alive = cycle.keep_alive, False

    def _close_or_discard(self) -> None:
        """Ends the connection after an answer."""
        if not self.cycle.more_body:
            self.transport.close()
        elif self._unread is None:
            self._unread = UnreadBody(self.transport, self.loop.time)

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
