"""Typed stubs of gRPC's health and reflection services, whose type packages declare no methods."""

from collections.abc import AsyncIterator
from typing import Protocol, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc


class HealthWatch(Protocol):
    def __aiter__(self) -> AsyncIterator[health_pb2.HealthCheckResponse]: ...

    async def read(self) -> health_pb2.HealthCheckResponse: ...

    def cancel(self) -> bool: ...


class HealthStub(Protocol):
    Check: "grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]"

    def Watch(self, request: health_pb2.HealthCheckRequest) -> HealthWatch: ...


class ReflectionStub(Protocol):
    ServerReflectionInfo: (
        "grpc.aio.StreamStreamMultiCallable[reflection_pb2.ServerReflectionRequest, "
        "reflection_pb2.ServerReflectionResponse]"
    )


def health_stub(channel: grpc.aio.Channel) -> HealthStub:
    return cast(HealthStub, health_pb2_grpc.HealthStub(channel))


def reflection_stub(channel: grpc.aio.Channel) -> ReflectionStub:
    return cast(ReflectionStub, reflection_pb2_grpc.ServerReflectionStub(cast(grpc.Channel, channel)))


def raw_call(channel: grpc.aio.Channel, method: str) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]":
    """Returns a callable that sends bytes as they are and returns the response's bytes."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    return call
