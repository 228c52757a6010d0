"""Serves an ASGI application over HTTP, for the length of a block."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from pointsman_servicekit.tls import ReloadingTls, ServerTls
from starlette.types import ASGIApp

from pointsman_gateway.http.fast_connection import ExpressConnection, Lane
from pointsman_gateway.http.guarded_connection import Guard, GuardedProtocol

GUARD = Guard()

TICKS_A_SWEEP = 5
"""uvicorn ticks ten times a second."""

GOODBYE = 5.0
"""Seconds in which a client closes its side of TLS."""


@asynccontextmanager
async def serving_http(
    app: ASGIApp,
    listen: str,
    *,
    grace: int = 5,
    guard: Guard = GUARD,
    tls: ServerTls | None = None,
    lane: Lane | None = None,
) -> AsyncIterator[str]:
    """Runs `app` at `listen` ("127.0.0.1:0" takes a free port), and yields the address. `lane` takes what it can first.

    At the end, answers in flight get `grace` seconds. Raises OSError where the port cannot be had, TlsError where the
    files of `tls` cannot be used.
    """
    followed = ReloadingTls(tls) if tls else None
    host, _, port = listen.rpartition(":")
    try:
        listening = socket.create_server((host, int(port)), backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {listen}: {error.strerror}") from error
    # asyncio sees to this only where a socket names its protocol, which this one's connections do not; without it the
    # second piece of every answer waits for the client to acknowledge the first, 40 ms on Linux.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = _Server(_config(app, grace, guard), guard, followed, lane)
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="http")
    try:
        yield f"{host}:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


def _config(app: ASGIApp, grace: int, guard: Guard) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # anyone could write them
        timeout_keep_alive=round(guard.idle_seconds) or 1,
        timeout_graceful_shutdown=grace,
        backlog=2048,
    )


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: who runs it says when to stop. Its connections are guarded."""

    def __init__(self, config: uvicorn.Config, guard: Guard, tls: ReloadingTls | None, lane: Lane | None) -> None:
        super().__init__(config)
        self._guard = guard
        self._tls = tls
        self._lane = lane

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()
        for listening in sockets or ():
            self.servers.append(
                await loop.create_server(self._protocol, sock=listening, backlog=self.config.backlog, **self._secured())
            )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets=sockets)
        for connection in list(self.server_state.connections):  # past the grace; uvicorn cuts those in its hands alone
            if isinstance(connection, GuardedProtocol):
                connection.cut()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_A_SWEEP == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, GuardedProtocol):
                    connection.sweep(now)
            if self._tls:
                self._tls.follow()
        return await super().on_tick(counter)

    def _protocol(self) -> GuardedProtocol:
        of = self.config, self.server_state, self.lifespan.state, self._guard
        return GuardedProtocol(*of) if self._lane is None else ExpressConnection(*of, self._lane)

    def _secured(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        context: ssl.SSLContext = self._tls.context
        return {
            "ssl": context,
            "ssl_handshake_timeout": self._guard.handshake_seconds,
            "ssl_shutdown_timeout": GOODBYE,
        }
