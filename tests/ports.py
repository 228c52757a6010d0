"""Ports for servers that are told theirs."""

import random
import socket

BELOW = 32_768
"""From here on the kernel takes ports for outgoing connections, as a rule; one of those may be gone a moment later."""


def free_port() -> int:
    """Of 127.0.0.1."""
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
    """Of 127.0.0.1, as `host:port`."""
    return f"127.0.0.1:{free_port()}"
