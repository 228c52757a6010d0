"""Ends a connection after an answer that needed no body, such as 401, while its client is still sending the body.

A socket that is closed with unread data resets the connection, and some clients then lose the answer. So what still
comes is discarded, within bounds, before the connection is closed.
"""

import asyncio
from collections.abc import Callable

MAX_DISCARDED_BYTES = 9 * 1024 * 1024
"""A body of the largest size and its framing. Each MiB takes half a millisecond, all of it in the kernel."""
DISCARD_SECONDS = 10.0
UNREAD_SECONDS = 1.0
"""Time to read its answer for a client that sends more."""


class DiscardingTransport:
    """The transport as uvicorn's request cycle sees it while the body has not come to its end.

    `close` calls `end` instead, which may discard the rest of the body first.
    """

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = end

    def release(self) -> None:
        """Breaks the reference cycle with the connection, once that is lost."""
        self.close = _nothing


class UnreadBody:
    """Counts what a client sends after its answer, and stops reading once it is too much."""

    def __init__(self, transport: asyncio.Transport, clock: Callable[[], float]) -> None:
        """Tells the client that the answer is complete, as far as the transport can (TLS cannot)."""
        self._transport = transport
        self._clock = clock
        self._left = MAX_DISCARDED_BYTES
        self.due = clock() + DISCARD_SECONDS
        """When the connection is to be cut."""
        if transport.can_write_eof():
            transport.write_eof()

    def discard(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.pause_reading()
            self.due = min(self.due, self._clock() + UNREAD_SECONDS)


def _nothing() -> None:
    pass
