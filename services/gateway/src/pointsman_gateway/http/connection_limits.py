"""Limits of HTTP connections, the responses to requests that exceed them, and unread request bodies.

An answer that needs no body (such as 401) is sent while the client is still sending the body. A socket that is closed
with unread data resets the connection, and some clients then lose the answer. Therefore the rest of the body is
discarded, within limits, before the connection is closed.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from pointsman_gateway.http.dialects.registry import dialect_at

MAX_DISCARDED_BYTES = 9 * 1024 * 1024
"""Maximum number of bytes of a request that are read only to be discarded: the size of the largest body with its
framing. Discarding 1 MiB takes half a millisecond, all of it in the kernel."""
DISCARD_SECONDS = 10.0
"""Seconds for which the rest of a request's body is discarded before the connection is aborted."""
RESERVED_CONNECTIONS = 16
"""Connections beyond `max_connections`, for health checks while all others are in use by clients with keys."""
READ_ANSWER_SECONDS = 1.0
"""Seconds after which the connection of a client that has sent more than `MAX_DISCARDED_BYTES` is aborted. In this
time, the client can read its answer."""


def _ignore_rejection(code: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits on HTTP connections; times are in seconds."""

    max_connections: int = 2000
    """Maximum number of concurrent connections of all clients together; all other limits are of one connection."""
    max_headers: int = 100
    max_header_bytes: int = 32 * 1024
    """Maximum number of bytes of the request line and all headers together."""
    handshake_timeout: float = 10.0
    """Time limit of the TLS handshake."""
    header_timeout: float = 10.0
    """Time limit of a request's headers, from connecting or from the first byte of a further request."""
    body_timeout: float = 60.0
    """Time limit of a request's body, from the end of the headers."""
    idle_timeout: float = 30.0
    """How long a connection may be idle between two requests."""
    stall_timeout: float = 30.0
    """Time after which a connection is closed because its client has not read enough of an answer to make room in the
    send buffer."""
    on_rejection: Callable[[str], None] = _ignore_rejection
    """Called with the error code of each rejection."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An error response to a request that breaks a limit; the connection is closed after it."""

    status: int
    code: str
    message: str

    def response(self, target: bytes) -> bytes:
        """Returns the HTTP response as bytes. Its error has the format of the API to which `target`, the request's
        path and query, belongs.
        """
        error_format = dialect_at(target.decode("latin-1")).error_format
        content = error_format.encode_rejection(self.status, self.code, self.message)
        body = json.dumps(content, separators=(",", ":")).encode()
        head = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
            *(["retry-after: 1"] if self.status == 503 else []),
        ]
        return "\r\n".join([*head, "", ""]).encode() + body


BAD_HTTP = Rejection(400, "bad_http", "this is not HTTP/1.1")
BAD_TRANSFER_ENCODING = Rejection(400, "bad_transfer_encoding", "the only Transfer-Encoding known here is 'chunked'")
TRAILERS_TOO_LARGE = Rejection(400, "trailers_too_large", "there is too much between two chunks, or after the last one")


def headers_too_large(message: str) -> Rejection:
    return Rejection(431, "headers_too_large", message)


class DiscardingTransport:
    """A transport that uvicorn gets while a request's body is incomplete: its `close` calls the function `end`, and
    does not close the connection.

    The function `end` can therefore discard the rest of the body first, and then close the real transport.
    """

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = end

    def release(self) -> None:
        """Breaks the reference cycle with the connection after the connection is lost."""
        self.close = _do_nothing


class UnreadBody:
    """Discards the rest of a request's body that arrives after the answer, up to `MAX_DISCARDED_BYTES`.

    Its owner passes all bytes that it reads to `discard`, and aborts the connection at the time `deadline`.
    """

    def __init__(self, transport: asyncio.Transport, clock: Callable[[], float]) -> None:
        """Half-closes the connection of `transport` (not with TLS), which shows the client that the answer is complete.

        `clock` returns the event loop's time in seconds.
        """
        self._transport = transport
        self._clock = clock
        self._left = MAX_DISCARDED_BYTES
        self.deadline = clock() + DISCARD_SECONDS
        """The time on `clock` at which the owner aborts the connection."""
        if transport.can_write_eof():
            transport.write_eof()

    def discard(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.pause_reading()
            self.deadline = min(self.deadline, self._clock() + READ_ANSWER_SECONDS)


def _do_nothing() -> None:
    pass
