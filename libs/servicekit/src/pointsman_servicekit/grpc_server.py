"""The gRPC server of every service: limits, TLS, health and reflection."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from pointsman_servicekit.buffer_budget import BufferedBytesBudget
from pointsman_servicekit.grpc_error_handler import ErrorHandler
from pointsman_servicekit.grpc_requests import Gate, ReceiveLimits, RequestReceiver
from pointsman_servicekit.tls import ServerTls, TlsError

log = logging.getLogger(__name__)

HEALTH_UPDATE_TIMEOUT_SECONDS = 1.0
"""Seconds for which an update of a server's health waits until clients that watch the health have read the change."""

MAX_MESSAGE_BYTES = 40 * 1024 * 1024  # an Upsert may hold 32 MiB of text

MAX_BUFFERED_BYTES = 512 * 1024 * 1024

IDENTITY_ONLY = 1
"""The bit set of compression algorithms that gRPC accepts, with `identity` alone: a compressed message is refused with
UNIMPLEMENTED. gRPC checks the length of a message before it decompresses it and not afterwards, so 8 MiB could become
gigabytes."""

MAX_READ_BYTES = 64 * 1024
"""Maximum bytes of one read of a connection. gRPC processes all bytes of a read before it closes a bad connection."""

UNLIMITED_PING_STRIKES = 0
"""The value of gRPC's option for the number of excess pings that a client may send; 0 allows any number.

gRPC then answers all pings, and stops reading while 10,000 answers wait for the client: 300,000 pings (5 MB) cost 0.3
to 0.6 s of CPU time. With a limit, gRPC closes the connection after the third excess ping, but first parses what has
arrived and builds an error for each further ping, which costs 5 s.
"""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The limits of a gRPC server; times are in seconds."""

    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_message_fields: int = 100_000
    """Maximum number of fields of a request message, including all messages in it; an Upsert may have 1,000 documents
    with 16 metadata entries each."""
    message_timeout: float = 60.0
    """Seconds from a call's authentication until its message must be complete; the caller's own deadline may be
    earlier."""
    max_metadata_bytes: int = 16 * 1024
    """Maximum bytes of the metadata of a call, all entries together."""
    max_connections: int = 2000
    """Maximum number of connections of all clients together; a further connection is closed at once."""
    max_concurrent_streams: int = 1024
    """Maximum number of concurrent calls on one connection. The client delays further calls until others end."""
    handshake_timeout: float = 10.0
    """Maximum seconds from the opening of a connection to its first HTTP/2 frame, including the TLS handshake."""
    keepalive_time: float = 30.0
    """Seconds without a message from a client after which the server sends the client a ping."""
    keepalive_timeout: float = 10.0
    """Seconds within which the client must acknowledge a ping; if it does not, the connection is closed."""
    max_connection_age: float = 0.0
    """Seconds after which a connection takes no new calls, so that its client resolves the server's name again; 0 means
    no limit.
    """

    def options(self, reuse_port: bool) -> list[tuple[str, int]]:
        """Returns the limits of this object, and constants of this module, as options of a gRPC server.

        With `reuse_port`, other processes may listen at the server's port. `max_message_fields` and `message_timeout`
        are left out, because gRPC has no options for them.
        """
        ages = [("grpc.max_connection_age_ms", _ms(self.max_connection_age))] if self.max_connection_age else []
        return [
            *ages,
            ("grpc.max_receive_message_length", self.max_message_bytes),
            # gRPC refuses calls between the first limit and the second with a growing probability: make them equal.
            ("grpc.max_metadata_size", self.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.max_metadata_bytes),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            ("grpc.max_concurrent_streams", self.max_concurrent_streams),
            ("grpc.server_handshake_timeout_ms", _ms(self.handshake_timeout)),
            ("grpc.http2.max_ping_strikes", UNLIMITED_PING_STRIKES),
            ("grpc.keepalive_time_ms", _ms(self.keepalive_time)),
            ("grpc.keepalive_timeout_ms", _ms(self.keepalive_timeout)),
            ("grpc.http2.ping_timeout_ms", _ms(self.keepalive_timeout)),
            ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ONLY),
            ("grpc.experimental.tcp_max_read_chunk_size", MAX_READ_BYTES),
            ("grpc.so_reuseport", int(reuse_port)),
        ]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


LIMITS = ServerLimits()


class _Registrar:
    """Stands for a gRPC server in the functions `add_...Servicer_to_server` of generated code."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]
    ) -> None:
        """Does nothing: the same servicers are also added as generic handlers, which are found by name.

        For each registered method grpc.aio keeps a task that waits for its calls, and every call runs `asyncio.wait`
        over all these tasks: 1,000 of the 15,200 instructions that a call took.
        """


def _reflection_v1(servicer: Any) -> grpc.GenericRpcHandler:
    """Returns a handler of the service `grpc.reflection.v1.ServerReflection`, whose messages equal those of v1alpha."""
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": handler}
    return grpc.method_handlers_generic_handler("grpc.reflection.v1.ServerReflection", handlers)


class GrpcServer:
    """A running gRPC server: its address, its port, and functions that set its health."""

    def __init__(
        self, host: str, port: int, health_servicer: health.aio.HealthServicer, services: Sequence[str]
    ) -> None:
        self._health = health_servicer
        self._services = services
        self.port = port
        self.address = f"{host}:{port}"

    async def set_serving(self, serving: bool) -> None:
        """Sets the health of the server and of each of its services to SERVING or NOT_SERVING.

        Logs a warning if a client that watches the health does not read the change. Does nothing after
        `start_shutdown`.
        """
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await asyncio.gather(*(_update_health(self._health.set(name, status)) for name in ("", *self._services)))

    async def start_shutdown(self) -> None:
        """Sets the health to NOT_SERVING until the process ends, so that load balancers send no more calls; calls are
        still answered.
        """
        await self.set_serving(False)  # each name on its own, in case a watcher of another one does not read
        await _update_health(self._health.enter_graceful_shutdown())


@asynccontextmanager
async def serving(
    listen: str,
    services: Sequence[str],
    register: Callable[[Any], None],
    *,
    grace: float = 5.0,
    ready: bool = True,
    limits: ServerLimits = LIMITS,
    tls: ServerTls | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    gate: Gate | None = None,
    budget: BufferedBytesBudget | None = None,
    reuse_port: bool = False,
) -> AsyncIterator[GrpcServer]:
    """Runs a gRPC server at `listen` ("127.0.0.1:0": any free port) for the length of the block.

    `services` are the full names of the services ("pointsman.v1.Retriever"), for reflection and health checks.
    `register` is called with an object to which it adds the servicers. `ready` says whether the server reports SERVING
    at first. `interceptors` wrap the interceptor that converts errors to statuses. `gate` authenticates each call to a
    service whose name begins with "pointsman.", before its message is received. `budget` limits the bytes of messages
    in memory; None limits them to `MAX_BUFFERED_BYTES`. With `reuse_port` other processes may listen at the same port.

    At the block's end, calls in progress have `grace` seconds to finish. Raises OSError if the port cannot be bound,
    and TlsError if the files of `tls` cannot be read or used.
    """
    received = ReceiveLimits(limits.max_message_bytes, limits.max_message_fields, limits.message_timeout)
    receiver = RequestReceiver(received, budget or BufferedBytesBudget(MAX_BUFFERED_BYTES), gate)
    server = grpc.aio.server(interceptors=[*interceptors, ErrorHandler(), receiver], options=limits.options(reuse_port))
    registrar: Any = _Registrar(server)
    register(registrar)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, registrar)
    names = [*services, health.SERVICE_NAME, reflection.SERVICE_NAME]
    add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server  # its stubs have no types
    reflection_servicer = reflection.aio.ReflectionServicer(names)
    add_reflection(reflection_servicer, registrar)
    server.add_generic_rpc_handlers((_reflection_v1(reflection_servicer),))
    try:
        port = server.add_secure_port(listen, _credentials(tls)) if tls else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {listen}: {error}") from error
    await server.start()
    running = GrpcServer(listen.rpartition(":")[0], port, health_servicer, services)
    await running.set_serving(ready)
    try:
        yield running
    finally:
        await running.start_shutdown()
        await server.stop(grace)


async def _update_health(update: Awaitable[None]) -> None:
    """Awaits an update of the server's health within a time limit: a watcher that does not read would block it."""
    try:
        await asyncio.wait_for(update, HEALTH_UPDATE_TIMEOUT_SECONDS)
    except TimeoutError:
        log.warning(
            "a watcher of this server's health does not read: not all were notified of the change within %g s",
            HEALTH_UPDATE_TIMEOUT_SECONDS,
        )


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Returns credentials that read changed files at the next handshake; raises TlsError as `ServerTls.pem` does."""
    shown = tls.stamp()

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, certificate, client_ca = tls.pem()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def anew() -> grpc.ServerCertificateConfiguration | None:
        """Returns the configuration from the files; None if none of them has changed, or if they cannot be used."""
        nonlocal shown
        now = tls.stamp()
        if now == shown:
            return None
        shown = now
        try:
            return configuration()
        except TlsError as error:
            log.error("the changed certificate is not used, the one before goes on: %s", error)
            return None

    mutual = tls.client_ca is not None
    return grpc.dynamic_ssl_server_credentials(configuration(), anew, mutual)  # type: ignore[arg-type]  # None may be
