"""A request's spans form one trace: HTTP or gRPC, the phases, the retriever and the engine. They contain no prompt
text."""

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
from pointsman_servicekit.errors import NotFound, PointsmanError
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.api_clients import API_CLIENTS, ApiClient, GrpcStreamClient, HttpClient, open_api_client
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.engine import ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import READY
from tests.gateway.doubles.retriever import ScriptedRetriever
from tests.gateway.doubles.span_recorder import Recorded, attributes_of, is_below
from tests.gateway.doubles.waiting import until

CHAT = "/v1/chat/completions"
SEARCH, ENSURE = "pointsman.v1.Retriever/Search", "pointsman.v1.LoraServer/EnsureLoaded"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAID = "xyzzy my mother's maiden name is Plugh"
ROOTS = {"http": f"POST {CHAT}", "http-stream": f"POST {CHAT}"} | {
    "grpc": "pointsman.v1.Gateway/GenerateStream",
    "grpc-once": "pointsman.v1.Gateway/Generate",
}


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
async def gateway(neighbours: Neighbours, recorded: Recorded) -> AsyncIterator[Gateway]:
    await neighbours.ready()
    async with neighbours.gateway(recorded.spans) as gateway:
        yield gateway


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client(gateway) as client:
        yield client


@pytest.fixture(params=API_CLIENTS)
async def api(request: pytest.FixtureRequest, gateway: Gateway) -> AsyncIterator[tuple[str, ApiClient]]:
    async with open_api_client(request.param, gateway.url, gateway.grpc_address) as api:
        yield ROOTS[request.param], api


async def test_every_api_starts_one_trace_with_a_span_per_phase(
    recorded: Recorded, api: tuple[str, ApiClient], engine: ScriptedEngine
) -> None:
    root_name, asking = api
    engine.says(*answer("a", "b", prompt_tokens=30, cached_tokens=16))
    decision = (await asking.ask(IN_POLICY)).decision_id
    await until(lambda: bool(recorded.named(root_name)))
    root, prompt, first = recorded.one(root_name), recorded.one("prompt"), recorded.one("first token")
    search, asked = recorded.one(SEARCH), recorded.one("chat tiny")
    for span in (recorded.one("classification"), prompt, first):
        assert is_below(span, root)
    assert is_below(search, prompt)
    assert is_below(asked, first)
    assert [root.kind.name, search.kind.name, asked.kind.name] == ["SERVER", "CLIENT", "CLIENT"]
    assert {span.context.trace_id for span in recorded.all()} == {root.context.trace_id}
    assert len(recorded) == 6
    for name, value in {
        "pointsman.decision_id": decision, "pointsman.task": "policy", "pointsman.path": "handbook",
        "pointsman.kind": "rag", "pointsman.outcome": "ok", "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "auto", "gen_ai.response.model": "tiny", "gen_ai.usage.input_tokens": 30,
    }.items():  # fmt: skip
        assert attributes_of(root)[name] == value
    for name, value in {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.request.model": "tiny",
        "gen_ai.usage.input_tokens": 30, "gen_ai.usage.output_tokens": 2, "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.response.finish_reasons": ("stop",), "pointsman.engine": "local", "server.address": "127.0.0.1",
    }.items():  # fmt: skip
        assert attributes_of(asked)[name] == value


async def test_the_trace_context_is_sent_to_the_engine(
    recorded: Recorded, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    await HttpClient(http).ask(IN_CHAT)
    asked = recorded.one("chat tiny")
    _, trace_id, span_id, flags = engine.headers[-1]["traceparent"].split("-")
    assert (int(trace_id, 16), int(span_id, 16)) == (asked.context.trace_id, asked.context.span_id)
    assert int(flags, 16) & 1  # sampled


@pytest.mark.parametrize("flag", ["01", "00"])
async def test_a_clients_trace_is_continued_with_its_sampling_decision(
    recorded: Recorded, http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine, flag: str
) -> None:
    caller = {"traceparent": f"00-{TRACE}-{CALLER}-{flag}", "tracestate": "vendor=1"}
    body = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
    assert (await http.post(CHAT, json=body, headers=caller)).status_code == 200
    await until(lambda: flag == "00" or bool(recorded.named(f"POST {CHAT}")))
    assert engine.headers[-1]["traceparent"].startswith(f"00-{TRACE}-")
    assert int(engine.headers[-1]["traceparent"][-2:], 16) & 1 == int(flag)
    assert engine.headers[-1]["tracestate"] == "vendor=1"
    if flag == "00":
        assert len(recorded) == 0
        return
    root = recorded.one(f"POST {CHAT}")
    assert root.parent is not None
    assert (root.parent.trace_id, root.parent.span_id) == (int(TRACE, 16), int(CALLER, 16))
    openmetrics = await http.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert f'# {{trace_id="{TRACE}"}}' in openmetrics.text


@pytest.mark.parametrize("traceparent", ["", "00-xyzzy", f"00-{'0' * 32}-{CALLER}-01", "ff" * 40])
async def test_an_invalid_traceparent_starts_a_new_trace(
    recorded: Recorded, http: httpx.AsyncClient, traceparent: str
) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
    assert (await http.post(CHAT, json=body, headers={"traceparent": traceparent})).status_code == 200
    await until(lambda: bool(recorded.named(f"POST {CHAT}")))
    assert recorded.one(f"POST {CHAT}").parent is None


async def test_an_adapter_load_belongs_to_the_waiting_requests_trace(
    recorded: Recorded, neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    aliases = {"triage@prod": TRIAGE}
    server = neighbours.lora_server
    await server.say(READY, url=engine.url, loadable=[TRIAGE], aliases=aliases)

    async def load(version: str) -> None:
        await server.say(READY, url=engine.url, resident=[version], aliases=aliases)

    server.loads = load
    async with neighbours.gateway(recorded.spans) as gateway, open_http_client(gateway) as http:
        await HttpClient(http).ask(IN_TRIAGE)
        await until(lambda: bool(recorded.named(f"POST {CHAT}")))
    assert server.ensured == [TRIAGE]
    assert is_below(recorded.one(ENSURE), recorded.one("first token"))
    assert is_below(recorded.one(f"chat {TRIAGE}"), recorded.one("first token"))


async def test_embeddings_have_a_span_that_is_sent_to_their_engine(
    recorded: Recorded, neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    remote = {"url": engine.url, "usd_per_million_tokens": 1.0, "upstream": "text-3"}
    neighbours.config.models["embeddings"] = {"minilm": {"local": True, "usd_per_million_tokens": 0.5}, "small": remote}
    await neighbours.ready()
    async with neighbours.gateway(recorded.spans) as gateway, open_http_client(gateway) as http:
        for model in ("minilm", "small"):
            assert (await http.post("/v1/embeddings", json={"model": model, "input": SAID})).status_code == 200
        await until(lambda: len(recorded.named("POST /v1/embeddings")) == 2)
    for model, provider in (("minilm", "pointsman"), ("small", "openai")):
        span = recorded.one(f"embeddings {model}")
        assert any(is_below(span, root) for root in recorded.named("POST /v1/embeddings"))
        assert attributes_of(span)["gen_ai.provider.name"] == provider
        assert attributes_of(span)["gen_ai.usage.input_tokens"] > 0
    sent = engine.headers[-1]["traceparent"].split("-")
    assert int(sent[2], 16) == recorded.one("embeddings small").context.span_id


async def test_reranking_has_a_span_that_is_sent_to_its_engine(
    recorded: Recorded, neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    neighbours.config.models["rerankers"] = {"own": {"retriever": True}, "bge": {"url": engine.url}}
    await neighbours.ready()
    async with neighbours.gateway(recorded.spans) as gateway, open_http_client(gateway) as http:
        for model in ("own", "bge"):
            asked = {"model": model, "query": SAID, "documents": ["one", "two"]}
            assert (await http.post("/v2/rerank", json=asked)).status_code == 200
        await until(lambda: len(recorded.named("POST /v2/rerank")) == 2)
    for model in ("own", "bge"):
        span = recorded.one(f"rerank {model}")
        assert any(is_below(span, root) for root in recorded.named("POST /v2/rerank"))
        assert attributes_of(span)["gen_ai.usage.input_tokens"] > 0
    sent = engine.headers[-1]["traceparent"].split("-")
    assert int(sent[2], 16) == recorded.one("rerank bge").context.span_id


async def test_failures_have_their_codes(
    recorded: Recorded, http: httpx.AsyncClient, engine: ScriptedEngine, retriever: ScriptedRetriever
) -> None:
    retriever.error = NotFound("nothing for xyzzy", code="unknown_collection")
    engine.refuses(500, {"error": {"message": f"failed at {SAID}"}})
    body = {"model": "path:handbook", "messages": [{"role": "user", "content": SAID}]}
    assert (await http.post(CHAT, json=body)).status_code == 503
    await until(lambda: bool(recorded.named(f"POST {CHAT}")))
    root, search = recorded.one(f"POST {CHAT}"), recorded.one(SEARCH)
    assert (attributes_of(root)["error.type"], attributes_of(root)["http.response.status_code"]) == ("503", 503)
    assert attributes_of(search)["error.type"] == "NOT_FOUND"
    assert attributes_of(root)["pointsman.outcome"] != "ok"


async def test_a_disconnect_ends_the_spans_and_stops_the_engine(
    recorded: Recorded, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("one"), asyncio.Event())
    body = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}], "stream": True}
    async with http.stream("POST", CHAT, json=body) as response:
        await anext(response.aiter_bytes())
    await until(lambda: engine.running == 0 and bool(recorded.named(f"POST {CHAT}")))
    asked = recorded.one("chat tiny")
    assert attributes_of(asked)["error.type"] == "cancelled"
    assert asked.status.status_code.name == "UNSET"
    assert attributes_of(recorded.one(f"POST {CHAT}"))["pointsman.outcome"] == "cancelled"


async def test_no_span_contains_text_of_request_or_answer(
    recorded: Recorded, gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*answer(SAID, SAID))
    messages = [{"role": "user", "content": SAID}]
    await http.post(CHAT, json={"model": "auto", "messages": messages, "user": SAID, "metadata": {"x": SAID}})
    await http.post("/v1/route", json={"model": "auto", "messages": messages})
    await http.post(CHAT, json={"model": SAID, "messages": messages})
    await http.post(CHAT, content=b"{" + SAID.encode())
    await http.get(f"/{SAID}?key={SAID}")
    engine.refuses(400, {"error": {"message": f"cannot read {SAID}"}})
    await http.post(CHAT, json={"model": "tiny", "messages": messages})
    async with open_channel(gateway.grpc_address) as channel:
        with pytest.raises((grpc.aio.AioRpcError, PointsmanError)):
            await GrpcStreamClient(channel).ask(SAID, SAID)
    await until(lambda: len(recorded.named(f"POST {CHAT}")) == 4 and bool(recorded.named("GET")))
    assert len(recorded) > 12
    for span in recorded.all():
        for hidden in ("xyzzy", "Plugh", "maiden"):
            assert hidden not in span.to_json()


async def test_health_checks_and_scrapes_create_no_spans(recorded: Recorded, http: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await http.get(path)).status_code == 200
    assert len(recorded) == 0


async def test_text_is_recorded_redacted_and_cut_only_if_it_is_asked_for(
    neighbours: Neighbours, recorded: Recorded, engine: ScriptedEngine
) -> None:
    neighbours.settings |= {"trace_text": 40, "redaction": "pointsman_gateway.redaction:redact_common"}
    engine.says(*answer("Write to ann@example.org, ", "who knows all about " + "x" * 100))
    await neighbours.ready()
    async with neighbours.gateway(recorded.spans) as gateway, open_http_client(gateway) as http:
        messages = [{"role": "user", "content": "I am bob@example.org"}, {"role": "user", "content": IN_CHAT}]
        await http.post(CHAT, json={"model": "auto", "messages": messages})
        await until(lambda: bool(recorded.named(f"POST {CHAT}")))
    attributes = attributes_of(recorded.one(f"POST {CHAT}"))
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": "I am [email]"}]},
        {"role": "user", "parts": [{"type": "text", "content": IN_CHAT}]},
    ]
    answered = "Write to [email], who knows all about xx… (138 characters)"
    assert json.loads(str(attributes["gen_ai.output.messages"])) == [
        {"role": "assistant", "parts": [{"type": "text", "content": answered}]}
    ]
    assert (attributes["output.value"], attributes["openinference.span.kind"]) == (answered, "LLM")
    assert attributes["input.value"] == f"user: I am [email]\n\nuser: {IN_CHAT}"
