"""An HTTP/1.1 connection to an engine, with one request at a time; `connection_pool.py` keeps connections for reuse."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from math import inf
from typing import cast

import httptools

MAX_UNREAD_BYTES = 256 * 1024
"""Number of buffered bytes of a response's body beyond which reading is paused, so that the engine cannot send more."""
MAX_STEP_BYTES = 32 * 1024
"""Maximum number of bytes of a stream that are handled in one iteration of the event loop: some hundred events, which
take milliseconds to decode, check and encode."""
MAX_OVERHEAD_BYTES = 256 * 1024
"""Maximum number of bytes, such as headers and trailers, that may arrive in a row without a part of a response's body;
the connection fails if there are more."""
MAX_COPIED_BYTES = 64 * 1024
"""Maximum size of a request's body that is joined with the request's head, so that both are written as one piece. Two
pieces may become two packets with asyncio or TLS, but not with uvloop."""
FINISH_TIMEOUT_SECONDS = 1.0
"""Seconds that a response may take to end after its last event; if it takes longer, the connection is closed and not
reused."""

_LENGTHS_OF_READ_HEADERS = frozenset(map(len, (b"location", b"retry-after", b"retry-after-ms")))
"""The lengths of the names of the headers that are read; a header of another length is skipped without a closer look.
"""


class ConnectionFailed(Exception):
    """The connection could not be opened, was lost before the end of the response, or carried an invalid response."""


class TimedOut(ConnectionFailed):
    """The engine sent nothing for too long, or the request's deadline passed."""


class NotConnected(TimedOut):
    """The connection to the engine was not opened in time."""


class EngineConnection(asyncio.Protocol):
    """One HTTP/1.1 connection to an engine; carries one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: deque[bytes] = deque()
        self.unread = 0
        """Number of buffered bytes of the body."""
        self._overhead = 0
        """Number of bytes that have arrived since the last part of a body."""
        self._paused = False
        self._failure: ConnectionFailed | None = None
        self.status = 0
        self.location = self._retry_after = self._retry_after_ms = ""
        self.is_complete = True
        self.idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._last = self._idle_seconds = self._deadline = self._due = 0.0
        self._at_end: Callable[[], None] | None = None
        self.on_event: Callable[[], None] | None = None
        """Called without arguments after data or an error has arrived. `status`, `read`, `is_complete` and `failure`
        then show what has arrived."""

    # -- called by the request

    def post(self, head: bytes, body: bytes) -> None:
        """Sends a POST request, and drops unread bytes of the previous response.

        `head` is the request line and the header lines, each with its line end, but without a content-length, which
        is added here. Raises ConnectionFailed if the connection is lost.
        """
        if self._pieces:
            self.read()  # drops what arrived after the previous response
        self.status, self.is_complete = 0, False
        self.location = self._retry_after = self._retry_after_ms = ""
        if self._transport is None:
            raise _copy(self._failure) if self._failure else ConnectionFailed("there is no connection")
        head = b"%bcontent-length: %d\r\n\r\n" % (head, len(body))
        if len(body) <= MAX_COPIED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    async def wait_for_event(self) -> None:
        """Waits until further data or an error arrives on the connection.

        Replaces `on_event` while it waits, and sets it to None at the end.
        """
        arrived = self._loop.create_future()
        self.on_event = lambda: None if arrived.done() else arrived.set_result(None)
        try:
            await arrived
        finally:
            self.on_event = None

    def read_some(self) -> bytes:
        """Removes and returns at most `MAX_STEP_BYTES` buffered bytes of the response's body; empty if there are
        none.

        Afterwards `unread` is the number of bytes that are left.
        """
        if self.unread <= MAX_STEP_BYTES:
            return self.read()
        pieces, taken, size = self._pieces, [], 0
        while size + len(pieces[0]) <= MAX_STEP_BYTES:
            taken.append(pieces.popleft())
            size += len(taken[-1])
        self.unread -= size
        return b"".join(taken)

    def read(self) -> bytes:
        """Removes and returns all buffered bytes of the response's body; empty if there are none."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces.popleft() if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.unread = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    def set_timeouts(self, idle_seconds: float, deadline: float) -> None:
        """Replaces the timeouts of the current response; the response fails with TimedOut if a timeout passes before
        its end.

        `deadline` is on the event loop's clock. `idle_seconds` is the longest time in which nothing arrives; it does
        not count while bytes that have arrived are unread.
        """
        self._last, self._idle_seconds, self._deadline = self._loop.time(), idle_seconds, deadline
        due = min(self._last + idle_seconds, deadline)
        if self._timer is not None and due < self._due:
            self._stop_timer()  # it would fire too late
        if self._timer is None and due < inf:
            self._start_timer(due)

    def close(self) -> None:
        """Closes the connection at once. An engine that is still answering stops its work."""
        self.on_event = None
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    def finish(self, then: Callable[[], None]) -> None:
        """Discards the rest of the response, and calls `then` at the response's end, possibly before returning.

        If the response does not end within `FINISH_TIMEOUT_SECONDS`, closes the connection and does not call `then`.
        """
        self.on_event = None
        if self._pieces:
            self.read()
        if self.is_complete:
            then()
        else:
            self._at_end = then
            self.set_timeouts(FINISH_TIMEOUT_SECONDS, self._loop.time() + FINISH_TIMEOUT_SECONDS)

    @property
    def failure(self) -> ConnectionFailed | None:
        """Returns the error that ended the connection; None if there is none.

        Also returns None until all data that arrived before the error has been read.
        """
        return None if self._pieces else self._failure

    @property
    def has_failed(self) -> bool:
        """Returns whether the connection has failed, so that nothing more will arrive; data may be left to read."""
        return self._failure is not None

    @property
    def retry_after(self) -> float | None:
        """Returns how many seconds the response's headers ask to wait before a retry; None if they do not ask for it.

        Reads `Retry-After` (seconds or a date) and `retry-after-ms`.
        """
        for written, unit in ((self._retry_after_ms, 0.001), (self._retry_after, 1.0)):
            with suppress(ValueError):
                seconds = float(written) * unit
                if 0 < seconds < inf:
                    return seconds
        with suppress(ValueError, OverflowError):
            seconds = parsedate_to_datetime(self._retry_after).timestamp() - time.time()
            return seconds if seconds > 0 else None
        return None

    @property
    def is_open(self) -> bool:
        return self._failure is None and self._transport is not None and not self._transport.is_closing()

    # -- timeouts

    def _start_timer(self, due: float) -> None:
        self._due = due
        self._timer = self._loop.call_at(self._due, self._on_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timer(self) -> None:
        self._timer, now = None, self._loop.time()
        if self.is_complete:
            return  # the next request sets its own timeouts
        if self.on_event is None or self._pieces:
            self._last = now  # the engine is not late: our own reader has paused
        if now >= self._deadline or now >= self._last + self._idle_seconds:
            self._fail(TimedOut("nothing arrived in time"))
            self.close()
        else:
            self._start_timer(min(self._last + self._idle_seconds, self._deadline))

    # -- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._last = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionFailed(f"it does not speak HTTP: {error}"))
            self.close()
        if self._pieces:
            self._overhead = 0
        else:
            self._count_overhead(len(data))
        self._wake()

    def _count_overhead(self, count: int) -> None:
        self._overhead += count
        if self._overhead > MAX_OVERHEAD_BYTES:
            self._fail(ConnectionFailed("its headers do not end"))
            self.close()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._at_end = None
        try:
            del self._parser  # breaks the reference cycle
            self._stop_timer()
        finally:  # nobody else would end the answer
            self._fail(ConnectionFailed(str(error) if error else "the connection was closed"))

    def _fail(self, failure: ConnectionFailed) -> None:
        if self._failure is None:
            self._failure = failure
        self._wake()

    def _wake(self) -> None:
        if self.on_event is not None:
            self.on_event()

    # -- called by the parser

    def on_message_begin(self) -> None:
        if self.is_complete:
            self._fail(ConnectionFailed("it sent a response without a request"))
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) not in _LENGTHS_OF_READ_HEADERS:
            return
        if name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")
        elif name.lower() == b"retry-after-ms":
            self._retry_after_ms = value.decode("latin-1")
        elif name.lower() == b"location":
            self.location = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if not self.is_complete:
            self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self.is_complete:
            return
        if len(body) <= MAX_STEP_BYTES:
            self._pieces.append(body)
        else:
            self._pieces.extend([body[at : at + MAX_STEP_BYTES] for at in range(0, len(body), MAX_STEP_BYTES)])
        self.unread += len(body)
        if self.unread > MAX_UNREAD_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self.is_complete = (
            True  # its timer keeps running: a useless wake-up is cheaper than cancelling and setting it each time
        )
        if not self._parser.should_keep_alive():
            self._fail(ConnectionFailed("the connection was closed"))
            self.close()
        if self._at_end is not None:
            then, self._at_end = self._at_end, None
            then()


def _copy(failure: ConnectionFailed) -> ConnectionFailed:
    """Returns a new error with the same message, to raise.

    The stored one would keep a traceback that refers to the connection in which it is stored: a reference cycle.
    """
    return type(failure)(*failure.args)
