"""The gateway as Envoy's external processor, asked by a client that speaks the protocol."""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from pointsman.envoy import core_pb2, external_processor_pb2_grpc
from pointsman.envoy import external_processor_pb2 as pb
from pointsman.envoy.processing_mode_pb2 import ProcessingMode
from pointsman_gateway.grpc import ext_proc
from pointsman_gateway.http.app import build_app
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_server import serving

from tests.gateway.doubles.engine import DONE, chunk, usage
from tests.gateway.doubles.gateway import Gateway, Neighbours, http_dependencies
from tests.gateway.doubles.waiting import until

BODY = b'{"model": "auto", "stream": true, "messages": [{"role": "user", "content": "Hello"}]}'
PATIENCE = 10.0
DUPLEX = ProcessingMode.FULL_DUPLEX_STREAMED
ANSWER: Sequence[dict[str, Any]] = (chunk("Hi", role="assistant"), chunk("", finish="stop"))


@pytest.fixture
def neighbours(neighbours: Neighbours) -> Neighbours:
    neighbours.settings["ext_proc_listen"] = "127.0.0.1:0"  # the pool of connections follows it
    return neighbours


@pytest.fixture
async def processor(gateway: Gateway) -> AsyncIterator[str]:
    app = build_app(http_dependencies(gateway.components))

    def register(server: Any) -> None:
        external_processor_pb2_grpc.add_ExternalProcessorServicer_to_server(ext_proc.ExternalProcessor(app), server)

    async with serving("127.0.0.1:0", [ext_proc.SERVICE], register, grace=1) as server:
        yield server.address


class Call:
    """One request, as Envoy sends it part by part."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, **parts: Any) -> None:
        await self._call.write(pb.ProcessingRequest(**parts))

    async def receive(self) -> pb.ProcessingResponse:
        message = await self._call.read()
        assert message is not grpc.aio.EOF, (await self._call.code(), await self._call.details())
        return message  # type: ignore[no-any-return]  # generated code has no types

    async def status(self) -> tuple[grpc.StatusCode, str]:
        return await self._call.code(), await self._call.details()

    def cancel(self) -> None:
        self._call.cancel()


@asynccontextmanager
async def calling(processor: str) -> AsyncIterator[Call]:
    async with open_channel(processor) as channel:
        yield Call(external_processor_pb2_grpc.ExternalProcessorStub(channel).Process(timeout=PATIENCE))


def headers(pairs: Iterable[tuple[str, str]], end: bool = False) -> pb.HttpHeaders:
    values = [core_pb2.HeaderValue(key=name, raw_value=value.encode()) for name, value in pairs]
    return pb.HttpHeaders(headers=core_pb2.HeaderMap(headers=values), end_of_stream=end)


REQUEST = headers([(":method", "POST"), (":path", "/v1/chat/completions"), ("authorization", "Bearer secret")])


def modes(request: int = DUPLEX, response: int = DUPLEX) -> pb.ProtocolConfiguration:
    return pb.ProtocolConfiguration(request_body_mode=request, response_body_mode=response)  # type: ignore[arg-type]


async def post(call: Call, body: bytes = BODY) -> None:
    await call.send(request_headers=REQUEST, protocol_config=modes())
    await call.send(request_body=pb.HttpBody(body=body, end_of_stream=True))


async def test_the_engine_gets_the_chosen_model_and_no_key(processor: str) -> None:
    async with calling(processor) as call:
        await post(call)
        mutation = (await call.receive()).request_headers.response
        assert mutation.clear_route_cache
        found = {one.header.key: one.header.raw_value.decode() for one in mutation.header_mutation.set_headers}
        assert found["x-gateway-model-name"] == "tiny"
        assert found["x-gateway-destination-endpoint"].startswith("127.0.0.1:")
        assert "authorization" in mutation.header_mutation.remove_headers
        part = (await call.receive()).request_body.response.body_mutation.streamed_response
        assert part.end_of_stream
        assert b'"model":"tiny"' in part.body
        call.cancel()


async def test_the_usage_of_the_response_is_metered(processor: str, gateway: Gateway) -> None:
    async with calling(processor) as call:
        await post(call)
        await call.receive()
        await call.receive()
        await call.send(response_headers=headers([(":status", "200"), ("content-type", "text/event-stream")]))
        events = [*ANSWER, usage(), DONE]
        body = b"".join(one if isinstance(one, bytes) else b"data: " + to_json(one) + b"\n\n" for one in events)
        await call.send(response_body=pb.HttpBody(body=body, end_of_stream=True))
        assert (await call.receive()).HasField("response_headers")
        text, ends = b"", False
        while not ends:
            part = (await call.receive()).response_body.response.body_mutation.streamed_response
            text, ends = text + part.body, part.end_of_stream
    assert text.endswith(DONE)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="ok") == 1)
    assert gateway.metric("pointsman_tokens_total") > 0


async def test_a_request_that_envoy_drops_is_cancelled(processor: str, gateway: Gateway) -> None:
    async with calling(processor) as call:
        await post(call)
        await call.receive()
        call.cancel()
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
    assert gateway.metric("pointsman_in_flight") == 0


async def test_a_malformed_body_is_answered_at_once(processor: str) -> None:
    async with calling(processor) as call:
        await post(call, b"{")
        answer = (await call.receive()).immediate_response
        assert answer.status.code == 400
        assert b"bad_json" in answer.body


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (modes(request=ProcessingMode.BUFFERED), "request_body_mode: BUFFERED"),
        (modes(response=ProcessingMode.NONE), "response_body_mode: NONE"),
    ],
)
async def test_a_wrong_processing_mode_is_named(processor: str, config: pb.ProtocolConfiguration, named: str) -> None:
    async with calling(processor) as call:
        await call.send(request_headers=REQUEST, protocol_config=config)
        status, details = await call.status()
    assert status is grpc.StatusCode.FAILED_PRECONDITION
    assert named in details
    assert "FULL_DUPLEX_STREAMED" in details


def to_json(event: Any) -> bytes:

    return json.dumps(event).encode()


async def test_a_filter_that_sends_no_headers_is_told_the_setting(processor: str) -> None:
    async with calling(processor) as call:
        await call.send(request_body=pb.HttpBody(body=BODY, end_of_stream=True))
        status, details = await call.status()
    assert status is grpc.StatusCode.FAILED_PRECONDITION
    assert "request_header_mode: SEND" in details
