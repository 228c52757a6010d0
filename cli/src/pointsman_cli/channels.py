"""How the command opens its gRPC channels: as they are, or over TLS where `POINTSMAN_PEER_CA` names a file.

`POINTSMAN_PEER_CERTIFICATE` and `POINTSMAN_PEER_KEY` are shown where a service wants a client's; `POINTSMAN_PEER_NAME`
is the one in the service's certificate, where we reach it by another, as through a forwarded port.
"""

import os
from pathlib import Path

import grpc
from pointsman_servicekit import grpc_client
from pointsman_servicekit.tls import ClientTls, TlsError, client_tls

from pointsman_cli.errors import CommandError


def open_channel(address: str) -> grpc.aio.Channel:
    """Raises CommandError where the files that the environment names cannot be used."""
    try:
        return grpc_client.open_channel(address, _tls())
    except TlsError as error:
        raise CommandError(f"POINTSMAN_PEER_*: {error}") from error


def _tls() -> ClientTls | None:
    ca, certificate, key = (_file(f"POINTSMAN_PEER_{name}") for name in ("CA", "CERTIFICATE", "KEY"))
    return client_tls(ca, certificate, key, os.environ.get("POINTSMAN_PEER_NAME", ""))


def _file(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
