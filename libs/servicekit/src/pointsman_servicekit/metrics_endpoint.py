"""`GET /metrics` for services that have no HTTP door of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server


@contextmanager
def serving_metrics(listen: str, registry: CollectorRegistry) -> Iterator[int]:
    """Serves `registry` at `listen` ("127.0.0.1:0" takes a free port) from a thread of its own; yields the port.

    Raises OSError where the port cannot be had.
    """
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), addr=host, registry=registry)
    except OSError as error:
        raise OSError(f"cannot listen on {listen}: {error.strerror}") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
