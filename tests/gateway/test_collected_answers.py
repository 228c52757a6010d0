"""An answer that is collected in memory has a size limit; an engine that sends more has failed."""

import asyncio
import json
import sys
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from math import inf

import httpx
import pytest
from pointsman_gateway.config.providers import DEFAULT_API
from pointsman_gateway.domain import Chunk, Chunks, Decision, Message, Path, Request, Sampling, Started
from pointsman_gateway.engines.connection_pool import Pool
from pointsman_gateway.engines.engine_client import (
    MAX_COLLECTED_BYTES,
    EngineClient,
    EngineRequest,
    TransientFailure,
)
from pointsman_gateway.engines.http_engine_client import HttpEngineClient
from pointsman_gateway.engines.litellm_client import LiteLLMClient
from pointsman_gateway.http.dialects.anthropic.message_encoder import MessageEncoder
from pointsman_gateway.http.dialects.openai.response_output import TEXT, Content

from tests.gateway.doubles.api_clients import API_CLIENTS, open_api_client
from tests.gateway.doubles.broken_clients import BrokenSdk, BrokenStream, events_of, use_client
from tests.gateway.doubles.clients import ScriptedClient, sent_by
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import ScriptedEngine, chunk
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.raw_engine import HEAD, event, in_chunks, running_raw_engine
from tests.gateway.doubles.waiting import until

MEGABYTE = 1024 * 1024


@pytest.fixture
async def client() -> AsyncIterator[EngineClient]:
    pool = Pool()
    yield LiteLLMClient(HttpEngineClient(pool))
    pool.close()


@pytest.fixture
def sdk() -> Iterator[BrokenSdk]:
    sys.modules["litellm"] = sdk = BrokenSdk()
    yield sdk
    del sys.modules["litellm"]


async def received(client: EngineClient, url: str, max_bytes: float, dialect: str) -> list[Chunks]:
    """Returns the chunks of an answer. Raises the error with which the answer ends."""
    api, deadline = replace(DEFAULT_API, dialect=dialect), asyncio.get_running_loop().time() + 10
    call = EngineRequest("a", url, "tiny", (Message("user", "Hello"),), Sampling(), deadline, api, max_bytes=max_bytes)
    return [chunks async for chunks in sent_by(partial(client.send, call))]


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "litellm"])
async def test_every_client_stops_beyond_the_limit(
    client: EngineClient, engine: ScriptedEngine, sdk: BrokenSdk, dialect: str
) -> None:
    delta = {"type": "text_delta", "text": "Hello" * 1000}
    of_both = {**chunk(delta["text"]), "type": "content_block_delta", "index": 0, "delta": delta}
    begun = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    engine.says({**chunk(""), **begun}, *([of_both] * 220), asyncio.Event())
    sdk.stream = BrokenStream(30_000, asyncio.CancelledError())
    with pytest.raises(TransientFailure, match="its answer has more than 1 MiB, and"):
        await received(client, engine.url, MEGABYTE, dialect)
    await until(lambda: engine.running == 0)


async def test_an_endless_answer_is_the_engines_failure(neighbours: Neighbours) -> None:
    async with running_raw_engine() as raw:
        many = in_chunks([event(chunk("x" * MEGABYTE))] * 4)
        raw.says(HEAD, *([many] * (MAX_COLLECTED_BYTES // MEGABYTE // 2)))
        neighbours.engine.url = raw.url
        neighbours.config.models["resilience"] = {"breaker": {"consecutive_failures": 1}}
        await neighbours.ready()
        async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
            http.timeout = httpx.Timeout(60)
            body = {"model": "tiny", "messages": [{"role": "user", "content": IN_CHAT}]}
            response = await http.post("/v1/chat/completions", json=body)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
            await until(lambda: raw.hung_up == 1)
            assert raw.sent < 1.5 * MAX_COLLECTED_BYTES
            assert gateway.metric("pointsman_engine_breaker_open", engine="local") == 1


async def test_answers_that_are_collected_have_the_limit_and_streams_have_none(gateway: Gateway) -> None:
    use_client(gateway, client := ScriptedClient())
    for name in API_CLIENTS:
        async with open_api_client(name, gateway.url, gateway.grpc_address) as api:
            await api.ask(IN_CHAT, "tiny")
    limits = dict(zip(API_CLIENTS, [call.max_bytes for call in client.calls], strict=True))
    collected = MAX_COLLECTED_BYTES
    assert limits == {"http": collected, "http-stream": inf, "grpc": inf, "grpc-once": collected}


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [True, False])
async def test_streams_whose_last_events_repeat_others_have_the_limit(
    gateway: Gateway, path: str, stream: bool
) -> None:
    use_client(gateway, client := ScriptedClient())
    turns = [{"role": "user", "content": IN_CHAT}]
    fields = {"input": turns} if "responses" in path else {"messages": turns, "max_tokens": 9}
    async with open_http_client(gateway) as http:
        await http.post(path, json={"model": "tiny", "stream": stream, **fields})
    assert [call.max_bytes for call in client.calls] == [MAX_COLLECTED_BYTES]


async def test_a_streamed_response_of_too_many_characters_is_the_engines_failure(neighbours: Neighbours) -> None:
    async with running_raw_engine() as raw:
        raw.says(HEAD, *([in_chunks([event(chunk("x" * MEGABYTE))])] * 20))
        neighbours.engine.url = raw.url
        neighbours.config.models["resilience"] = {"breaker": {"consecutive_failures": 1}}
        await neighbours.ready()
        async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
            http.timeout = httpx.Timeout(60)
            response = await http.post("/v1/responses", json={"model": "tiny", "input": IN_CHAT, "stream": True})
            error, failed = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")][
                -2:
            ]
            await until(lambda: raw.hung_up == 1)
            breaker = gateway.metric("pointsman_engine_breaker_open", engine="local")
    assert error["type"] == "error"
    assert error["message"] == "the engine failed: its answer has more than 4,194,304 characters"
    assert (error["code"], failed["type"], breaker) == ("engine_unavailable", "response.failed", 1)
    assert len(response.content) < 10 * MEGABYTE


def test_the_last_events_of_a_response_share_one_encoded_text() -> None:
    content = Content("a", 0, "message")
    for piece in ("Hel", "lo"):
        list(content.add(TEXT, piece, []))

    done, part, item = content.end_events("completed")

    assert bytes(done["text"]) == b'"Hello"'
    assert done["text"] is part["part"]["text"] is item["item"]["content"][0]["text"]


def test_a_streamed_message_keeps_no_text_that_is_sent() -> None:
    encoder = MessageEncoder(())
    encoder.encode_start(Started(Decision("d", "t", 1.0, Path("p", "tiny"), "r", "s", (), ()), "tiny", 0.0))
    tracemalloc.start()
    for number in range(100):
        encoder.encode_chunks((Chunk(extra={"delta": {"reasoning_content": f"{number} " * 50_000}}),))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert kept < MEGABYTE


async def test_an_answer_that_is_collected_and_cached_has_the_limit(gateway: Gateway) -> None:
    use_client(gateway, client := ScriptedClient())
    request = Request("tiny", (Message("user", IN_CHAT),), as_a_whole=True, keeps_pieces=True)
    async for _ in gateway.components.pipeline.answer(request):
        pass
    assert [(call.max_bytes, call.as_a_whole) for call in client.calls] == [(MAX_COLLECTED_BYTES, False)]


async def test_an_answer_that_is_validated_before_it_is_streamed_has_the_limit(neighbours: Neighbours) -> None:
    neighbours.config.tasks["chat"] |= {
        "policy": {"escalate": {"paths": ["small_talk", "safe_start"]}}, "validators": [{"complete": True}],
    }  # fmt: skip
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        client = ScriptedClient()
        use_client(gateway, client)
        await events_of(gateway, "auto")
        assert client.calls[0].max_bytes == MAX_COLLECTED_BYTES
