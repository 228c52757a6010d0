"""A lean HTTP/1.1 client for engines: kept connections, one POST at a time on each.

Pool.idle or Pool.connect -> Connection.post -> on_news, Connection.taken ... -> Pool.release
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import cast
from urllib.parse import urlsplit

import httptools

MOST_UNREAD = 256 * 1024
"""Bytes of a body that are kept until they are read; beyond them the engine is left waiting."""
LONGEST_IDLE = 60.0
"""Seconds that a connection is kept without use: some hundred that must be made anew at once take longer than their
requests. vLLM by itself closes one that rests for 5, the lora-server's for 75; which is seen, or found out in time."""
MOST_IDLE = 512
"""Connections that are kept to one engine."""
TIME_TO_END = 1.0
"""Seconds that an answer gets to end properly once nothing more of it is wanted."""


class ConnectionFailed(Exception):
    """The connection cannot be had, or broke before the answer's end."""


class TimedOut(ConnectionFailed):
    """Nothing came for too long."""


class NotConnected(TimedOut):
    """Not even a connection, within the time for that."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an engine listens."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    path: str
    """That all of the engine's paths begin with; mostly empty."""
    head: str
    """The header lines that name it."""


@lru_cache(maxsize=1024)
def origin_of(url: str) -> Origin:
    """Raises ValueError where it is no http(s) URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{url}' is no URL of an engine; write http://HOST:PORT")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    return Origin(parts.hostname, port, tls, parts.path.rstrip("/"), f"host: {parts.netloc}\r\n")


class Connection(asyncio.Protocol):
    """One connection. Its methods are called by one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: deque[bytes] = deque()
        self.unread = 0
        """Bytes."""
        self._paused = False
        self._failure: ConnectionFailed | None = None
        self.status = 0
        self.retry_after = ""
        self.complete = True
        self.idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._last = self._gap = self._deadline = self._due = 0.0
        self._at_end: Callable[[], None] | None = None
        self.on_news: Callable[[], None] | None = None
        """Called when something has arrived or gone wrong; `status`, `taken`, `complete` and `failure` say what."""

    # -- what a request does

    def post(self, head: bytes, body: bytes) -> None:
        """Sends a request; `head` is complete but for the body's length. Raises ConnectionFailed."""
        self.taken()  # what came behind the answer before belongs to nobody
        self.status, self.retry_after, self.complete = 0, "", False
        if self._transport is None:
            raise _anew(self._failure) if self._failure else ConnectionFailed("there is no connection")
        self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))

    async def news(self) -> None:
        """Waits for the next call of `on_news`, for those who do not set it themselves."""
        arrived = self._loop.create_future()
        self.on_news = lambda: None if arrived.done() else arrived.set_result(None)
        try:
            await arrived
        finally:
            self.on_news = None

    def taken(self) -> bytes:
        """All that has come since the last time, and be it nothing."""
        pieces = self._pieces
        if not pieces:
            return b""
        read = pieces.popleft() if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.unread = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return read

    def limit(self, gap: float, deadline: float) -> None:
        """From now on nothing that is waited for may stay away for `gap` seconds, nor come after `deadline`.

        The deadline is on the loop's clock.
        """
        self._last, self._gap, self._deadline = self._loop.time(), gap, deadline
        due = min(self._last + gap, deadline)
        if self._timer is not None and due < self._due:
            self._unwatch()  # it would look too late
        if self._timer is None and due < inf:
            self._watch(due)

    def close(self) -> None:
        """At once, whatever is on its way; which stops the engine's work."""
        self.on_news = None
        self._unwatch()
        if self._transport is not None:
            self._transport.abort()

    def finish(self, then: Callable[[], None]) -> None:
        """Nothing more of the answer is wanted: calls `then` once it has come to its end, if that is soon."""
        self.on_news = None
        self.taken()
        if self.complete:
            then()
        else:
            self._at_end = then
            self.limit(TIME_TO_END, self._loop.time() + TIME_TO_END)

    @property
    def failure(self) -> ConnectionFailed | None:
        """What has gone wrong, once all has been taken that came before it."""
        return None if self._pieces else self._failure

    @property
    def open(self) -> bool:
        return self._failure is None and self._transport is not None and not self._transport.is_closing()

    # -- time

    def _watch(self, due: float) -> None:
        self._due = due
        self._timer = self._loop.call_at(self._due, self._look)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer, now = None, self._loop.time()
        if self.complete:
            return  # the next answer sets its own limits
        if self.on_news is None or self._pieces:
            self._last = now  # it is our own reader who lets it wait
        if now >= self._deadline or now >= self._last + self._gap:
            self._fail(TimedOut("nothing came in time"))
            self.close()
        else:
            self._watch(min(self._last + self._gap, self._deadline))

    # -- what the connection tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._last = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionFailed(f"it does not speak HTTP: {error}"))
            self.close()
        self._wake()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._at_end = None
        del self._parser  # these hold us, too
        self._unwatch()
        self._fail(ConnectionFailed(str(error) if error else "the connection was closed"))

    def _fail(self, failure: ConnectionFailed) -> None:
        if self._failure is None:
            self._failure = failure
        self._wake()

    def _wake(self) -> None:
        if self.on_news is not None:
            self.on_news()

    # -- what the parser tells

    def on_message_begin(self) -> None:
        if self.complete:
            self._fail(ConnectionFailed("it answers what nobody has asked"))
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 11 and name.lower() == b"retry-after":
            self.retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if not self.complete:
            self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self.complete:
            return
        self._pieces.append(body)
        self.unread += len(body)
        if self.unread > MOST_UNREAD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self.complete = True  # its timer goes on: setting one takes longer than letting it look once in a while
        if not self._parser.should_keep_alive():
            self._fail(ConnectionFailed("the connection was closed"))
            self.close()
        if self._at_end is not None:
            then, self._at_end = self._at_end, None
            then()


def _anew(failure: ConnectionFailed) -> ConnectionFailed:
    """The frames in the traceback of one that is raised hold the connection that has it."""
    return type(failure)(*failure.args)


class Pool:
    """Keeps connections for the next request."""

    def __init__(self, longest_idle: float = LONGEST_IDLE) -> None:
        """`longest_idle`: seconds that a connection may have rested and still be used."""
        self._longest_idle = longest_idle
        self._idle: dict[Origin, deque[Connection]] = {}
        self._clock = asyncio.get_running_loop().time

    def idle(self, origin: Origin) -> Connection | None:
        """One that was used a moment ago, or None."""
        kept = self._idle.get(origin)
        oldest = self._clock() - self._longest_idle
        while kept:
            connection = kept.pop()
            if connection.open and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def connect(self, origin: Origin, seconds: float, deadline: float) -> Connection:
        """A new one, within `seconds` and before the deadline. Raises ConnectionFailed, NotConnected."""
        loop = asyncio.get_running_loop()
        until = min(self._clock() + seconds, deadline)
        try:
            async with asyncio.timeout_at(until):
                _, connection = await loop.create_connection(Connection, origin.host, origin.port, ssl=origin.tls)
        except TimeoutError as error:
            late = TimedOut if until == deadline else NotConnected
            raise late(f"no connection within {seconds:g} s") from error
        except OSError as error:
            raise ConnectionFailed(f"no connection: {error.strerror or error}") from error
        return connection

    def release(self, origin: Origin, connection: Connection) -> None:
        """Takes one back whose answer has all been read that is wanted."""
        connection.finish(lambda: self._keep(origin, connection))

    def _keep(self, origin: Origin, connection: Connection) -> None:
        kept = self._idle.get(origin)
        if kept is None:
            self._forget_the_closed()  # engines come at new addresses, and go
            kept = self._idle[origin] = deque()
        if not connection.open or len(kept) >= MOST_IDLE:
            connection.close()
            return
        connection.idle_since = self._clock()
        kept.append(connection)

    def _forget_the_closed(self) -> None:
        for origin in [origin for origin, kept in self._idle.items() if not any(each.open for each in kept)]:
            del self._idle[origin]

    def close(self) -> None:
        for kept in self._idle.values():
            for connection in kept:
                connection.close()
        self._idle.clear()
