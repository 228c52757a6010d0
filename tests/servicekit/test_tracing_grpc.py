"""Spans of gRPC calls are children of the caller's span on both sides, with their status codes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit import logs
from pointsman_servicekit.errors import NotFound
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_server import serving
from pointsman_servicekit.tracing.exporting import tracing_server_interceptors
from pointsman_servicekit.tracing.grpc import TracedCalls

from tests.gateway.doubles.span_recorder import Recorded
from tests.grpc_stubs import health_stub

SERVICE = pb.DESCRIPTOR.services_by_name["Retriever"].full_name
SEARCH = f"{SERVICE}/Search"


class Servicer(retriever_pb2_grpc.RetrieverServicer):
    def __init__(self) -> None:
        self.ids: list[tuple[str, str, logs.TraceIds | None]] = []

    async def Search(self, request: pb.SearchRequest, context: Any) -> pb.SearchResponse:
        self.ids.append((logs.request_id.get(), logs.decision_id.get(), logs.current_trace.get()))
        if request.collection == "nowhere":
            raise NotFound("no collection like xyzzy", code="unknown_collection")
        if request.collection == "mistaken":
            raise ValueError("xyzzy")
        return pb.SearchResponse()

    async def Snapshot(self, request: pb.SnapshotRequest, context: Any) -> AsyncIterator[pb.SnapshotPart]:
        yield pb.SnapshotPart()


@asynccontextmanager
async def talking(server: Recorded, client: Recorded) -> AsyncIterator[tuple[Servicer, grpc.aio.Channel]]:
    servicer = Servicer()

    def register(at: grpc.aio.Server) -> None:
        retriever_pb2_grpc.add_RetrieverServicer_to_server(servicer, at)

    async with (
        serving(
            "127.0.0.1:0", [SERVICE], register, grace=0, interceptors=tracing_server_interceptors(server.spans)
        ) as running,
        open_channel(running.address, interceptors=[TracedCalls(client.spans)]) as channel,
    ):
        yield servicer, channel


async def test_a_calls_spans_are_children_of_the_callers_span() -> None:
    server, client = Recorded(), Recorded()
    async with talking(server, client) as (servicer, channel):
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        with client.spans.phase("asking"):
            metadata = [("x-request-id", "r-1"), ("x-pointsman-decision-id", "d-1")]
            await stub.Search(pb.SearchRequest(), metadata=metadata)
    (asking,), (called,), (served,) = client.named("asking"), client.named(SEARCH), server.named(SEARCH)
    assert (called.kind.name, served.kind.name) == ("CLIENT", "SERVER")
    assert called.parent is not None
    assert served.parent is not None
    assert (called.parent.span_id, served.parent.span_id) == (asking.context.span_id, called.context.span_id)
    assert len({span.context.trace_id for span in (asking, called, served)}) == 1
    for span in (called, served):
        assert span.attributes is not None
        assert span.attributes["rpc.response.status_code"] == "OK"
    request, decision, trace = servicer.ids[0]
    assert (request, decision) == ("r-1", "d-1")
    assert trace is not None
    assert (int(trace.trace_id, 16), int(trace.span_id, 16)) == (served.context.trace_id, served.context.span_id)


@pytest.mark.parametrize(("collection", "status"), [("nowhere", "NOT_FOUND"), ("mistaken", "INTERNAL")])
async def test_a_failures_span_has_its_code_but_not_its_message(collection: str, status: str) -> None:
    server, client = Recorded(), Recorded()
    async with talking(server, client) as (_, channel):
        with client.spans.phase("asking"), pytest.raises(grpc.aio.AioRpcError):
            await retriever_pb2_grpc.RetrieverStub(channel).Search(pb.SearchRequest(collection=collection))
    for span in (*server.named(SEARCH), *client.named(SEARCH)):
        assert span.attributes is not None
        assert span.attributes["error.type"] == status
        assert span.status.status_code.name == "ERROR"
        assert "xyzzy" not in span.to_json()
    assert len(server) == 1


async def test_background_calls_start_no_trace() -> None:
    server, client = Recorded(), Recorded()
    async with talking(server, client) as (_, channel):
        await retriever_pb2_grpc.RetrieverStub(channel).Search(pb.SearchRequest())
        await health_stub(channel).Check(health_pb2.HealthCheckRequest())
    assert (len(client), len(server)) == (0, 1)
    assert server.named(SEARCH)[0].parent is None


async def test_the_callers_sampling_decision_is_respected() -> None:
    server, client = Recorded(), Recorded()
    async with talking(server, client) as (servicer, channel):
        unsampled = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")]
        await retriever_pb2_grpc.RetrieverStub(channel).Search(pb.SearchRequest(), metadata=unsampled)
    assert len(server) == 0
    trace = servicer.ids[0][2]
    assert trace is not None
    assert (trace.trace_id, trace.sampled) == ("0af7651916cd43dd8448eb211c80319c", False)


async def test_a_stream_has_a_span_too() -> None:
    server, client = Recorded(), Recorded()
    async with talking(server, client) as (_, channel):
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        assert [1 async for _ in stub.Snapshot(pb.SnapshotRequest())] == [1]
    assert len(server) == 1
