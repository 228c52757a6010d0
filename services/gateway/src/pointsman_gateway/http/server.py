"""Serves an ASGI application over HTTP with uvicorn, with limits on connections, and TLS if it is configured."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from pointsman_servicekit.tls import ReloadingTls, ServerTls
from starlette.types import ASGIApp

from pointsman_gateway.http.connection_limits import ConnectionLimits
from pointsman_gateway.http.fast_connection import FastConnection
from pointsman_gateway.http.fast_reader import ChatReader
from pointsman_gateway.http.guarded_connection import GuardedConnection

CONNECTION_LIMITS = ConnectionLimits()

TICKS_PER_CHECK = 5
"""Number of ticks of uvicorn's server between two checks of timeouts; there are ten ticks a second."""

TLS_SHUTDOWN_TIMEOUT_SECONDS = 5.0
"""Seconds that a client has to close its side of TLS when the gateway closes the connection."""


@asynccontextmanager
async def serve_http(
    app: ASGIApp,
    listen: str,
    *,
    grace: int = 5,
    limits: ConnectionLimits = CONNECTION_LIMITS,
    tls: ServerTls | None = None,
    chat_reader: ChatReader | None = None,
    reuse_port: bool = False,
) -> AsyncIterator[str]:
    """Serves `app` at `listen` ("HOST:PORT"; port 0: any free port) during the block, and yields the address with
    the actual port.

    `chat_reader` handles conversations of the common form without ASGI. With `reuse_port`, several processes may
    listen at the address, and the kernel distributes connections among them. At the end of the block, requests in
    progress have `grace` seconds to finish before they are aborted. Raises OSError if the port cannot be bound,
    TlsError if the files of `tls` are unusable.
    """
    reloading_tls = ReloadingTls(tls) if tls else None
    host, _, port = listen.rpartition(":")
    try:
        is_ipv6, every_address = host.startswith("["), host == "[::]"
        listening = socket.create_server(
            (host.strip("[]"), int(port)),
            family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
            backlog=2048,
            reuse_port=reuse_port,
            dualstack_ipv6=every_address and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise OSError(f"cannot listen on {listen}: {error.strerror}") from error
    # asyncio sets this only for sockets that name their protocol, which the connections of this one do not. Without it
    # the second part of each answer waits for the client to acknowledge the first one: 40 ms on Linux.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = _Server(_config(app, grace, limits), limits, reloading_tls, chat_reader)
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="http")
    try:
        yield f"{host}:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


def _config(app: ASGIApp, grace: int, limits: ConnectionLimits) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # any client could send them
        timeout_keep_alive=round(limits.idle_timeout) or 1,
        timeout_graceful_shutdown=grace,
        backlog=2048,
    )


class _Server(uvicorn.Server):
    """A uvicorn server that limits its connections. It handles no signals: `serve_http` stops it."""

    def __init__(
        self,
        config: uvicorn.Config,
        limits: ConnectionLimits,
        tls: ReloadingTls | None,
        chat_reader: ChatReader | None,
    ) -> None:
        super().__init__(config)
        self._limits = limits
        self._tls = tls
        self._chat_reader = chat_reader
        self._strangers: dict[GuardedConnection, None] = {}

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()
        options = {"backlog": self.config.backlog, **self._tls_options()}
        for listening in sockets or ():
            self.servers.append(await loop.create_server(self._build_connection, sock=listening, **options))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets=sockets)
        for connection in list(self.server_state.connections):  # uvicorn closes only those that it handles itself
            if isinstance(connection, GuardedConnection):
                connection.abort()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_CHECK == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, GuardedConnection):
                    connection.check_timeouts(now)
            if self._tls:
                self._tls.follow()
        return await super().on_tick(counter)

    def _build_connection(self) -> GuardedConnection:
        parts = self.config, self.server_state, self.lifespan.state, self._limits
        reader = self._chat_reader
        connection = GuardedConnection(*parts) if reader is None else FastConnection(*parts, reader)
        connection.strangers = self._strangers
        return connection

    def _tls_options(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        context: ssl.SSLContext = self._tls.context
        return {
            "ssl": context,
            "ssl_handshake_timeout": self._limits.handshake_timeout,
            "ssl_shutdown_timeout": TLS_SHUTDOWN_TIMEOUT_SECONDS,
        }
