"""Backpressure: a client that does not read pauses the engine's stream, over HTTP and gRPC, so that the gateway's
memory stays bounded."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import count
from typing import Any

import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import chunk, usage
from tests.gateway.doubles.garbage import nothing_is_left
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.http_clients import HttpStreamClient
from tests.gateway.doubles.raw_engine import HEAD, LAST, RawEngine, event, in_chunks, running_raw_engine
from tests.gateway.doubles.waiting import until

PIECES = [f"{number:06d}" + "x" * 63_994 for number in range(750)]
"""The pieces of an answer of 48 MB."""
BOUND = 20_000_000
"""Maximum bytes in transit: the socket buffers of four connections, plus a margin."""
STILL = 0.5
"""Seconds without a byte after which a stream is considered paused."""

Texts = AsyncIterator[str]


@pytest.fixture
async def engine() -> AsyncIterator[RawEngine]:
    async with running_raw_engine() as engine:
        pieces = [in_chunks([event(chunk(piece))]) for piece in PIECES]
        end = in_chunks([event(chunk("", finish="stop")), event(usage(5, len(PIECES))), b"data: [DONE]\n\n"])
        engine.says(HEAD, *pieces, end, LAST)
        yield engine


@asynccontextmanager
async def over_http(gateway: Gateway, **asked: Any) -> AsyncIterator[Texts]:
    async def texts(events: AsyncIterator[dict[str, Any]]) -> Texts:
        async for answered in events:
            for choice in answered["choices"]:
                yield choice["delta"].get("content") or ""

    body = {"model": "tiny", "messages": [{"role": "user", "content": IN_CHAT}], "stream": True, **asked}
    async with open_http_client(gateway) as client:
        client.timeout = None
        async with aclosing(HttpStreamClient(client).events(body)) as events:
            yield texts(events)


def by_uvicorn(gateway: Gateway) -> Any:
    """Makes the fast HTTP reader pass the requests to uvicorn, by an unknown field."""
    return over_http(gateway, presence_penalty=0)


@asynccontextmanager
async def over_grpc(gateway: Gateway) -> AsyncIterator[Texts]:
    async def texts(call: Any) -> Texts:
        async for response in call:
            if response.WhichOneof("event") == "delta":
                yield response.delta.content

    request = pb.GenerateRequest(model="tiny", messages=[pb.Message(role="user", content=IN_CHAT)])
    async with open_channel(gateway.grpc_address) as channel:
        call = gateway_pb2_grpc.GatewayStub(channel).GenerateStream(request)
        yield texts(call)
        call.cancel()


Over = Callable[[Gateway], Any]

both = pytest.mark.parametrize("over", [over_http, over_grpc])


def ended(gateway: Gateway, outcome: str) -> float:
    return gateway.metric("pointsman_requests_total", outcome=outcome)


@both
async def test_a_slow_client_slows_the_engine_and_gets_the_whole_answer(
    over: Over, engine: RawEngine, gateway: Gateway
) -> None:
    async with over(gateway) as texts:
        numbers = count()
        for stop in (1, 200):
            while True:
                number = next(numbers)
                assert await anext(texts) == PIECES[number]
                if number == stop:
                    break
            await until(lambda: engine.still_for > STILL, within=30)
            assert engine.sent < stop * len(PIECES[0]) + BOUND
            assert engine.running == 1
        rest = [text async for text in texts if text]
    assert rest == PIECES[201:]
    assert ended(gateway, "ok") == 1
    assert gateway.metric("pointsman_tokens_total", type="completion") == len(PIECES)


@both
async def test_a_client_that_disconnects_from_a_paused_stream_stops_the_engine(
    over: Over, engine: RawEngine, gateway: Gateway
) -> None:
    async with over(gateway) as texts:
        await anext(texts)
        await until(lambda: engine.still_for > STILL, within=30)
        assert engine.hung_up == 0
    await until(lambda: engine.hung_up == 1)
    await until(lambda: ended(gateway, "cancelled") == 1)
    assert gateway.metric("pointsman_in_flight") == 0


@pytest.fixture
def short_gap(neighbours: Neighbours) -> None:
    neighbours.config.models["engines"]["local"]["timeouts"] = {"stream_idle_seconds": 0.2}


@both
async def test_a_clients_pause_does_not_count_as_the_engines_idle_time(
    short_gap: None, over: Over, engine: RawEngine, gateway: Gateway
) -> None:
    async with over(gateway) as texts:
        assert await anext(texts) == PIECES[0]
        await until(lambda: engine.still_for > 2 * STILL, within=30)
        assert [text async for text in texts if text] == PIECES[1:]
    assert ended(gateway, "ok") == 1


@pytest.fixture
def short_of_time(neighbours: Neighbours) -> None:
    neighbours.settings["request_timeout"] = 1.0


@pytest.mark.parametrize("over", [over_http, over_grpc])
async def test_a_client_that_stops_reading_is_disconnected_at_the_deadline(
    short_of_time: None, over: Over, engine: RawEngine, gateway: Gateway
) -> None:
    async with over(gateway) as texts:
        await anext(texts)
        await until(lambda: engine.hung_up == 1, within=10)
        await until(lambda: ended(gateway, "deadline_exceeded") == 1)
        assert gateway.metric("pointsman_in_flight") == 0


async def test_the_receipt_names_the_deadline_also_after_a_search(
    short_of_time: None, engine: RawEngine, gateway: Gateway
) -> None:
    """Once it has waited for the retriever, the request runs as a task, which learns a moment later that it was
    cancelled.
    """
    async with over_http(gateway, model="path:handbook", presence_penalty=0) as texts:
        await anext(texts)
        await until(lambda: engine.hung_up == 1, within=10)
        await until(lambda: gateway.metric("pointsman_in_flight") == 0)
    assert ended(gateway, "deadline_exceeded") == 1


async def test_the_receipts_of_all_prompts_name_the_deadline(
    short_of_time: None, engine: RawEngine, gateway: Gateway
) -> None:
    body = {"model": "path:small_talk", "prompt": [IN_CHAT, IN_CHAT], "stream": True}
    async with (
        open_http_client(gateway) as client,
        client.stream("POST", "/v1/completions", json=body, timeout=None) as response,
    ):
        received = response.aiter_raw()  # without this reference, the client would disconnect
        await anext(received)
        await until(lambda: engine.hung_up == 2, within=10)
        await until(lambda: gateway.metric("pointsman_in_flight") == 0)
    assert ended(gateway, "deadline_exceeded") == 2


@pytest.mark.parametrize("over", [over_http, by_uvicorn, over_grpc])
async def test_a_client_that_stops_reading_leaves_no_garbage(
    short_of_time: None, over: Over, engine: RawEngine, gateway: Gateway
) -> None:
    async def never_reads() -> None:
        let_go = engine.hung_up
        async with over(gateway) as texts:
            await anext(texts)
            await until(lambda: engine.hung_up > let_go, within=10)
            await until(lambda: gateway.metric("pointsman_in_flight") == 0)
        await asyncio.sleep(0.2)

    await never_reads()
    await nothing_is_left(never_reads)
