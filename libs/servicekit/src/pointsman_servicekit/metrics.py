"""Prometheus metrics that every service exports, and an HTTP endpoint for services that have no HTTP API.

`MergedMetrics` adds up the metrics of several processes of one service, so that one page describes all of them.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from importlib.metadata import version
from inspect import isasyncgenfunction
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.core import Exemplar, Metric
from prometheus_client.exposition import ThreadingWSGIServer

from pointsman_servicekit.grpc_errors import Context, Handler, HandlerInterceptor, Method, wrap_handler
from pointsman_servicekit.metrics_page import ThreadedMetricsPages, encode_page, format_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

EVERY = 0.1
"""Seconds between two measurements."""

SECONDS = (.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5)  # fmt: skip

Combine = Callable[[Iterable[float]], float]
Dump = Sequence[Sequence[Any]]
"""The metrics of one process as JSON. A family has name, documentation, type, unit and samples. A sample has name,
labels, value, and an exemplar (labels, value, Unix seconds) or None.
"""

CUMULATIVE = ("counter", "histogram", "summary")
"""Types whose samples are added up, and stay in the sums after their process has ended."""

PROCESS_GAUGES: Mapping[str, Combine] = {
    "process_virtual_memory_bytes": sum,
    "process_resident_memory_bytes": sum,
    "process_open_fds": sum,
    "process_max_fds": sum,
    "process_start_time_seconds": min,
}
"""How the gauges of prometheus_client's own collectors are combined."""


@contextmanager
def serving_metrics(
    listen: str, registry: CollectorRegistry, is_ready: Callable[[], bool] = lambda: True
) -> Iterator[int]:
    """Serves `/metrics`, `/healthz` and `/readyz` from a thread for the length of the block; yields the port.

    The metrics are up to a second old (`ThreadedMetricsPages`).
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
    pages = ThreadedMetricsPages(lambda format: encode_page(format, registry))

    def app(environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/healthz":
            return _say("200 OK", "ok", start_response)
        if environ["PATH_INFO"] == "/readyz":
            status, word = ("200 OK", "ready") if is_ready() else ("503 Service Unavailable", "not ready")
            return _say(status, word, start_response)
        if environ["REQUEST_METHOD"] != "GET":
            return _say("405 Method Not Allowed", "use GET", start_response)
        found = pages.find(format_of(environ.get("HTTP_ACCEPT", "")))
        headers, body = found.page.respond(environ.get("HTTP_ACCEPT_ENCODING", ""))
        start_response("200 OK", list(headers.items()))
        return [body]

    return app


def _say(status: str, word: str, start_response: "StartResponse") -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{word}\n".encode()]


class _Ipv6Server(ThreadingWSGIServer):
    address_family = socket.AF_INET6


class _Silent(WSGIRequestHandler):
    """Serves the metrics page without a log line for each request, since Prometheus reads it every few seconds."""

    def log_message(self, format: str, *words: Any) -> None:
        pass


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


def dump_metrics(registry: CollectorRegistry) -> Dump:
    return [
        [family.name, family.documentation, family.type, family.unit, [_dump_sample(one) for one in family.samples]]
        for family in registry.collect()
    ]


def _dump_sample(sample: Any) -> list[Any]:
    exemplar = sample.exemplar
    traced = None if exemplar is None else [exemplar.labels, exemplar.value, exemplar.timestamp]
    return [sample.name, sample.labels, sample.value, traced]


class _Series:
    """The values of one series of a metric: one value for each process that has the series."""

    __slots__ = ("exemplar", "labels", "name", "values")

    def __init__(self, name: str, labels: dict[str, str]) -> None:
        self.name, self.labels = name, labels
        self.values: list[float] = []
        self.exemplar: Sequence[Any] | None = None


def merge(dumps: Iterable[Dump], gauges: Mapping[str, Combine]) -> list[Metric]:
    """Combines the metrics of several processes.

    Adds up counters and histograms. `gauges` says how to combine a gauge, by its name; other gauges take the largest
    value of all processes. The latest exemplar is kept.
    """
    families: dict[str, Metric] = {}
    series: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], _Series]] = {}
    for dump in dumps:
        for name, documentation, kind, unit, samples in dump:
            families.setdefault(name, Metric(name, documentation, kind, unit))
            _collect(series.setdefault(name, {}), samples)
    for name, family in families.items():
        for one in series[name].values():
            value = _combination(family.type, one.name, gauges)(one.values)
            exemplar = None if one.exemplar is None else Exemplar(*one.exemplar)
            family.add_sample(one.name, one.labels, value, exemplar=exemplar)
    return list(families.values())


def _collect(series: dict[tuple[str, tuple[tuple[str, str], ...]], _Series], samples: Iterable[Sequence[Any]]) -> None:
    for name, labels, value, exemplar in samples:
        key = name, tuple(sorted(labels.items()))
        one = series.get(key)
        if one is None:
            one = series[key] = _Series(name, labels)
        one.values.append(value)
        if exemplar is not None and (one.exemplar is None or (exemplar[2] or 0) > (one.exemplar[2] or 0)):
            one.exemplar = exemplar


def _combination(kind: str, sample: str, gauges: Mapping[str, Combine]) -> Combine:
    if sample.endswith("_created"):  # when the series began
        return min
    return sum if kind in CUMULATIVE else gauges.get(sample, max)


class MergedMetrics:
    """Combines the metrics of all processes of a service, including ended ones.

    Without ended ones a counter would fall, and Prometheus would take its remaining value for an increase. Increments
    between the last scrape and the end of a process are lost.
    """

    def __init__(self, gauges: Mapping[str, Combine]) -> None:
        """Takes in `gauges` how to combine the values of each gauge, by its name; the default is the largest value."""
        self._gauges = {**PROCESS_GAUGES, **gauges}
        self._ended: Dump = []

    def retire(self, last: Dump) -> None:
        """Keeps the counters and histograms of a process that has ended."""
        cumulative = [family for family in last if family[2] in CUMULATIVE]
        self._ended = dump_metrics(CollectedMetrics(merge([self._ended, cumulative], {})))  # type: ignore[arg-type]  # it only collects

    def page(self, dumps: Iterable[Dump], more: Iterable[Metric] = ()) -> "CollectedMetrics":
        """Returns a registry for prometheus_client's encoders; `more` are metrics of this process."""
        return CollectedMetrics([*merge([*dumps, self._ended], self._gauges), *more])


class CollectedMetrics:
    """A registry of collected metrics, with the methods that prometheus_client's encoders call."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
