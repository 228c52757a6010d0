"""A gRPC channel as every client of ours opens it."""

import grpc

from pointsman_servicekit.grpc_server import MAX_MESSAGE_BYTES


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to `address` ("127.0.0.1:8082"); connects by itself, and again after a break within a second."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ],
    )
