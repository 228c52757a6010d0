"""A gRPC server as every service runs it: health, reflection, and one error handler for unary and streaming calls."""

import asyncio
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from pointsman_servicekit.correlation import NONE, decision_id, request_id
from pointsman_servicekit.errors import Internal, PointsmanError
from pointsman_servicekit.grpc_handlers import Context, Handler, wrapped
from pointsman_servicekit.rich_status import to_status
from pointsman_servicekit.tls import ServerTls, TlsError

log = logging.getLogger(__name__)

TIME_TO_TELL = 1.0
"""Seconds in which those that watch a server's health take what is said of it."""
MAX_MESSAGE_BYTES = 40 * 1024 * 1024  # an Upsert may hold 32 MiB of text


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one client may do to a server."""

    message_bytes: int = MAX_MESSAGE_BYTES
    message_seconds: float = 60.0
    """In which a call's only message comes, where its client has set no deadline; of gRPC's own server for ever."""
    metadata_bytes: int = 16 * 1024
    """Of a call's metadata, all together."""
    connections: int = 2000
    """At once, of all clients; of gRPC's own server they have no bound."""
    streams: int = 1024
    """Calls at once on one connection; further ones wait at the client."""
    handshake_seconds: float = 10.0
    """From connecting to speaking HTTP/2, TLS included."""
    ping_seconds: float = 10.0
    """A client may ask as often whether we are there; one that asks more often is sent away."""
    silence_seconds: float = 30.0
    """After so long without a word we ask whether the client is there, and give up on it after `ping_seconds`."""
    age_seconds: float = 0.0
    """A connection as old takes no new calls, so that its client looks again who there is; 0: for ever."""

    def options(self) -> list[tuple[str, int]]:
        """As gRPC calls them."""
        ages = [("grpc.max_connection_age_ms", round(self.age_seconds * 1000))] if self.age_seconds else []
        return [
            *ages,
            ("grpc.max_receive_message_length", self.message_bytes),
            # Over the first a call may be refused, by chance; over the second it is. Alike, nothing is left to chance.
            ("grpc.max_metadata_size", self.metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.metadata_bytes),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.server_handshake_timeout_ms", round(self.handshake_seconds * 1000)),
            ("grpc.http2.min_ping_interval_without_data_ms", round(self.ping_seconds * 1000)),
            ("grpc.http2.max_ping_strikes", 2),
            ("grpc.keepalive_time_ms", round(self.silence_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", round(self.ping_seconds * 1000)),
            ("grpc.so_reuseport", 0),
        ]


LIMITS = ServerLimits()


class Wire(Protocol):
    """What speaks gRPC for a server; what servicers are added to as to a `grpc.aio.Server`."""

    async def listen(self, address: str, tls: ServerTls | None) -> int:
        """Serves there; the port. Raises OSError, TlsError."""
        ...

    async def stop(self, grace: float) -> None:
        """Takes nothing new; what is under way gets `grace` seconds."""
        ...


class GrpcCore:
    """gRPC's own."""

    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor], limits: ServerLimits) -> None:
        self._server = grpc.aio.server(interceptors=interceptors, options=limits.options())
        self.add_generic_rpc_handlers = self._server.add_generic_rpc_handlers

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]
    ) -> None:
        """A server waits for calls of each registered method by a task of its own, and with every call `asyncio.wait`
        goes through all of them; of generic handlers, which the same servicers add too, it finds the method by its
        name."""

    async def listen(self, address: str, tls: ServerTls | None) -> int:
        """Serves there; the port. Raises OSError, TlsError."""
        server = self._server
        try:
            port = server.add_secure_port(address, _credentials(tls)) if tls else server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        await server.start()
        return port

    async def stop(self, grace: float) -> None:
        """Takes nothing new; what is under way gets `grace` seconds."""
        await self._server.stop(grace)


class GrpcServer:
    """A running server: its port, and the switch of its health."""

    def __init__(self, host: str, port: int, health_servicer: health.aio.HealthServicer) -> None:
        self._health = health_servicer
        self.port = port
        self.address = f"{host}:{port}"

    async def set_serving(self, serving: bool) -> None:
        """Says over gRPC health (the empty service name, the whole server) whether requests are welcome."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await _told(self._health.set("", status))

    async def take_leave(self) -> None:
        """Says so for good: requests are no longer welcome, and are served still."""
        await _told(self._health.enter_graceful_shutdown())


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
    wire: Callable[[Sequence[grpc.aio.ServerInterceptor], ServerLimits], Wire] = GrpcCore,
) -> AsyncIterator[GrpcServer]:
    """Runs a server at `listen` ("127.0.0.1:0" takes a free port) for the block's length.

    `services` are the full names that reflection lists, `register` adds the servicers, `interceptors` stand around the
    one that handles errors, `wire` speaks gRPC. At the end, calls in flight get `grace` seconds. Raises OSError where
    the port cannot be had, TlsError where the files of `tls` cannot be used.
    """
    server: Any = wire([*interceptors, ErrorHandler()], limits)
    register(server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    names = [*services, health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflecting: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    reflecting(reflection.aio.ReflectionServicer(names), server)
    try:
        port = await server.listen(listen, tls)
    except TlsError:
        raise
    except OSError as error:
        raise OSError(f"cannot listen on {listen}: {error.strerror or error}") from error
    running = GrpcServer(listen.rpartition(":")[0], port, health_servicer)
    await running.set_serving(ready)
    try:
        yield running
    finally:
        await running.take_leave()
        await server.stop(grace)


async def _told(telling: Awaitable[None]) -> None:
    """Whoever watches our health and does not take what is said to it holds up those behind it: not for long."""
    try:
        await asyncio.wait_for(telling, TIME_TO_TELL)
    except TimeoutError:
        log.warning(
            "who watches the health of this server does not read: it was not told to all within %g s", TIME_TO_TELL
        )


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """They follow the files: a certificate that is renewed is shown from the next handshake on. Raises TlsError."""
    shown = tls.stamp()

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, certificate, client_ca = tls.pem()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def anew() -> grpc.ServerCertificateConfiguration | None:
        """What is to be shown instead; None where that is what was shown before."""
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


class ErrorHandler(grpc.aio.ServerInterceptor):
    """Turns what a servicer raises into a rich status; unknown errors go to the log, with an id for the client."""

    def __init__(self) -> None:
        self._guarded: dict[Handler, Handler] = {}
        """By what they are around: a servicer has few, and each call asks for one."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        guarded = self._guarded.get(handler)
        if guarded is None:
            guarded = self._guarded[handler] = wrapped(handler, _guarded_unary, _guarded_stream)
        return guarded


def _guarded_unary(behaviour: Any) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        try:
            _take_ids(context)
            try:
                return await behaviour(request, context)
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception as error:
                await context.abort_with_status(to_status(_as_ours(error)))
        except grpc.aio.AbortError as aborted:
            _forget_where(aborted)
            del request, context
            raise

    return call


def _guarded_stream(behaviour: Any) -> Any:
    if not inspect.isasyncgenfunction(behaviour):
        return behaviour  # health's Watch writes to the context itself

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            _take_ids(context)
            responses = behaviour(request, context)
            try:
                async for response in responses:
                    yield response
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception as error:
                await context.abort_with_status(to_status(_as_ours(error)))
            finally:
                await responses.aclose()
        except grpc.aio.AbortError as aborted:
            _forget_where(aborted)
            del request, context, responses
            raise

    return call


def _forget_where(aborted: grpc.aio.AbortError) -> None:
    """The context keeps it, and frames in its traceback keep the context: all of a call would wait for the garbage
    collector. What went wrong has been told."""
    aborted.__traceback__ = aborted.__context__ = None


def _take_ids(context: Context) -> None:
    sent = dict(context.invocation_metadata() or ())
    request = sent.get("x-request-id")
    request_id.set(str(request)[:64] if request else secrets.token_hex(8))
    decision_id.set(str(sent.get("x-pointsman-decision-id", NONE))[:64])


def _as_ours(error: Exception) -> PointsmanError:
    if isinstance(error, PointsmanError):
        return error
    error_id = secrets.token_hex(6)
    log.exception("internal error %s", error_id, exc_info=error)
    return Internal(f"internal error {error_id}", code="internal")
