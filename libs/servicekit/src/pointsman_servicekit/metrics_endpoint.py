"""`GET /metrics`, and `/healthz` and `/readyz`, for services that have no HTTP door of their own."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication


@contextmanager
def serving_metrics(
    listen: str, registry: CollectorRegistry, is_ready: Callable[[], bool] = lambda: True
) -> Iterator[int]:
    """Serves `registry` at `listen` ("127.0.0.1:0" takes a free port) from a thread of its own; yields the port.

    `/healthz` says that the process lives, `/readyz` what `is_ready` does, which is asked from another thread: a
    kubelet's own gRPC probe speaks no TLS. Raises OSError where the port cannot be had.
    """
    host, _, port = listen.rpartition(":")
    try:
        server = make_server(host, int(port), _app(registry, is_ready), ThreadingWSGIServer, handler_class=_Silent)
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


class _Silent(WSGIRequestHandler):
    """Logs no requests: there is one every few seconds."""

    def log_message(self, format: str, *words: Any) -> None:
        pass
