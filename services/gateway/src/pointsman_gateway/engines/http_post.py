"""A POST to an engine whose answer is wanted as a whole: for embeddings."""

from collections.abc import Callable
from math import inf

from pointsman_servicekit.logs import request_id

from pointsman_gateway.engines.http1 import Connection, ConnectionFailed, Origin, Pool, TimedOut, origin_of
from pointsman_gateway.pipeline.ports import HttpReply, HttpUnreachable

CONNECT_SECONDS = 2.0
"""Seconds that an engine gets to accept a connection."""


class PooledPoster:
    """Implements `HttpPoster` with the engines' pool of connections."""

    def __init__(self, pool: Pool, headers: Callable[[], str]) -> None:
        """`headers`: more lines for each request's head."""
        self._pool = pool
        self._headers = headers

    async def post(self, url: str, api_key: str, body: bytes, deadline: float, max_bytes: int) -> HttpReply:
        try:
            return await self._post(url, api_key, body, deadline, max_bytes)
        except ConnectionFailed as error:
            raise HttpUnreachable(str(error)) from error

    async def _post(self, url: str, api_key: str, body: bytes, deadline: float, max_bytes: int) -> HttpReply:
        origin = origin_of(url)
        head = _head(origin, api_key, self._headers())
        connection = self._pool.idle(origin)
        if connection is not None:
            try:
                return await self._exchange(connection, origin, head, body, deadline, max_bytes)
            except TimedOut:
                raise
            except ConnectionFailed:
                if connection.status:
                    raise
                # The engine closed the idle connection as the request went out: it has done nothing yet.
        connection = await self._pool.connect(origin, CONNECT_SECONDS, deadline)
        return await self._exchange(connection, origin, head, body, deadline, max_bytes)

    async def _exchange(
        self, connection: Connection, origin: Origin, head: bytes, body: bytes, deadline: float, max_bytes: int
    ) -> HttpReply:
        try:
            connection.post(head, body)
            connection.limit(inf, deadline)
            pieces = await _read(connection, max_bytes)
        except BaseException:
            connection.close()
            raise
        wait = connection.retry_after
        reply = HttpReply(connection.status, pieces, float(wait) if wait.isdecimal() else None)
        self._pool.release(origin, connection)
        return reply


async def _read(connection: Connection, max_bytes: int) -> tuple[bytes, ...]:
    pieces, size = [], 0
    while True:
        piece = connection.taken()
        if piece:
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise ConnectionFailed(f"its answer is over {max_bytes} bytes")
        if connection.status and connection.complete:
            return tuple(pieces)
        if connection.failure is not None:
            raise type(connection.failure)(*connection.failure.args)
        await connection.news()


def _head(origin: Origin, api_key: str, more: str) -> bytes:
    key = f"authorization: Bearer {api_key}\r\n" if api_key else ""
    return (
        f"POST {origin.path} HTTP/1.1\r\n{origin.head}content-type: application/json\r\n"
        f"accept-encoding: identity\r\nx-request-id: {request_id.get()}\r\n{more}{key}"
    ).encode("latin-1")
