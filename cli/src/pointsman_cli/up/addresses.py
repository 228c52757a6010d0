"""Chooses the addresses of all processes: HTTP and gRPC as given, the others on free ports."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pointsman_cli.errors import UsageError

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Each as "HOST:PORT"."""

    http: str
    grpc: str
    retriever: str
    retriever_metrics: str
    lora_server: str
    lora_server_metrics: str
    engine: str


def choose_addresses(http: str, grpc: str) -> Addresses:
    """Raises UsageError if a given port is in use; port 0 takes a free one."""
    with ExitStack() as held:  # all ports are held until the last is chosen, so that no two are equal

        def hold(address: str, option: str) -> str:
            return held.enter_context(hold_port(address, option))

        free = f"{HOST}:0"
        return Addresses(hold(http, "--http"), hold(grpc, "--grpc"), *(hold(free, "a free port") for _ in range(5)))


@contextmanager
def hold_port(address: str, option: str) -> Iterator[str]:
    """Reserves a port for the duration of the block; yields its address, with a free port instead of 0.

    Raises UsageError if the port cannot be reserved.
    """
    host, port = split_address(address, option)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the servers do, so that TIME_WAIT does not block the port
        try:
            holder.bind((host, port))
            holder.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UsageError(f"port {port} is taken by another program; choose another with {option}") from error
            raise UsageError(f"cannot listen on {address} ({option}): {error.strerror or error}") from error
        yield f"{host}:{holder.getsockname()[1]}"


def split_address(address: str, option: str) -> tuple[str, int]:
    """Raises UsageError if the text is not "HOST:PORT"."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{option} is '{address}'; it should be HOST:PORT, such as 127.0.0.1:8080")
    return host, int(port)
