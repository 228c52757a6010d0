"""An HTTP server for metrics and probes, for services without an HTTP API, and the metric of the running release."""

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import ThreadingWSGIServer

from pointsman_servicekit.metrics_page import ThreadedMetricsPages, encode_page, format_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication


@contextmanager
def serving_metrics(
    listen: str, registry: CollectorRegistry, is_ready: Callable[[], bool] = lambda: True
) -> Iterator[int]:
    """Serves metrics and probes over HTTP from threads for the length of the block; yields the port.

    `listen` is an address such as "127.0.0.1:0" (any free port) or "[::]:9082" (IPv6, and IPv4 if the system has it).
    `/healthz` returns 200. `/readyz` calls `is_ready` in a thread and returns 200 or 503. A GET of any other path
    returns the metrics, up to `MAX_AGE_SECONDS` old. The probes use HTTP because Kubernetes' gRPC probe does not
    support TLS. Raises OSError if the port cannot be bound.
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
    """Handles requests without a log line for each, since Prometheus sends one every few seconds."""

    def log_message(self, format: str, *words: Any) -> None:
        pass


def export_build_info(registry: CollectorRegistry, service: str) -> None:
    """Exports the version of the distribution "pointsman-SERVICE" as the metric `pointsman_build_info`.

    Raises importlib's PackageNotFoundError if the distribution is not installed.
    """
    info = Gauge("pointsman_build_info", "1 for the release that runs.", ["service", "version"], registry=registry)
    info.labels(service, version(f"pointsman-{service}")).set(1)
