"""The gRPC server of all services, over a real port."""

import asyncio
import logging
import re
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.errors import FAMILIES, InvalidArgument, PointsmanError, Unavailable
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.grpc_server import GrpcServer, ServerLimits, serving
from pointsman_servicekit.logs import request_id

from tests.grpc_stubs import health_stub, raw_call


async def test_an_error_becomes_a_rich_status(servicer: Any, call: Any) -> None:
    servicer.error = Unavailable("engine 'a' is down", code="engine_down", param="model", retry_after=2.5)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call()
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert failed.value.details() == "engine 'a' is down"
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    status = rpc_status.from_call(cast(grpc.Call, failed.value))  # it has the attributes that from_call reads
    assert status
    assert [detail.Unpack(into) for detail, into in zip(status.details, (info, retry), strict=True)] == [True, True]
    assert (info.reason, info.domain, info.metadata["param"]) == ("engine_down", "pointsman", "model")
    assert retry.retry_delay.ToTimedelta().total_seconds() == 2.5


@pytest.mark.parametrize("family", FAMILIES)
async def test_an_error_is_restored_at_the_client(servicer: Any, call: Any, family: type[PointsmanError]) -> None:
    servicer.error = family("what is wrong", code="its_code", param="its.param", retry_after=1.5)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call()
    error = from_rpc_error(failed.value, "gateway")
    assert type(error) is family
    assert (error.message, error.code, error.param, error.retry_after) == (
        "what is wrong",
        "its_code",
        "its.param",
        1.5,
    )


async def test_an_error_without_a_parameter_or_a_wait_has_neither(servicer: Any, call: Any) -> None:
    servicer.error = InvalidArgument("no", code="no")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call()
    error = from_rpc_error(failed.value, "gateway")
    assert (error.param, error.retry_after) == (None, None)


async def test_no_task_waits_for_the_calls_of_one_method(channel: grpc.aio.Channel) -> None:
    await gateway_pb2_grpc.GatewayStub(channel).Route(pb.RouteRequest(model="auto"))
    waiting = [repr(task) for task in asyncio.all_tasks()]
    assert [task for task in waiting if "AioServer._request_call" in task]
    assert not [task for task in waiting if "AioServer._request_registered_call" in task]


async def test_an_unknown_error_goes_to_the_log_and_its_id_to_the_client(
    servicer: Any, call: Any, caplog: pytest.LogCaptureFixture
) -> None:
    servicer.error = ZeroDivisionError("secret of the house")
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call()
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    found = re.fullmatch(r"internal error ([0-9a-f]{12})", failed.value.details() or "")
    assert found
    assert from_rpc_error(failed.value, "gateway").code == "internal"
    assert f"internal error {found[1]}" in caplog.text
    assert "ZeroDivisionError: secret of the house" in caplog.text


async def test_messages_sent_before_an_error_arrive(servicer: Any, channel: grpc.aio.Channel) -> None:
    servicer.error = InvalidArgument("no", code="no")
    responses = gateway_pb2_grpc.GatewayStub(channel).GenerateStream(pb.GenerateRequest())
    assert (await responses.read()).delta.content == "one"
    with pytest.raises(grpc.aio.AioRpcError):
        await responses.read()
    assert servicer.closed.is_set()


async def test_a_disconnect_closes_the_servicers_stream(servicer: Any, channel: grpc.aio.Channel) -> None:
    responses = gateway_pb2_grpc.GatewayStub(channel).GenerateStream(pb.GenerateRequest())
    await responses.read()
    responses.cancel()
    await asyncio.wait_for(servicer.closed.wait(), 2)


@pytest.mark.parametrize("method", ["Route", "GenerateStream"])
async def test_what_is_sent_to_a_client_that_is_gone_is_no_error(
    servicer: Any, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    message = {"Route": pb.RouteRequest, "GenerateStream": pb.GenerateRequest}[method](model="gone")
    responses = getattr(gateway_pb2_grpc.GatewayStub(channel), method)(message)
    reading = asyncio.ensure_future(responses if method == "Route" else responses.read())
    await asyncio.wait_for(servicer.waits.wait(), 2)
    responses.cancel()
    await asyncio.wait([reading])
    await asyncio.wait_for(servicer.closed.wait(), 2)
    await gateway_pb2_grpc.GatewayStub(channel).Route(pb.RouteRequest(model="auto"))  # the first call has ended by then
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_an_unreachable_server_is_reported_by_its_name(free_address: str) -> None:
    async with open_channel(free_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await gateway_pb2_grpc.GatewayStub(channel).Route(pb.RouteRequest())
    error = from_rpc_error(failed.value, "retriever")
    assert isinstance(error, Unavailable)
    assert (error.code, error.retry_after) == ("retriever_unavailable", 1.0)
    assert error.message == f"retriever cannot be reached at {free_address}: Connection refused"


async def test_a_timeout_is_reported_as_such(channel: grpc.aio.Channel) -> None:
    stub = gateway_pb2_grpc.GatewayStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in stub.GenerateStream(pb.GenerateRequest(), timeout=0.05):
            pass
    error = from_rpc_error(failed.value, "gateway")
    assert (error.code, error.message) == ("deadline_exceeded", "gateway did not answer in time")


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await raw_call(channel, "/pointsman.v1.Gateway/Nothing")(b"")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_reports_the_services_state(server: GrpcServer, channel: grpc.aio.Channel) -> None:
    health = health_stub(channel)
    seen = []
    for serving_now in (None, False, True):
        if serving_now is not None:
            await server.set_serving(serving_now)
        seen.append((await health.Check(health_pb2.HealthCheckRequest())).status)
    assert seen == [
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
        health_pb2.HealthCheckResponse.SERVING,
    ]


async def test_health_checks_may_name_the_service(server: GrpcServer, channel: grpc.aio.Channel) -> None:
    """Load balancers and `grpc_health_probe -service=NAME` send the service's name instead of an empty one."""
    health, named = health_stub(channel), health_pb2.HealthCheckRequest(service="pointsman.v1.Gateway")
    watch = health.Watch(named)
    assert (await watch.read()).status == (await health.Check(named)).status == health_pb2.HealthCheckResponse.SERVING
    await server.set_serving(False)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await server.set_serving(True)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    await server.start_shutdown()
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await health.Check(named)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await health.Check(health_pb2.HealthCheckRequest(service="pointsman.v1.Nothing"))
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_health_watcher_receives_changes(server: GrpcServer, channel: grpc.aio.Channel) -> None:
    watch = health_stub(channel).Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    await server.set_serving(False)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()


async def test_a_service_may_start_before_it_is_ready() -> None:
    async with (
        serving("127.0.0.1:0", [], lambda server: None, ready=False) as server,
        open_channel(server.address) as channel,
    ):
        answer = await health_stub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("version", ["v1alpha", "v1"])
async def test_reflection_lists_the_services(channel: grpc.aio.Channel, version: str) -> None:
    call: grpc.aio.StreamStreamMultiCallable[
        reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse
    ] = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    responses = [response async for response in call(iter([ask]))]
    assert {service.name for service in responses[0].list_services_response.service} == {
        "pointsman.v1.Gateway", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection",
    }  # fmt: skip


async def test_a_port_in_use_is_named(server: GrpcServer) -> None:
    with pytest.raises(OSError, match=re.escape(f"cannot listen on {server.address}")):
        async with serving(server.address, [], lambda server: None):
            pass


async def test_the_clients_request_id_is_in_the_log(servicer: Any, call: Any, caplog: pytest.LogCaptureFixture) -> None:
    def stamp(record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True

    caplog.handler.addFilter(stamp)
    servicer.error = ZeroDivisionError("x")
    for metadata in [("x-request-id", "abc-123")], []:
        with pytest.raises(grpc.aio.AioRpcError):
            await call(metadata)
    given, made = (record.__dict__["request_id"] for record in caplog.records if "internal error" in record.message)
    assert given == "abc-123"
    assert re.fullmatch("[0-9a-f]{16}", made)


async def test_a_call_in_flight_may_end_when_the_server_stops() -> None:
    slow = Slow()

    def register(server: grpc.aio.Server) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(slow, server)

    async with serving("127.0.0.1:0", [], register, grace=5) as server:
        channel = open_channel(server.address)
        asked = asyncio.ensure_future(gateway_pb2_grpc.GatewayStub(channel).Route(pb.RouteRequest()))
        await slow.begun.wait()
        asyncio.get_running_loop().call_later(0.1, slow.go_on.set)
    assert (await asked).decision.path == "late"
    await channel.close()


class Slow(gateway_pb2_grpc.GatewayServicer):
    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def Route(self, request: pb.RouteRequest, context: Any) -> pb.RouteResponse:
        self.begun.set()
        await self.go_on.wait()
        return pb.RouteResponse(decision=pb.Decision(path="late"))


async def test_an_old_connection_is_replaced_without_interrupting_calls(servicer: Any) -> None:
    def register(server: grpc.aio.Server) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, server)

    limits = ServerLimits(max_connection_age=0.3)
    async with (
        serving("127.0.0.1:0", [], register, grace=0, limits=limits) as server,
        open_channel(server.address) as channel,
    ):
        stub = gateway_pb2_grpc.GatewayStub(channel)
        begun = stub.GenerateStream(pb.GenerateRequest())
        assert (await begun.read()).delta.content == "one"
        async with asyncio.timeout(20):
            while len(servicer.peers) < 3:
                await stub.Route(pb.RouteRequest())
        assert (await begun.read()).delta.content == "one"
        begun.cancel()
