"""Typed stubs of gRPC's health and reflection services: the type packages of both name no methods."""

from typing import Protocol, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc


class HealthStub(Protocol):
    Check: "grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]"
    Watch: "grpc.aio.UnaryStreamMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]"


class ReflectionStub(Protocol):
    ServerReflectionInfo: (
        "grpc.aio.StreamStreamMultiCallable[reflection_pb2.ServerReflectionRequest, "
        "reflection_pb2.ServerReflectionResponse]"
    )


def health_stub(channel: grpc.aio.Channel) -> HealthStub:
    return cast(HealthStub, health_pb2_grpc.HealthStub(channel))


def reflection_stub(channel: grpc.aio.Channel) -> ReflectionStub:
    return cast(ReflectionStub, reflection_pb2_grpc.ServerReflectionStub(cast(grpc.Channel, channel)))
