"""The cost of a gRPC client for the gateway, with and without a valid key."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc

from tests.gateway.doubles.http2_client import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    SETTINGS,
    WINDOW_UPDATE,
    Http2Client,
    frame,
    reset_frame,
    settings_frame,
    speaking,
    with_prefix,
)
from tests.grpc_stubs import raw_call
from tests.security.measuring import Cost, assert_delays_nobody, cost_of
from tests.security.target import Addresses

GENERATE = "/pointsman.v1.Gateway/Generate"
EMPTY_MESSAGES = b"\x12\x00" * 4_000_000
"""A GenerateRequest of 8 MB with four million empty messages, 200 MiB once parsed."""

Attack = Callable[[Http2Client], Awaitable[None]]


async def _header_references(client: Http2Client) -> None:
    """Sends 1.8 MB of header blocks; each has 1,700 one-byte references to the dynamic table."""
    block = client.block("/no/method", [("x-y", "z")])
    for number in range(1000):
        client.say(frame(HEADERS, END_HEADERS | END_STREAM, client.stream(), block + b"\xbe" * (1700 + number % 100)))


async def _many_headers(client: Http2Client) -> None:
    block = client.block("/no/method", [(f"x-{number}", "v") for number in range(60)])
    for _ in range(5000):
        client.say(frame(HEADERS, END_HEADERS | END_STREAM, client.stream(), block))


async def _resets(client: Http2Client) -> None:
    for _ in range(5000):
        client.say(reset_frame(client.call(GENERATE, with_prefix(b""))))


def _flood(one: bytes, count: int) -> Attack:
    async def attack(client: Http2Client) -> None:
        for _ in range(count // 1000):
            client.say(one * 1000)
            await asyncio.sleep(0)

    return attack


async def _compressed(client: Http2Client) -> None:
    packed = with_prefix(gzip.compress(EMPTY_MESSAGES), compressed=True)
    for _ in range(100):
        client.call(GENERATE, packed, [("grpc-encoding", "gzip")])


async def _large_without_a_key(client: Http2Client) -> None:
    """Sends 64 KiB in each call; the server must end the stream before it has received all of them."""
    for _ in range(20):
        client.call(GENERATE, with_prefix(EMPTY_MESSAGES[:60_000]))


FLOODS: dict[str, Attack] = {
    "header references": _header_references,
    "many headers": _many_headers,
    "resets": _resets,
    "pings": _flood(frame(PING, 0, 0, bytes(8)), 300_000),
    "acknowledged pings": _flood(frame(PING, 1, 0, bytes(8)), 300_000),
    "window updates": _flood(frame(WINDOW_UPDATE, 0, 0, (1).to_bytes(4, "big")), 300_000),
    "settings": _flood(settings_frame({4: 65_536}), 20_000),
    "goaways": _flood(frame(GOAWAY, 0, 0, bytes(8)), 100_000),
    "unknown frames": _flood(frame(0xEE, 0, 0, b""), 300_000),
    "compressed messages": _compressed,
    "messages without a key": _large_without_a_key,
}

MAX_CPU_SECONDS = 1.5
MAX_MIB = 64.0


async def _attack(address: str, attack: Attack) -> None:
    async with speaking(address, {4: 2**31 - 1}) as client:
        client.say(frame(SETTINGS, 1, 0, b""))
        reading = asyncio.ensure_future(client.ended())
        with suppress(ConnectionError):
            await attack(client)
            await asyncio.wait_for(client.flush(), 20)
        await asyncio.wait([reading], timeout=1.5)
        reading.cancel()
        await asyncio.wait([reading])


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_without_a_key_costs_little_and_delays_nobody(target: Addresses, name: str) -> None:
    costs: list[Cost] = []

    def attack() -> None:
        with cost_of(target.gateway_pid) as cost:
            asyncio.run(_attack(target.grpc, FLOODS[name]))
        costs.append(cost)

    assert_delays_nobody(target.http, attack)
    assert all(cost.cpu_seconds < MAX_CPU_SECONDS and cost.peak_mib < MAX_MIB for cost in costs), costs


async def _generate(target: Addresses, raw: bytes, metadata: tuple[tuple[str, str], ...]) -> grpc.StatusCode:
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(target.grpc, options=options) as channel:
        try:
            await raw_call(channel, GENERATE)(raw, metadata=metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_a_message_without_a_key_is_not_received(target: Addresses) -> None:
    with cost_of(target.gateway_pid) as cost:
        code = asyncio.run(_generate(target, EMPTY_MESSAGES, ()))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert cost.cpu_seconds <= 0.05  # the clock's resolution is 0.01 s, and the gateway's own background work continues
    assert cost.peak_mib < 4


def test_a_message_of_very_many_fields_is_refused_before_it_is_parsed(target: Addresses) -> None:
    with cost_of(target.gateway_pid) as cost:
        code = asyncio.run(_generate(target, EMPTY_MESSAGES, (("authorization", f"Bearer {target.key}"),)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert cost.cpu_seconds < 0.2
    assert cost.peak_mib < 40


def test_incomplete_messages_of_one_key_are_refused_beyond_its_share_of_the_budget(target: Addresses) -> None:
    async def attack() -> None:
        async with speaking(target.grpc) as slow:
            slow.say(frame(SETTINGS, 1, 0, b""))
            begun = (8_000_000).to_bytes(4, "big")
            for _ in range(40):
                stream = slow.call(GENERATE, None, [("authorization", f"Bearer {target.key}")])
                slow.say(frame(DATA, 0, stream, b"\x00" + begun + bytes(1000)))
            refused = 0
            async with asyncio.timeout(20):
                while refused < 40 - 16:  # 16 messages of 8 MiB are half of 256 MiB
                    trailers = slow.headers(await slow.next(HEADERS))
                    assert trailers["grpc-status"] == str(grpc.StatusCode.UNAVAILABLE.value[0])
                    refused += 1
            assert await _generate(target, b"", (("authorization", f"Bearer {target.key}"),)) is not grpc.StatusCode.OK

    with cost_of(target.gateway_pid) as cost:
        asyncio.run(attack())
    assert cost.peak_mib < MAX_MIB


def test_a_call_with_a_key_is_answered_after_all_that(target: Addresses) -> None:
    async def ask() -> pb.ListPathsResponse:
        async with grpc.aio.insecure_channel(target.grpc) as channel:
            stub = gateway_pb2_grpc.GatewayStub(channel)
            answer: pb.ListPathsResponse = await stub.ListPaths(
                pb.ListPathsRequest(), metadata=(("authorization", f"Bearer {target.key}"),), timeout=20
            )
            return answer

    assert asyncio.run(ask()).paths
