"""Sends a request to its engine through the proxy that asked for a decision, such as Envoy.

The proxy's exchange is in the request's context. It carries one request: further ones, such as retries on another
engine, use connections of ours.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Protocol

from pointsman_gateway.engines.connection_pool import Origin, Pool
from pointsman_gateway.engines.http1 import MAX_STEP_BYTES, MAX_UNREAD_BYTES, ConnectionFailed, EngineConnection

Headers = Iterable[tuple[bytes, bytes]]


class ForwardedConnection(EngineConnection):
    """A response that a proxy passes on as it gets it from the engine."""

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
        """Receives the response's headers; names are in lower case, and `:status` is the status."""
        status = 0
        for name, value in headers:
            if name == b":status":
                status = int(value)
            else:
                self.on_header(name, value)
        self.status = status
        self._wake()

    async def feed(self, body: bytes) -> None:
        """Receives a part of the response's body; waits while too much is unread."""
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
        """Receives the response's end."""
        if not self.is_complete:
            self.is_complete = True
            self._wake()

    def lose(self) -> None:
        """Receives that the proxy has dropped the exchange."""
        if not self.is_complete:
            self._fail(ConnectionFailed("the proxy dropped the request"))


class ForwardingExchange(Protocol):
    """Interface of the proxy's exchange of one request and its response."""

    def take(self, origin: Origin) -> ForwardedConnection | None:
        """Returns the connection through the proxy to the engine at `origin`; None if it was taken before."""
        ...


current_exchange: ContextVar[ForwardingExchange | None] = ContextVar("current_exchange", default=None)
"""The exchange of the request that is handled in this context; None if it came directly."""


class ForwardingPool(Pool):
    """A pool whose first connection for a request that came through a proxy goes through that proxy."""

    def idle(self, origin: Origin) -> EngineConnection | None:
        exchange = current_exchange.get()
        forwarded = exchange.take(origin) if exchange is not None else None
        return super().idle(origin) if forwarded is None else forwarded

    def release(self, origin: Origin, connection: EngineConnection) -> None:
        if isinstance(connection, ForwardedConnection):
            connection.finish(lambda: None)
        else:
            super().release(origin, connection)
