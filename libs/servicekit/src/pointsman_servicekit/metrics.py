"""Prometheus metrics that every service exports, and an HTTP endpoint for services that have no HTTP API."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from importlib.metadata import version
from inspect import isasyncgenfunction
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Gauge, Histogram, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from pointsman_servicekit.grpc_errors import Context, Handler, HandlerInterceptor, Method, wrap_handler

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication


@contextmanager
def serving_metrics(
    listen: str, registry: CollectorRegistry, is_ready: Callable[[], bool] = lambda: True
) -> Iterator[int]:
    """Serves `/metrics`, `/healthz` and `/readyz` from a thread for the length of the block; yields the port.

    `listen` is an address such as "127.0.0.1:0" (any free port) or "[::]:9082" (IPv6, and IPv4 if the system has it).
    `/healthz` returns 200 while the process runs; `/readyz` calls `is_ready` in that thread. The probes use HTTP
    because Kubernetes' gRPC probe does not support TLS. Raises OSError if the port cannot be bound.
    """
    host, _, port = listen.rpartition(":")
    server_class = _Ipv6Server if host.startswith("[") else ThreadingWSGIServer
    try:
        server = make_server(host.strip("[]"), int(port), _app(registry, is_ready), server_class, _Silent)
    except OSError as error:
        raise OSError(f"cannot listen on {listen}: {error.strerror}") from error
    thread = Thread(target=server.serve_forever, daemon=True, name="metrics")
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _app(registry: CollectorRegistry, is_ready: Callable[[], bool]) -> "WSGIApplication":
    metrics: WSGIApplication = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/healthz":
            return _say("200 OK", "ok", start_response)
        if environ["PATH_INFO"] == "/readyz":
            status, word = ("200 OK", "ready") if is_ready() else ("503 Service Unavailable", "not ready")
            return _say(status, word, start_response)
        return metrics(environ, start_response)

    return app


def _say(status: str, word: str, start_response: "StartResponse") -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{word}\n".encode()]


class _Ipv6Server(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class _Silent(WSGIRequestHandler):
    """Handles requests without logging them: there is one every few seconds."""

    def log_message(self, format: str, *words: Any) -> None:
        pass


EVERY = 0.1
"""Seconds between two measurements."""

SECONDS = (.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5)  # fmt: skip


@asynccontextmanager
async def measuring_event_loop_lag(registry: CollectorRegistry) -> AsyncIterator[None]:
    """Measures for the length of the block how late the event loop runs due callbacks."""
    lag = Histogram(
        "pointsman_event_loop_lag_seconds",
        "How much later than it should the event loop came to what was due.",
        buckets=SECONDS,
        registry=registry,
    )
    watching = asyncio.create_task(_watch(lag), name="watch event loop")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def _watch(lag: Histogram) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + EVERY
        await asyncio.sleep(EVERY)
        lag.observe(max(0.0, loop.time() - due))


def export_build_info(registry: CollectorRegistry, service: str) -> None:
    """Exports the service's version as a metric; `service` is the name of its distribution after "pointsman-".

    Raises PackageNotFoundError.
    """
    told = Gauge("pointsman_build_info", "1 for the release that runs.", ["service", "version"], registry=registry)
    told.labels(service, version(f"pointsman-{service}")).set(1)


class CallsInFlight(HandlerInterceptor):
    """Counts the calls in progress by method, of existing methods only, so that clients cannot create label values."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._calls = Gauge("pointsman_grpc_in_flight", "Calls being worked on.", ["method"], registry=registry)

    def replace(self, handler: Any, method: str) -> Handler:
        calls = self._calls.labels(method.lstrip("/"))
        return wrap_handler(
            handler, lambda behaviour: _unary(behaviour, calls), lambda behaviour: _stream(behaviour, calls)
        )


def _unary(behaviour: Method, calls: Gauge) -> Method:
    async def call(request: Any, context: Context) -> Any:
        with calls.track_inprogress():
            return await behaviour(request, context)

    return call


def _stream(behaviour: Method, calls: Gauge) -> Method:
    if not isasyncgenfunction(behaviour):
        return behaviour  # health's Watch writes to the context itself

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        with calls.track_inprogress():
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

    return call
