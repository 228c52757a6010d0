"""A pool of open connections to engines, by the engine's address.

A caller gets a connection from `Pool.idle` or else `Pool.connect`, sends a request with `EngineConnection.post`, reads
the response as it arrives with `read` or `read_some`, and gives the connection back with `Pool.release`, or closes it.
"""

import asyncio
import ssl
from collections import deque
from contextvars import Context
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from pointsman_gateway.engines.http1 import ConnectionFailed, EngineConnection, NotConnected, TimedOut

MAX_IDLE_SECONDS = 60.0
"""Seconds after which an unused connection is closed.

Connections are kept because opening hundreds of them at once takes longer than the requests on them. vLLM closes idle
connections earlier by default, after 5 s, and later under the lora-server, after 75 s. If an engine has closed a
connection, the pool does not use it, or the request is sent again on a new one.
"""
MAX_IDLE_CONNECTIONS = 512
"""Maximum number of unused connections that are kept for one engine."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The address of an engine: host, port and TLS settings, with the URL prefix and header lines for every request."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    path: str
    """Prefix of all URL paths; usually empty."""
    headers: str
    """The header lines that every request to the engine has."""


@lru_cache(maxsize=1024)
def origin_of(url: str) -> Origin:
    """Parses an engine's URL into its address.

    Raises ValueError if the URL is not http or https, or contains a user name or password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{url}' is no URL of an engine; write http://HOST:PORT")
    if parts.username or parts.password:
        raise ValueError(f"the URL of host '{parts.hostname}' has a password; name the key's variable in api_key_env")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    # identity: a compressed stream would arrive in large pieces.
    headers = f"host: {parts.netloc}\r\ncontent-type: application/json\r\naccept-encoding: identity\r\n"
    return Origin(parts.hostname, port, tls, parts.path.rstrip("/"), headers)


async def _open(origin: Origin) -> EngineConnection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(EngineConnection, origin.host, origin.port, ssl=origin.tls)
    return connection


def close_unused(opening: "asyncio.Task[EngineConnection]") -> None:
    """Closes the connection that the finished task `opening` has opened; called when its caller no longer wants it.

    Does nothing if the task has failed or was cancelled.
    """
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class Pool:
    """Keeps open connections to engines for reuse, by the engine's address."""

    def __init__(self, max_idle_seconds: float = MAX_IDLE_SECONDS) -> None:
        self._max_idle_seconds = max_idle_seconds
        self._idle: dict[Origin, deque[EngineConnection]] = {}
        self._clock = asyncio.get_running_loop().time

    def idle(self, origin: Origin) -> EngineConnection | None:
        """Removes and returns the most recently used idle connection to the address `origin`; None if there is none.

        Closes connections that were lost, or that have been idle for too long, and does not return them.
        """
        idle = self._idle.get(origin)
        oldest = self._clock() - self._max_idle_seconds
        while idle:
            connection = idle.pop()
            if connection.is_open and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def connect(self, origin: Origin, seconds: float, deadline: float) -> EngineConnection:
        """Opens a new connection to the address `origin`.

        Raises NotConnected after `seconds`, TimedOut at `deadline` (on the event loop's clock), and ConnectionFailed
        if the connection cannot be opened for another reason.
        """
        until = min(self._clock() + seconds, deadline)
        # The callbacks of a connection run in the context in which it was opened. It outlives the request, so that is
        # an empty one.
        opening = asyncio.create_task(_open(origin), context=Context())
        try:
            async with asyncio.timeout_at(until):
                return await opening
        except TimeoutError as error:
            opening.add_done_callback(close_unused)  # it may have been opened at the same moment
            late = TimedOut if until == deadline else NotConnected
            raise late(f"no connection within {seconds:g} s") from error
        except OSError as error:
            raise ConnectionFailed(f"no connection: {error.strerror or error}") from error
        except asyncio.CancelledError:
            opening.add_done_callback(close_unused)
            raise
        finally:
            del opening  # breaks the reference cycle: it holds the error, whose traceback holds this frame

    def release(self, origin: Origin, connection: EngineConnection) -> None:
        """Takes back a connection after use, and keeps it for reuse once its response has ended.

        Closes the connection if the response does not end soon (`EngineConnection.finish`), or if the pool already
        keeps `MAX_IDLE_CONNECTIONS` to the address `origin`.
        """
        connection.finish(lambda: self._keep(origin, connection))

    def _keep(self, origin: Origin, connection: EngineConnection) -> None:
        idle = self._idle.get(origin)
        if idle is None:
            self._remove_closed()  # members of groups come and go with new addresses
            idle = self._idle[origin] = deque()
        if not connection.is_open or len(idle) >= MAX_IDLE_CONNECTIONS:
            connection.close()
            return
        connection.idle_since = self._clock()
        idle.append(connection)

    def _remove_closed(self) -> None:
        for origin in [origin for origin, idle in self._idle.items() if not any(one.is_open for one in idle)]:
            del self._idle[origin]

    def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
