"""Opens gRPC channels: in plain text, or over TLS if `POINTSMAN_CLIENT_TLS_CA` names a file.

`POINTSMAN_CLIENT_TLS_CERTIFICATE` and `POINTSMAN_CLIENT_TLS_KEY` name the client certificate for services that ask for
one. `POINTSMAN_CLIENT_TLS_SERVER_NAME` is the name in the service's certificate, if the address differs from it (for
example through a forwarded port).
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
        raise CommandError(f"POINTSMAN_CLIENT_TLS_*: {error}") from error


def _tls() -> ClientTls | None:
    ca, certificate, key = (_file(f"POINTSMAN_CLIENT_TLS_{name}") for name in ("CA", "CERTIFICATE", "KEY"))
    return client_tls(ca, certificate, key, os.environ.get("POINTSMAN_CLIENT_TLS_SERVER_NAME", ""))


def _file(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
