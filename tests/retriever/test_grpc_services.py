"""gRPC health and reflection."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.grpc_stubs import health_stub
from tests.retriever.client import Client


async def test_health_reports_serving(client: Client) -> None:
    for name in ("", "pointsman.v1.Retriever"):
        answer = await health_stub(client.channel).Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_service(client: Client) -> None:
    def ask() -> tuple[list[str], list[str]]:
        with grpc.insecure_channel(client.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            file = database.FindFileContainingSymbol("pointsman.v1.Retriever")
            return list(database.get_services()), [method.name for method in file.service[0].method]

    services, methods = await asyncio.to_thread(ask)
    assert "pointsman.v1.Retriever" in services
    assert methods[:6] == ["CreateCollection", "ListCollections", "DeleteCollection", "Upsert", "Delete", "Search"]
    assert {"Ingest", "Verify", "Snapshot", "Restore", "Reembed"} < set(methods)
