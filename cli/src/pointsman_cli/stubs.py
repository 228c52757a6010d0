"""The clients of the services' gRPC doors, and their errors in our words."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from pointsman.v1 import gateway_pb2_grpc, lora_server_pb2_grpc, retriever_pb2_grpc
from pointsman_servicekit.grpc_errors import from_rpc_error


def gateway(channel: grpc.aio.Channel) -> gateway_pb2_grpc.GatewayStub:
    return gateway_pb2_grpc.GatewayStub(channel)


def retriever(channel: grpc.aio.Channel) -> retriever_pb2_grpc.RetrieverStub:
    return retriever_pb2_grpc.RetrieverStub(channel)


def lora_server(channel: grpc.aio.Channel) -> lora_server_pb2_grpc.LoraServerStub:
    return lora_server_pb2_grpc.LoraServerStub(channel)


@contextmanager
def speaking_to(service: str) -> Iterator[None]:
    """Turns a failed call to `service` into the error that it stands for."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, service) from error
