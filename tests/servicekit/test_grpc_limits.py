"""Limits on what one client can do to a gRPC server, tested with HTTP/2 frames that no gRPC client would send."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_server import GrpcServer, ServerLimits, serving

from tests.gateway.doubles.http2_client import (
    CONTINUATION,
    END_HEADERS,
    HEADERS,
    PING,
    SETTINGS,
    Http2Client,
    Setting,
    frame,
    reset_frame,
    settings_frame,
    speaking,
    with_prefix,
)
from tests.gateway.doubles.waiting import found, until

ROUTE, GENERATE = "/pointsman.v1.Gateway/Route", "/pointsman.v1.Gateway/Generate"
MESSAGE = with_prefix(pb.RouteRequest(model="auto").SerializeToString())


class WaitingServicer(gateway_pb2_grpc.GatewayServicer):
    """A servicer in which Route answers immediately, Generate waits until it is cancelled, and GenerateStream never
    ends.
    """

    def __init__(self) -> None:
        self.running = 0
        self.written = 0

    async def Route(self, request: pb.RouteRequest, context: Any) -> pb.RouteResponse:
        return pb.RouteResponse(decision=pb.Decision(path=request.model))

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.running -= 1
        return pb.GenerateResponse()

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        self.running += 1
        try:
            while True:
                yield pb.GenerateStreamResponse(delta=pb.Delta(content="x" * 100_000))
                self.written += 1
        finally:
            self.running -= 1


@pytest.fixture
def waiting() -> WaitingServicer:
    return WaitingServicer()


def serving_with(limits: ServerLimits, servicer: WaitingServicer) -> Any:
    def register(server: Any) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, server)

    return serving("127.0.0.1:0", [], register, grace=0, limits=limits)


async def routes(address: str) -> bool:
    async with open_channel(address) as channel:
        await gateway_pb2_grpc.GatewayStub(channel).Route(pb.RouteRequest(), timeout=10)
    return True


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_compressed_message_is_refused(waiting: WaitingServicer, compression: grpc.Compression) -> None:
    async with (
        serving_with(ServerLimits(), waiting) as server,
        grpc.aio.insecure_channel(server.address, compression=compression) as channel,
    ):
        request = pb.RouteRequest(model="m" * 10_000)  # a short message is not compressed by the client
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await gateway_pb2_grpc.GatewayStub(channel).Route(request)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_that_claims_to_be_compressed_without_naming_how_is_not_decompressed(
    waiting: WaitingServicer,
) -> None:
    async with serving_with(ServerLimits(), waiting) as server, speaking(server.address) as client:
        packed = gzip.compress(pb.RouteRequest(model="auto").SerializeToString())
        _, trailers = await client.answer(client.call(ROUTE, with_prefix(packed, compressed=True)))
        assert trailers["grpc-status"] != "0"


async def test_a_connection_beyond_the_limit_is_closed_and_a_closed_one_makes_room(waiting: WaitingServicer) -> None:
    async with (
        serving_with(ServerLimits(max_connections=2), waiting) as server,
        speaking(server.address) as first,
        speaking(server.address) as second,
    ):
        for client in (first, second):
            await client.next(SETTINGS)
        async with speaking(server.address) as third:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await third.next(SETTINGS)
        await second.close()
        await found(lambda: is_served(server))


async def is_served(server: GrpcServer) -> bool:
    async with speaking(server.address) as client:
        try:
            await client.next(SETTINGS)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        return True


async def test_a_client_that_sends_nothing_is_disconnected(waiting: WaitingServicer) -> None:
    async with serving_with(ServerLimits(handshake_timeout=0.2), waiting) as server:
        host, _, port = server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(10):
            while await reader.read(1000):
                pass
        writer.close()


async def test_a_client_that_does_not_acknowledge_a_ping_is_disconnected(waiting: WaitingServicer) -> None:
    limits = ServerLimits(keepalive_time=1, keepalive_timeout=1)
    async with serving_with(limits, waiting) as server, speaking(server.address) as client:
        client.say(frame(SETTINGS, 1, 0, b""))
        client.call(GENERATE, with_prefix(b""))
        await until(lambda: waiting.running == 1)
        await client.next(PING)
        await client.ended()
        await until(lambda: waiting.running == 0)


async def test_each_ping_is_answered_however_often_they_come(waiting: WaitingServicer) -> None:
    """Answering costs less than disconnecting the client; tests/security measures a flood of pings."""
    numbers = [number.to_bytes(8, "big") for number in range(100)]
    async with serving_with(ServerLimits(), waiting) as server, speaking(server.address) as client:
        await client.next(SETTINGS)
        client.say(*[frame(PING, 0, 0, number) for number in numbers])
        answers: list[bytes] = []
        while len(answers) < len(numbers):
            ping = await client.next(PING)
            if ping.flags & 1:  # an answer, not a ping of the server
                answers.append(ping.payload)
        assert answers == numbers


async def test_more_calls_than_one_connection_may_have_are_not_started(waiting: WaitingServicer) -> None:
    limits = ServerLimits(max_concurrent_streams=8)
    async with serving_with(limits, waiting) as server, speaking(server.address) as client:
        announced = await client.next(SETTINGS)
        assert (3).to_bytes(2, "big") + (8).to_bytes(4, "big") in announced.payload
        client.say(frame(SETTINGS, 1, 0, b""))
        for _ in range(20):
            client.call(GENERATE, with_prefix(b""))
        await until(lambda: waiting.running == 8)
        await routes(server.address)
        assert waiting.running == 8


async def test_calls_that_are_reset_at_once_end_their_servicers(waiting: WaitingServicer) -> None:
    async with serving_with(ServerLimits(), waiting) as server, speaking(server.address) as client:
        client.say(frame(SETTINGS, 1, 0, b""))
        for _ in range(300):
            client.say(reset_frame(client.call(GENERATE, with_prefix(b""))))
        begun = time.monotonic()
        await routes(server.address)
        assert time.monotonic() - begun < 5
        await until(lambda: waiting.running == 0)


async def test_headers_in_very_many_pieces_are_refused(waiting: WaitingServicer) -> None:
    async with (
        serving_with(ServerLimits(max_metadata_bytes=4096), waiting) as server,
        speaking(server.address) as client,
    ):
        client.say(frame(SETTINGS, 1, 0, b""))
        stream = client.stream()
        client.say(frame(HEADERS, 0, stream, client.block(ROUTE)))
        client.say(*[frame(CONTINUATION, 0, stream, b"\x40\x01a\x01b" * 200) for _ in range(2_000)])
        client.say(frame(CONTINUATION, END_HEADERS, stream, b""))
        _, trailers = await client.answer(stream)
        assert trailers["grpc-status"] == str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
        assert await routes(server.address)


async def test_a_stream_that_is_not_read_stops_its_servicer_from_writing(waiting: WaitingServicer) -> None:
    async with serving_with(ServerLimits(), waiting) as server, speaking(server.address) as client:
        client.say(frame(SETTINGS, 1, 0, b""))
        stream = client.call("/pointsman.v1.Gateway/GenerateStream", with_prefix(b""))
        await until(lambda: waiting.running == 1)
        assert await routes(server.address)
        assert waiting.written <= 2  # 64 KiB fit the stream's window
        client.say(reset_frame(stream))
        await until(lambda: waiting.running == 0)


async def test_a_health_watcher_that_does_not_read_does_not_delay_the_others(waiting: WaitingServicer) -> None:
    context = serving_with(ServerLimits(), waiting)
    server = await context.__aenter__()
    async with speaking(server.address, {Setting.INITIAL_WINDOW_SIZE: 0}) as client:
        client.say(frame(SETTINGS, 1, 0, b""))
        client.call("/grpc.health.v1.Health/Watch", with_prefix(b""))
        await client.next(HEADERS)
        async with asyncio.timeout(5):
            await server.set_serving(False)
            await context.__aexit__(None, None, None)


@pytest.mark.parametrize(
    "expected",
    [
        b"GET / HTTP/1.1\r\nhost: here\r\n\r\n",
        settings_frame({}) * 3,
        b"\x16\x03\x01\x00\x00",  # the start of a TLS handshake
    ],
)
async def test_what_is_not_http2_is_disconnected(waiting: WaitingServicer, expected: bytes) -> None:
    async with serving_with(ServerLimits(handshake_timeout=1), waiting) as server:
        host, _, port = server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        client = Http2Client(reader, writer)
        client.say(expected)
        async with asyncio.timeout(10):
            await client.ended()
        await client.close()
        assert await routes(server.address)
