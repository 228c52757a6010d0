"""Requests to engines whose response is needed as a whole: POST for embeddings, GET for the list of models."""

from collections.abc import Callable
from math import inf
from urllib.parse import urlsplit

from pointsman_servicekit.logs import request_id

from pointsman_gateway.engines.http1 import Connection, ConnectionFailed, Origin, Pool, TimedOut, origin_of
from pointsman_gateway.pipeline.ports import HttpReply, HttpUnreachable

CONNECT_SECONDS = 2.0
"""Time for an engine to accept a connection."""


class PooledPoster:
    """Implements `HttpPoster` with the engines' connection pool."""

    def __init__(self, pool: Pool, trace_headers: Callable[[], str]) -> None:
        """`trace_headers` returns header lines with the trace context of the current request."""
        self._pool = pool
        self._trace_headers = trace_headers

    async def post(self, url: str, auth_header: str, body: bytes, deadline: float, max_bytes: int) -> HttpReply:
        return await self._send("POST", url, auth_header, body, deadline, max_bytes)

    async def get(self, url: str, auth_header: str, deadline: float, max_bytes: int) -> HttpReply:
        """As `post`, without a body."""
        return await self._send("GET", url, auth_header, b"", deadline, max_bytes)

    async def _send(
        self, method: str, url: str, auth_header: str, body: bytes, deadline: float, max_bytes: int
    ) -> HttpReply:
        origin = origin_of(url)
        query = f"?{query}" if (query := urlsplit(url).query) else ""
        head = (
            f"{method} {origin.path}{query} HTTP/1.1\r\n{origin.headers}x-request-id: {request_id.get()}\r\n"
            f"{self._trace_headers()}{auth_header}"
        ).encode("latin-1")
        try:
            return await self._send_on_pool(origin, head, body, deadline, max_bytes)
        except ConnectionFailed as error:
            raise HttpUnreachable(str(error)) from error

    async def _send_on_pool(
        self, origin: Origin, head: bytes, body: bytes, deadline: float, max_bytes: int
    ) -> HttpReply:
        connection = self._pool.idle(origin)
        if connection is not None:
            try:
                return await self._exchange(connection, origin, head, body, deadline, max_bytes)
            except TimedOut:
                raise
            except ConnectionFailed:
                if connection.status:
                    raise
                # The engine closed the idle connection before it got the request: retry on a new one.
        connection = await self._pool.connect(origin, CONNECT_SECONDS, deadline)
        return await self._exchange(connection, origin, head, body, deadline, max_bytes)

    async def _exchange(
        self, connection: Connection, origin: Origin, head: bytes, body: bytes, deadline: float, max_bytes: int
    ) -> HttpReply:
        try:
            connection.post(head, body)
            connection.set_timeouts(inf, deadline)
            pieces = await _read_body(connection, max_bytes)
        except BaseException:
            connection.close()
            raise
        reply = HttpReply(connection.status, pieces, connection.retry_after, connection.location)
        self._pool.release(origin, connection)
        return reply


async def _read_body(connection: Connection, max_bytes: int) -> tuple[bytes, ...]:
    pieces, size = [], 0
    while True:
        piece = connection.read()
        if piece:
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise ConnectionFailed(f"its answer is over {max_bytes} bytes")
        if connection.status and connection.is_complete:
            return tuple(pieces)
        if connection.failure is not None:
            raise type(connection.failure)(*connection.failure.args)
        await connection.wait_for_event()
