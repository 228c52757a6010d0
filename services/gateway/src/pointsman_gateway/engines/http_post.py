"""HTTP requests to engines whose response is needed as a whole: embeddings, lists of models, and counts of tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from urllib.parse import urlsplit

from pointsman_servicekit.logs import request_id

from pointsman_gateway.engines.connection_pool import Origin, Pool, origin_of
from pointsman_gateway.engines.http1 import ConnectionFailed, EngineConnection, TimedOut
from pointsman_gateway.extensions.http_poster import HttpReply, HttpUnreachable

CONNECT_SECONDS = 2.0
"""Seconds for an engine to accept a connection."""


Reserve = Callable[[int], None]
"""Function that reserves memory for a number of bytes of a response. If it raises a PointsmanError, the request ends
with this error."""


class PooledPoster:
    """Sends HTTP requests over the connection pool of the engines, and returns whole responses; implements
    `HttpPoster`.
    """

    def __init__(self, pool: Pool, trace_headers: Callable[[], str]) -> None:
        """Takes `trace_headers`, which returns the header lines with the current request's trace context."""
        self._pool = pool
        self._trace_headers = trace_headers

    async def post(
        self,
        url: str,
        auth_header: str,
        body: bytes,
        deadline: float,
        max_bytes: int,
        reserve: Reserve | None = None,
    ) -> HttpReply:
        return await self._send("POST", url, auth_header, body, deadline, _Limit(max_bytes, reserve))

    async def get(self, url: str, auth_header: str, deadline: float, max_bytes: int) -> HttpReply:
        """Sends a GET request; returns the response whatever its status is, and follows no redirects.

        `auth_header` is a whole header line, or empty. Raises HttpUnreachable if there is no connection within
        `CONNECT_SECONDS`, if the connection is lost, or if the response is not complete by `deadline` (on the event
        loop's clock) or has a body of more than `max_bytes`.
        """
        return await self._send("GET", url, auth_header, b"", deadline, _Limit(max_bytes))

    async def _send(
        self, method: str, url: str, auth_header: str, body: bytes, deadline: float, limit: "_Limit"
    ) -> HttpReply:
        origin = origin_of(url)
        query = f"?{query}" if (query := urlsplit(url).query) else ""
        head = (
            f"{method} {origin.path}{query} HTTP/1.1\r\n{origin.headers}x-request-id: {request_id.get()}\r\n"
            f"{self._trace_headers()}{auth_header}"
        ).encode("latin-1")
        try:
            return await self._send_on_pool(origin, head, body, deadline, limit)
        except ConnectionFailed as error:
            raise HttpUnreachable(str(error)) from error

    async def _send_on_pool(
        self, origin: Origin, head: bytes, body: bytes, deadline: float, limit: "_Limit"
    ) -> HttpReply:
        connection = self._pool.idle(origin)
        if connection is not None:
            try:
                return await self._exchange(connection, origin, head, body, deadline, limit)
            except TimedOut:
                raise
            except ConnectionFailed:
                if connection.status:
                    raise
                # The engine closed the idle connection before it got the request: retry on a new one.
        connection = await self._pool.connect(origin, CONNECT_SECONDS, deadline)
        return await self._exchange(connection, origin, head, body, deadline, limit)

    async def _exchange(
        self, connection: EngineConnection, origin: Origin, head: bytes, body: bytes, deadline: float, limit: "_Limit"
    ) -> HttpReply:
        try:
            connection.post(head, body)
            connection.set_timeouts(inf, deadline)
            pieces = await _read_body(connection, limit)
        except BaseException:
            connection.close()
            raise
        reply = HttpReply(connection.status, pieces, connection.retry_after, connection.location)
        self._pool.release(origin, connection)
        return reply


@dataclass(frozen=True, slots=True)
class _Limit:
    """The limits of a response's body: its size, and `reserve`, which is called with the length of each piece."""

    max_bytes: int
    reserve: Reserve | None = None


async def _read_body(connection: EngineConnection, limit: _Limit) -> tuple[bytes, ...]:
    pieces, size = [], 0
    while True:
        piece = connection.read()
        if piece:
            pieces.append(piece)
            size += len(piece)
            if size > limit.max_bytes:
                raise ConnectionFailed(f"its answer is over {limit.max_bytes} bytes")
            if limit.reserve is not None:
                limit.reserve(len(piece))
        if connection.status and connection.is_complete:
            return tuple(pieces)
        if connection.failure is not None:
            raise type(connection.failure)(*connection.failure.args)
        await connection.wait_for_event()
