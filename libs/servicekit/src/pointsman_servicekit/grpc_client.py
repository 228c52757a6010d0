"""How clients open gRPC channels to the services."""

from collections.abc import Sequence
from typing import TypeAlias

import grpc

from pointsman_servicekit.grpc_server import MAX_MESSAGE_BYTES
from pointsman_servicekit.tls import ClientTls

Interceptors: TypeAlias = Sequence[grpc.aio.ClientInterceptor]


def open_channel(address: str, tls: ClientTls | None = None, interceptors: Interceptors = ()) -> grpc.aio.Channel:
    """Opens a channel to `address` ("127.0.0.1:8082") that connects on demand and reconnects within a second.

    Raises TlsError if the files of `tls` cannot be used.
    """
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    ca, key, certificate = tls.pem()
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)
