"""The cache over HTTP and gRPC: hits are marked, priced and streamed as such, and only configured paths have one."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY
from tests.gateway.doubles.engine import BREAK, ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import TRIAGE, VOICE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import READY, ScriptedLoraServer
from tests.gateway.doubles.retriever import ScriptedRetriever
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found, until

HIT = 0.00001


@pytest.fixture
def caching(neighbours: Neighbours, valkey: Valkey) -> Neighbours:
    """Gives the paths `handbook`, `letter` and `triage_adapter` a cache; the others have none."""
    neighbours.settings["redis_url"] = valkey.url
    neighbours.config.models["cache"] = {"usd_per_hit": HIT}
    for name in "handbook", "letter", "triage_adapter":
        neighbours.config.paths[name] |= {"temperature": 0, "cache": {"similarity_threshold": 0.9}}
    return neighbours


@pytest.fixture
async def cached_gateway(caching: Neighbours) -> AsyncIterator[Gateway]:
    await caching.ready()
    async with caching.gateway() as gateway:
        yield gateway


@pytest.fixture
async def client(cached_gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client(cached_gateway) as client:
        yield client


def body(text: str = IN_POLICY, path: str = "path:handbook", **more: Any) -> dict[str, Any]:
    return {"model": path, "messages": [{"role": "user", "content": text}], **more}


async def ask(client: httpx.AsyncClient, headers: Any = None, **asked: Any) -> httpx.Response:
    response = await client.post("/v1/chat/completions", json=body(**asked), headers=headers)
    assert response.status_code == 200, response.text
    return response


async def kept(client: httpx.AsyncClient, gateway: Gateway, **asked: Any) -> httpx.Response:
    """Sends a request and waits until its answer is stored."""
    before = gateway.metric("pointsman_cache_answers_total")
    response = await ask(client, **asked)
    await until(lambda: gateway.metric("pointsman_cache_answers_total") > before)
    return response


def mark(response: httpx.Response) -> str:
    return str(response.headers.get("x-pointsman-cache", ""))


async def test_a_hit_is_marked_priced_and_counted_as_one(
    client: httpx.AsyncClient, cached_gateway: Gateway, engine: ScriptedEngine
) -> None:
    first = await kept(client, cached_gateway)
    hit = await ask(client)
    assert (mark(first), mark(hit), len(engine.bodies)) == ("", "exact", 1)
    answered, before = hit.json(), first.json()
    assert answered["choices"] == before["choices"]
    assert answered["usage"] == before["usage"]
    assert answered["id"] != before["id"]
    assert answered["pointsman"]["cached"] == "exact"
    assert answered["pointsman"]["cost_parts_usd"] == {"cache": HIT, "retrieval": 0.00005}
    assert "cache" not in before["pointsman"]["cost_parts_usd"]
    labels = {"path": "handbook", "outcome": "exact"}
    assert cached_gateway.metric("pointsman_cache_lookups_total", **labels) == 1
    assert cached_gateway.metric("pointsman_cost_usd_total", component="cache") == HIT
    # Two requests were answered, one of them by an engine.
    assert cached_gateway.metric("gen_ai_server_request_duration_seconds_count") == 2
    assert cached_gateway.metric("gen_ai_client_operation_duration_seconds_count") == 1
    assert cached_gateway.metric("gen_ai_client_token_usage_count", gen_ai_token_type="output") == 1


async def test_a_similar_question_is_a_semantic_hit_even_with_a_named_path(
    client: httpx.AsyncClient, cached_gateway: Gateway
) -> None:
    await kept(client, cached_gateway, text="Are bicycles allowed on the train?")
    assert mark(await ask(client, text="Are bicycles allowed on trains?")) == "semantic"
    assert mark(await ask(client, text="Are bicycles not allowed on trains?")) == ""


async def test_streams_replay_as_streams_and_apis_share_the_cache(
    client: httpx.AsyncClient, cached_gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(*answer("one", " two", " three"))
    await kept(client, cached_gateway, stream=False)
    streamed = await ask(client, stream=True, stream_options={"include_usage": True})
    *events, done = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
    answered = [json.loads(event) for event in events]
    pieces = [choice["delta"].get("content") for event in answered for choice in event["choices"]]
    assert [piece for piece in pieces if piece] == ["one", " two", " three"]
    assert answered[-1]["usage"]["completion_tokens"] == 3
    assert (done, mark(streamed)) == ("[DONE]", "exact")
    async with open_channel(cached_gateway.grpc_address) as channel:
        asked = pb.GenerateRequest(model="path:handbook", messages=[pb.Message(role="user", content=IN_POLICY)])
        responses = [response async for response in gateway_pb2_grpc.GatewayStub(channel).GenerateStream(asked)]
    assert responses[0].started.cached == responses[-1].finished.receipt.cached == "exact"
    assert "".join(response.delta.content for response in responses) == "one two three"
    assert len(engine.bodies) == 1


@pytest.mark.parametrize("over", ["http", "grpc"])
async def test_a_client_may_renew_or_bypass_the_cache(
    client: httpx.AsyncClient, cached_gateway: Gateway, engine: ScriptedEngine, over: str
) -> None:
    await kept(client, cached_gateway)
    for wish, asked in ("no-cache", 2), ("no-store", 3):
        if over == "http":
            assert mark(await ask(client, headers={"cache-control": wish})) == ""
        else:
            async with open_channel(cached_gateway.grpc_address) as channel:
                request = pb.GenerateRequest(
                    model="path:handbook", messages=[pb.Message(role="user", content=IN_POLICY)]
                )
                stub = gateway_pb2_grpc.GatewayStub(channel)
                sent = [r async for r in stub.GenerateStream(request, metadata=[("cache-control", wish)])]
            assert sent[0].started.cached == ""
        assert len(engine.bodies) == asked


async def test_a_path_has_no_cache_by_default(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for _ in range(2):
        assert mark(await ask(client, text=IN_CHAT, path="path:small_talk", temperature=0)) == ""
    assert len(engine.bodies) == 2


async def test_a_changed_collection_is_a_miss(
    client: httpx.AsyncClient, cached_gateway: Gateway, retriever: ScriptedRetriever
) -> None:
    await kept(client, cached_gateway)
    retriever.version = 2
    assert mark(await kept(client, cached_gateway)) == ""
    assert mark(await ask(client)) == "exact"


async def test_a_changed_alias_is_a_miss(
    client: httpx.AsyncClient, cached_gateway: Gateway, engine: ScriptedEngine, lora_server: ScriptedLoraServer
) -> None:
    await kept(client, cached_gateway, path="path:triage_adapter")
    moved = "triage@ffffffffffff"
    await lora_server.say(
        READY, url=engine.url, resident=[TRIAGE, VOICE, moved], aliases={"triage@prod": moved, "voice@prod": VOICE}
    )
    await until(lambda: cached_gateway.components.engines.get("local").catalog.aliases["triage@prod"].version == moved)
    assert mark(await kept(client, cached_gateway, path="path:triage_adapter")) == ""
    assert engine.bodies[-1]["model"] == moved
    assert mark(await ask(client, path="path:triage_adapter")) == "exact"


async def test_a_changed_prompt_file_is_a_miss(
    caching: Neighbours, client: httpx.AsyncClient, cached_gateway: Gateway
) -> None:
    await kept(client, cached_gateway)
    before = cached_gateway.components.reloader.current.revision
    caching.config.prompts["answer.txt"] = "Answer from the handbook, briefly."
    caching.config.write()
    await until(lambda: cached_gateway.components.reloader.current.revision != before, within=20)
    assert mark(await kept(client, cached_gateway)) == ""
    assert mark(await ask(client)) == "exact"


async def test_a_refused_answer_is_not_stored(caching: Neighbours, engine: ScriptedEngine) -> None:
    caching.config.tasks["policy"] |= {
        "policy": {"escalate": {"paths": ["handbook", "letter"]}},
        "validators": [{"regex": "free"}],
    }
    await caching.ready()
    engine.script = lambda asked: answer("They ride free.") if asked["model"] == VOICE else answer("No idea.")
    async with caching.gateway() as gateway, open_http_client(gateway) as client:
        first = await kept(client, gateway, path="auto")
        again = await ask(client, path="auto")
    assert first.headers["x-pointsman-path"] == again.headers["x-pointsman-path"] == "letter"
    assert (mark(first), mark(again)) == ("", "exact")
    assert [asked["model"] for asked in engine.bodies] == ["tiny", VOICE, "tiny"]


async def test_an_answer_without_its_client_is_not_stored(
    client: httpx.AsyncClient, cached_gateway: Gateway, engine: ScriptedEngine
) -> None:
    go_on = asyncio.Event()
    engine.says(*beginning("one"), go_on, *answer(" two"))
    async with client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as response:
        await anext(response.aiter_bytes())
    await until(lambda: engine.running == 0)
    engine.says(*answer("whole"))
    assert (await kept(client, cached_gateway)).json()["choices"][0]["message"]["content"] == "whole"


async def test_an_incomplete_answer_is_not_stored(
    client: httpx.AsyncClient, cached_gateway: Gateway, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("half"), BREAK)
    assert (await client.post("/v1/chat/completions", json=body())).status_code == 503
    engine.says(*answer("whole"))
    assert mark(await kept(client, cached_gateway)) == ""


async def test_while_valkey_hangs_every_request_is_answered_by_an_engine(
    client: httpx.AsyncClient, cached_gateway: Gateway, valkey: Valkey
) -> None:
    await kept(client, cached_gateway)
    valkey.hang()
    assert [mark(await ask(client)) for _ in range(5)] == [""] * 5
    valkey.go_on()

    async def is_hit() -> bool:
        return mark(await ask(client)) == "exact"

    await found(is_hit)


async def test_an_answer_that_redaction_would_change_is_not_stored(caching: Neighbours, engine: ScriptedEngine) -> None:
    caching.settings["redaction"] = "pointsman_gateway.redaction:redact_common"
    await caching.ready()
    engine.says(*answer("Write to ann@example.org"))
    async with caching.gateway() as gateway, open_http_client(gateway) as client:
        assert mark(await kept(client, gateway)) == ""
        assert mark(await kept(client, gateway)) == ""
        engine.says(*answer("They ride free."))
        await kept(client, gateway)
        assert mark(await ask(client)) == "exact"


async def test_a_cache_without_a_price_or_without_redis_is_rejected(caching: Neighbours) -> None:
    del caching.settings["redis_url"]
    await caching.ready()
    with pytest.raises(ConfigError, match=r"path '\w+' caches, and there is no Redis"):
        async with caching.gateway():
            pass
    del caching.config.models["cache"]
    with pytest.raises(
        ConfigError, match=r"path 'triage_adapter' caches; models.yaml must price that: cache: \{usd_per_hit"
    ):
        load_config(caching.config.write())
