"""However a request ends, over HTTP or gRPC, it has exactly one receipt and is counted once."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_gateway.codec.limits import LIMITS
from pointsman_gateway.domain import Finished, Message, Request
from pointsman_servicekit.errors import PointsmanError, Unavailable
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.api_clients import API_CLIENTS, ApiClient, open_api_client
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import READY
from tests.gateway.doubles.receipts import Body, receipts_in, receipts_once
from tests.gateway.doubles.retriever import ScriptedRetriever
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until

JSON = {"content-type": "application/json"}


@pytest.fixture
def neighbours(neighbours: Neighbours, valkey: Valkey, tmp_path: Any) -> Neighbours:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    neighbours.config.models["embeddings"] = {"minilm": {"local": True, "usd_per_million_tokens": 0.5}}
    reranker = {"retriever": True, "usd_per_million_tokens": 0.5, "usd_per_search": 0.002}
    neighbours.config.models["rerankers"] = {"own": reranker}
    neighbours.config.models["retrieval"]["usd_per_embedding"] = 0.000001
    return neighbours


async def the_one(valkey: Valkey) -> Body:
    """Returns the only receipt in Redis."""
    receipts = await receipts_once(valkey.url, lambda receipts: receipts.all)
    (receipt,) = receipts.all
    return receipt


def counted(gateway: Gateway) -> float:
    names = ("requests", "route_requests", "rejected", "embedding_requests", "rerank_requests")
    return sum(gateway.metric(f"pointsman_{name}_total") for name in names)


@dataclass(frozen=True)
class End:
    """A way in which a test ends a request, and what the receipt must say."""

    outcome: str
    fault: str
    path: str = ""
    """The path in the receipt; empty if there is no decision."""
    text: str = IN_CHAT
    model: str = "auto"
    before: Callable[[Neighbours, Gateway], Any] = lambda neighbours, gateway: None


async def _without_adapters(neighbours: Neighbours, gateway: Gateway) -> None:
    await neighbours.lora_server.say(READY, url=neighbours.engine.url, resident=[], aliases={})
    await until(lambda: not gateway.components.engines.get("local").resident)


def _closed(neighbours: Neighbours, gateway: Gateway) -> None:
    gateway.components.pipeline.admission.is_closed = True


def _not_found(neighbours: Neighbours, gateway: Gateway) -> None:
    neighbours.retriever.error = Unavailable("gone", code="unknown_collection")


ENDS: Mapping[str, End] = {
    "answered": End("ok", "none", "small_talk"),
    "looked up": End("ok", "none", "handbook", IN_POLICY),
    "fallen back": End("ok", "none", "triage_few_shot", IN_TRIAGE, before=_without_adapters),
    "cut by the engine": End(
        "engine_unavailable", "engine", "small_talk", before=lambda n, g: n.engine.says(*beginning("a"), BREAK)
    ),
    "failed by the engine": End(
        "engine_error", "engine", "tiny", model="tiny", before=lambda n, g: n.engine.refuses(500, "x")
    ),
    "refused by the engine": End(
        "engine_refused",
        "caller",
        "small_talk",
        before=lambda n, g: n.engine.refuses(400, {"error": {"message": "no"}}),
    ),
    "failed by the retriever": End(
        "unknown_collection", "retriever", "handbook", IN_POLICY, "path:handbook", _not_found
    ),
    "named what there is not": End("unknown_model", "caller", model="junk"),
    "empty": End("ok", "none", "safe_start", text=" "),
    "rejected while shutting down": End("shutting_down", "gateway", before=_closed),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
async def test_each_outcome_has_one_receipt_equal_in_all_apis(
    gateway: Gateway, neighbours: Neighbours, valkey: Valkey, end: End
) -> None:
    prepared = end.before(neighbours, gateway)
    if prepared is not None:
        await prepared
    received: list[str] = []
    for name in API_CLIENTS:
        async with open_api_client(name, gateway.url, gateway.grpc_address) as api:
            with suppress(PointsmanError):
                received.append((await api.ask(end.text, end.model)).headers["request-id"])
    receipts = await receipts_once(valkey.url, lambda receipts: len(receipts.all) == len(API_CLIENTS))
    for receipt in receipts.all:
        assert (receipt["outcome"], receipt["fault"], receipt.get("path", "")) == (end.outcome, end.fault, end.path)
        assert ("id" in receipt) == bool(end.path)
        assert receipt["seconds"]["total"] > 0
    assert len({json.dumps([one["usage"], one["cost_parts_usd"]]) for one in receipts.all}) == 1
    ids = [receipt["request_id"] for receipt in receipts.all]
    assert len(set(ids)) == len(API_CLIENTS)
    assert received in ([], ids)
    assert counted(gateway) == len(API_CLIENTS)


async def test_a_route_request_has_a_receipt_without_costs(api: ApiClient, gateway: Gateway, valkey: Valkey) -> None:
    await api.route(IN_CHAT)
    receipt = await the_one(valkey)
    assert (receipt["outcome"], receipt["path"], receipt["cost_usd"]) == ("routed", "small_talk", 0)
    assert gateway.metric("pointsman_route_requests_total", path="small_talk", task="chat") == counted(gateway) == 1


async def test_a_search_for_a_routes_prompt_is_timed_on_its_receipt(
    api: ApiClient, gateway: Gateway, retriever: ScriptedRetriever, valkey: Valkey
) -> None:
    await api.route(IN_POLICY, include_prompt=True)
    receipt = await the_one(valkey)
    assert (receipt["outcome"], receipt["fault"], receipt["cost_usd"]) == ("routed", "none", 0)
    assert receipt["seconds"]["retrieval"] > 0
    assert sum(receipt["seconds"][phase] for phase in ("retrieval", "prompt")) < receipt["seconds"]["total"]
    assert receipt["seconds"].get("prefill", 0) == 0
    assert retriever.ids[-1] == (receipt["request_id"], receipt["id"])


async def test_a_route_whose_prompt_fails_has_a_receipt_with_the_reason(
    api: ApiClient, gateway: Gateway, retriever: ScriptedRetriever, valkey: Valkey
) -> None:
    retriever.error = Unavailable("the disk is full", code="retriever_unavailable")
    with pytest.raises(Unavailable):
        await api.route(IN_POLICY, include_prompt=True)
    receipt = await the_one(valkey)
    assert (receipt["outcome"], receipt["fault"], receipt["cost_usd"]) == ("retriever_unavailable", "retriever", 0)
    assert receipt["path"] == "handbook"
    assert gateway.metric("pointsman_route_requests_total", path="handbook") == counted(gateway) == 1


async def test_a_rejected_route_request_has_a_receipt(api: ApiClient, gateway: Gateway, valkey: Valkey) -> None:
    with pytest.raises(PointsmanError):
        await api.route(IN_CHAT, "junk")
    receipt = await the_one(valkey)
    assert (receipt["operation"], receipt["outcome"]) == ("route", "unknown_model")
    assert counted(gateway) == 1


ROUTES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/messages/count_tokens": "route",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v2/rerank": "rerank",
    "/v1/route": "route",
}
BAD_BODIES: Mapping[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "bad_json"),
    "no UTF-8": (b'{"model": "\xff"}', "bad_json"),
    "a wrong type": (b'{"model": 5, "messages": 5, "input": 5, "prompt": 5}', "bad_parameter"),
    "too large": (b'{"model": "' + b"x" * LIMITS.max_bytes + b'"}', "body_too_large"),
    "too deep": (b"[" * 3000 + b"]" * 3000, "body_too_deep"),
}


@pytest.mark.parametrize("bad", BAD_BODIES)
async def test_an_invalid_body_has_a_receipt(
    http: httpx.AsyncClient, gateway: Gateway, valkey: Valkey, bad: str
) -> None:
    body, code = BAD_BODIES[bad]
    answers = [await http.post(route, content=body, headers=JSON) for route in ROUTES]
    assert {answered.json()["error"]["code"] for answered in answers} == {code}
    receipts = await receipts_once(valkey.url, lambda receipts: len(receipts.all) == len(ROUTES))
    seen = [(one["request_id"], one["operation"], one["outcome"], one["fault"]) for one in receipts.all]
    ids = [answered.headers["x-request-id"] for answered in answers]
    assert seen == [(name, wanted, code, "caller") for name, wanted in zip(ids, ROUTES.values(), strict=True)]
    assert counted(gateway) == len(ROUTES)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_disconnect_during_the_body_has_a_receipt(gateway: Gateway, valkey: Valkey, path: str) -> None:
    host, _, port = gateway.url.removeprefix("http://").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
    writer.write(head.encode() + b'{"model":')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    receipt = await the_one(valkey)
    assert (receipt["outcome"], receipt["fault"], receipt["counted"]) == ("cancelled", "caller", False)


async def test_an_invalid_grpc_message_has_a_receipt(gateway: Gateway, valkey: Valkey) -> None:
    async with open_channel(gateway.grpc_address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        asked = pb.GenerateRequest(model="auto", messages=[pb.Message(role="user", content="x")])
        asked.sampling.extra_json = "{"
        with pytest.raises(Exception, match="extra_json"):
            await stub.Generate(asked)
    receipt = await the_one(valkey)
    assert (receipt["operation"], receipt["fault"]) == ("chat", "caller")
    assert counted(gateway) == 1


async def test_a_disconnect_in_the_queue_has_a_receipt(
    neighbours: Neighbours, valkey: Valkey, engine: ScriptedEngine
) -> None:
    neighbours.settings |= {"max_in_flight": 1, "queue_timeout": 60.0}
    await neighbours.ready()
    go_on = asyncio.Event()
    engine.says(*beginning("a"), go_on, *answer("b"))
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        first = asyncio.create_task(http.post("/v1/chat/completions", json=body(IN_CHAT)))
        await until(lambda: engine.running == 1)
        second = asyncio.create_task(http.post("/v1/chat/completions", json=body(IN_CHAT)))
        await until(lambda: gateway.components.pipeline.admission.waiting == 1)
        second.cancel()
        receipt = await the_one(valkey)
        assert (receipt["outcome"], "id" in receipt) == ("cancelled", False)
        assert receipt["seconds"]["admission"] == receipt["seconds"]["total"] > 0
        go_on.set()
        await first
        receipts = await receipts_once(valkey.url, lambda receipts: receipts.decided)
        assert [one["outcome"] for one in receipts.all] == ["ok", "cancelled"]


async def test_a_disconnect_during_an_answer_has_one_receipt_with_its_tokens(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine, valkey: Valkey
) -> None:
    engine.says(*beginning("one", "two"), asyncio.Event())
    async with http.stream("POST", "/v1/chat/completions", json=body(IN_CHAT) | {"stream": True}) as response:
        async for line in response.aiter_lines():
            if '"two"' in line:
                break
    receipt = await the_one(valkey)
    assert (receipt["outcome"], receipt["usage"]["completion_tokens"]) == ("cancelled", 2)
    assert receipt["cost_usd"] == pytest.approx(sum(receipt["cost_parts_usd"].values()))
    assert receipt["cost_usd"] > 0
    assert counted(gateway) == 1


def body(text: str) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}]}


async def test_embeddings_have_receipts(http: httpx.AsyncClient, gateway: Gateway, valkey: Valkey) -> None:
    got = (await http.post("/v1/embeddings", json={"model": "minilm", "input": "a train"})).json()
    await http.post("/v1/embeddings", json={"model": "minilm", "input": "word " * 3000})
    await http.post("/v1/embeddings", json={"model": "junk", "input": "a"})
    receipts = await receipts_once(valkey.url, lambda receipts: len(receipts.all) == 3)
    seen = [(one["operation"], one["model"], one["outcome"]) for one in receipts.undecided]
    assert seen == [
        ("embeddings", "minilm", "ok"),
        ("embeddings", "minilm", "context_length_exceeded"),
        ("embeddings", "", "unknown_model"),
    ]
    tokens = got["usage"]["prompt_tokens"]
    assert receipts.undecided[0]["cost_parts_usd"] == {"embedding": tokens * 0.5 / 1e6}
    assert counted(gateway) == 3


async def test_reranking_has_receipts(http: httpx.AsyncClient, gateway: Gateway, valkey: Valkey) -> None:
    asked = {"model": "own", "query": "a train", "documents": ["one", "two"]}
    got = (await http.post("/v1/rerank", json=asked)).json()
    await http.post("/v2/rerank", json={**asked, "model": "junk"})
    receipts = await receipts_once(valkey.url, lambda receipts: len(receipts.all) == 2)
    seen = [(one["operation"], one["model"], one["outcome"]) for one in receipts.undecided]
    assert seen == [("rerank", "own", "ok"), ("rerank", "", "unknown_model")]
    tokens = got["usage"]["total_tokens"]
    assert receipts.undecided[0]["usage"]["prompt_tokens"] == tokens > 0
    assert receipts.undecided[0]["cost_parts_usd"] == {"rerank": pytest.approx(tokens * 0.5 / 1e6 + 0.002)}
    assert counted(gateway) == 2


async def test_embedding_the_question_is_charged(
    http: httpx.AsyncClient, gateway: Gateway, retriever: ScriptedRetriever, valkey: Valkey
) -> None:
    classified = (await http.post("/v1/chat/completions", json=body(IN_POLICY))).json()
    assert classified["pointsman"]["cost_parts_usd"]["embedding"] == pytest.approx(1e-6)  # once, for both
    forced = (await http.post("/v1/chat/completions", json=body(IN_POLICY) | {"model": "path:handbook"})).json()
    assert not retriever.asked[-1].HasField("vector")
    assert forced["pointsman"]["cost_parts_usd"]["embedding"] == pytest.approx(1e-6)  # by the retriever
    plain = (await http.post("/v1/chat/completions", json=body(IN_CHAT) | {"model": "tiny"})).json()
    assert "embedding" not in plain["pointsman"]["cost_parts_usd"]
    await receipts_once(valkey.url, lambda receipts: len(receipts.decided) == 3)
    assert gateway.metric("pointsman_cost_usd_total", component="embedding") == pytest.approx(2e-6)


async def test_receipts_without_a_decision_have_their_own_stream(neighbours: Neighbours, valkey: Valkey) -> None:
    neighbours.config.rest_of_tasks["request_log"] = {"max_undecided": 100}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        await http.post("/v1/chat/completions", json=body(IN_CHAT))
        for _ in range(150):
            await http.post("/v1/chat/completions", content=b"{", headers=JSON)
        await until(lambda: gateway.metric("pointsman_request_log_entries_total") == 151)
    receipts = await receipts_in(valkey.url)
    assert (len(receipts.decided), len(receipts.undecided)) == (1, 100)


async def test_no_text_and_no_secret_is_on_a_receipt_without_a_decision(
    http: httpx.AsyncClient, valkey: Valkey
) -> None:
    await http.post("/v1/chat/completions", json=body("a secret of mine") | {"model": "a secret model"})
    receipt = await the_one(valkey)
    assert "secret" not in json.dumps(receipt)


@pytest.fixture
async def gateway(neighbours: Neighbours) -> AsyncIterator[Gateway]:
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


async def test_a_client_that_stalls_at_the_end_has_one_receipt(gateway: Gateway) -> None:
    events = gateway.components.pipeline.answer(Request("tiny", (Message("user", IN_CHAT),)))
    async for event in events:
        if isinstance(event, Finished):
            break
    await events.aclose()
    assert counted(gateway) == gateway.metric("pointsman_requests_total", outcome="ok") == 1
