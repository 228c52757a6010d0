"""Free ports of 127.0.0.1, for servers whose port must be known before they start; and HTTP servers in a thread."""

import itertools
import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from threading import Thread

FIRST, LAST = 10_000, 32_767
"""The ports that are used. Above LAST the kernel assigns ports to outgoing connections, so one can be taken before the
server binds it."""
WORKER_SHARE = 1_400
"""Number of ports of each pytest worker; 16 workers fit. No two workers ever hand out the same port."""


def _candidates() -> Iterator[int]:
    """Yields ports without end: each port of this process's share once per round, from a random start.

    A port that was handed out is not bound until its server starts, so drawing at random would hand out some of them
    twice.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    shares = (LAST + 1 - FIRST) // WORKER_SHARE
    first = FIRST + worker % shares * WORKER_SHARE
    start = random.SystemRandom().randrange(WORKER_SHARE)
    for number in itertools.count():
        yield first + (start + number) % WORKER_SHARE


_PORTS = _candidates()


def free_port() -> int:
    """Returns a port on which nobody listens now, and which is not among the last `WORKER_SHARE` ones that this process
    handed out.
    """
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("unreachable: the candidates are endless")


def free_address() -> str:
    """Returns a free port as `host:port`."""
    return f"127.0.0.1:{free_port()}"


@contextmanager
def serving(server: HTTPServer) -> Iterator[str]:
    """Runs the server and yields its URL."""
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
