"""Lets a proxy such as Envoy forward a request to the engine that the gateway has chosen.

This applies to requests that a proxy has passed to the gateway for a decision. The proxy forwards one call to an
engine; further calls for the same request, such as retries, use the gateway's own connections.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Protocol

from pointsman_gateway.engines.connection_pool import Origin, Pool
from pointsman_gateway.engines.http1 import MAX_STEP_BYTES, MAX_UNREAD_BYTES, ConnectionFailed, EngineConnection

Headers = Iterable[tuple[bytes, bytes]]


class ForwardedConnection(EngineConnection):
    """A connection to an engine through a proxy, which sends the request and passes on the engine's response."""

    def __init__(self, forward: Callable[[bytes, bytes], None]) -> None:
        """Takes the function that sends the head and the body of a request, both as on an HTTP/1.1 connection."""
        super().__init__()
        self._forward = forward
        self._drained = asyncio.Event()

    def post(self, head: bytes, body: bytes) -> None:
        self.status, self.is_complete = 0, False
        self._forward(head, body)

    def read(self) -> bytes:
        self._drained.set()
        return super().read()

    def close(self) -> None:
        self._drained.set()
        super().close()

    # -- called by the proxy's exchange

    def begin(self, headers: Headers) -> None:
        """Receives the headers of the engine's response, as (name, value) pairs. Names are in lower case; the status
        code is the header `:status`.
        """
        status = 0
        for name, value in headers:
            if name == b":status":
                status = int(value)
            else:
                self.on_header(name, value)
        self.status = status
        self._wake()

    async def feed(self, body: bytes) -> None:
        """Receives a part of the response's body.

        Returns only once at most `MAX_UNREAD_BYTES` are buffered, so that the proxy cannot send faster than the gateway
        reads (backpressure).
        """
        if self.is_complete:
            return
        pieces = [body[at : at + MAX_STEP_BYTES] for at in range(0, len(body), MAX_STEP_BYTES)]
        self._pieces.extend(pieces)
        self.unread += len(body)
        self._last = self._loop.time()
        self._wake()
        while self.unread > MAX_UNREAD_BYTES and self.on_event is not None:
            self._drained.clear()
            await self._drained.wait()

    def end(self) -> None:
        """Records that the engine's response is complete."""
        if not self.is_complete:
            self.is_complete = True
            self._wake()

    def lose(self) -> None:
        """Fails the connection with ConnectionFailed, because the proxy has dropped the request before the
        response's end.
        """
        if not self.is_complete:
            self._fail(ConnectionFailed("the proxy dropped the request"))


class ForwardingExchange(Protocol):
    """Interface of one request that a proxy has passed to the gateway, and can forward to an engine once."""

    def take(self, origin: Origin) -> ForwardedConnection | None:
        """Returns a connection through the proxy to the engine at the address `origin`.

        Returns None if this request's connection through the proxy was taken before.
        """
        ...


current_exchange: ContextVar[ForwardingExchange | None] = ContextVar("current_exchange", default=None)
"""The exchange with the proxy that has passed the current request to the gateway; None if the request came without a
proxy."""


class ForwardingPool(Pool):
    """A connection pool that sends a request's first call to an engine through the proxy from which the request came.

    Further calls, and requests that came without a proxy, use the pool's own connections.
    """

    def idle(self, origin: Origin) -> EngineConnection | None:
        exchange = current_exchange.get()
        forwarded = exchange.take(origin) if exchange is not None else None
        return super().idle(origin) if forwarded is None else forwarded

    def release(self, origin: Origin, connection: EngineConnection) -> None:
        if isinstance(connection, ForwardedConnection):
            connection.finish(lambda: None)
        else:
            super().release(origin, connection)
