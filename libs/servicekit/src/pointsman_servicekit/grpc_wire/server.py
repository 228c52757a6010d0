"""gRPC on asyncio: listens, finds each call's method, and takes leave."""

import asyncio
import socket
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from pointsman_servicekit.grpc_handlers import Handler
from pointsman_servicekit.grpc_server import ServerLimits
from pointsman_servicekit.grpc_wire.connection import TIME_TO_READ, GrpcConnection
from pointsman_servicekit.tls import FollowedTls, ServerTls

BETWEEN_SWEEPS = 0.25
"""Seconds."""
LAST_WORK = 1.0
"""Seconds in which servicers end that are cut."""
LAST_LOOKS = 0.02
"""Seconds between two looks whether what was begun has come to its end."""


@dataclass(frozen=True, slots=True)
class _Details(grpc.HandlerCallDetails):
    """What interceptors are told of a method."""

    method: str
    invocation_metadata: tuple[()] = ()


class GrpcWire:
    """Implements the server that `pointsman_servicekit.grpc_server.serving` runs."""

    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor], limits: ServerLimits) -> None:
        """Interceptors are asked once for each method, and answer without waiting."""
        self._interceptors = interceptors
        self._limits = limits
        self._generic: list[grpc.GenericRpcHandler] = []
        self._known: dict[str, Handler] = {}
        self._connections: set[GrpcConnection] = set()
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._tls: FollowedTls | None = None

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._generic += handlers

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"
    ) -> None:
        """The same servicers add generic ones, which are found by their names."""

    async def listen(self, address: str, tls: ServerTls | None) -> int:
        """Serves there; the port. Raises OSError, TlsError."""
        secured: dict[str, Any] = {}
        if tls is not None:
            self._tls = FollowedTls(tls)
            self._tls.context.set_alpn_protocols(["h2"])
            secured = {"ssl": self._tls.context, "ssl_handshake_timeout": self._limits.handshake_seconds}
            secured["ssl_shutdown_timeout"] = TIME_TO_READ
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        listening = socket.create_server(
            (host.strip("[]"), int(port)),
            family=family,
            backlog=2048,
            dualstack_ipv6=family == socket.AF_INET6 and socket.has_dualstack_ipv6(),
        )
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections have that from it
        self._server = await asyncio.get_running_loop().create_server(self._connection, sock=listening, **secured)
        self._sweeping = asyncio.create_task(self._sweep(), name="grpc")
        bound: int = listening.getsockname()[1]
        return bound

    async def stop(self, grace: float) -> None:
        """Takes nothing new; what is under way gets `grace` seconds."""
        if self._server is not None:
            self._server.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        loop = asyncio.get_running_loop()
        until = loop.time() + grace
        while (now := loop.time()) < until and not all(each.has_closed(now) for each in self._connections):
            for connection in list(self._connections):
                connection.leave()
                connection.sweep(now)
            await asyncio.sleep(min(LAST_LOOKS, until - now))
        cut = list(self._connections)
        for connection in cut:
            connection.cut()
        for _ in range(round(LAST_WORK / LAST_LOOKS)):
            if not any(connection.streams.at_work for connection in cut):
                break
            await asyncio.sleep(LAST_LOOKS)
        for connection in list(self._connections):
            connection.hang_up()
        await asyncio.sleep(LAST_LOOKS)  # it takes some turns, also where a client left amid its handshake

    def find(self, path: str) -> Handler:
        """None where nobody knows it."""
        handler = self._known.get(path)
        if handler is None:
            handler = self._asked(path)
            if handler is not None:  # what is not known is a client's invention, and not to be kept
                self._known[path] = handler
        return handler

    def _asked(self, path: str) -> Handler:
        details = _Details(path)

        async def found(details: grpc.HandlerCallDetails) -> Handler:
            return next((one for generic in self._generic if (one := generic.service(details)) is not None), None)

        continuation: Any = found
        for interceptor in reversed(self._interceptors):
            continuation = _around(interceptor, continuation)
        return _at_once(continuation(details))

    def _connection(self) -> GrpcConnection:
        return GrpcConnection(self.find, self._limits, self._connections)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(BETWEEN_SWEEPS)
            now = loop.time()
            for connection in list(self._connections):
                connection.sweep(now)
            if self._tls is not None:
                self._tls.follow()


def _around(interceptor: grpc.aio.ServerInterceptor, continuation: Any) -> Any:
    async def found(details: grpc.HandlerCallDetails) -> Handler:
        return await interceptor.intercept_service(continuation, details)

    return found


def _at_once(work: Coroutine[Any, Any, Handler]) -> Handler:
    """What it returns. Raises TypeError where it waits."""
    try:
        work.send(None)
    except StopIteration as done:
        handler: Handler = done.value
        return handler
    work.close()
    raise TypeError("an interceptor of this server waits; it is to answer at once")
