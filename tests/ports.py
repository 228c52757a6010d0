"""Free ports for servers that need a port number in advance."""

import random
import socket

BELOW = 32_768
"""Start of the range from which the kernel takes ports for outgoing connections; such a port may be taken at any
time."""


def free_port() -> int:
    """Returns a free port of 127.0.0.1."""
    while True:
        port = random.SystemRandom().randrange(10_000, BELOW)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def free_address() -> str:
    """Returns a free address on 127.0.0.1, as `host:port`."""
    return f"127.0.0.1:{free_port()}"
