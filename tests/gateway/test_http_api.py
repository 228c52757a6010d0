"""The HTTP API: compatibility with OpenAI's client, and headers."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pointsman_gateway.http.app import build_api, build_app
from pointsman_gateway.http.asgi_app import GatewayApp
from pointsman_gateway.http.server import serve_http
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, DONE, TOO_LONG, ScriptedEngine, answer, beginning, chunk, usage
from tests.gateway.doubles.gateway import TRIAGE, VOICE, Gateway, Neighbours, http_dependencies, open_http_client
from tests.gateway.doubles.lora_server import STARTING
from tests.gateway.doubles.waiting import until

CHAT = "/v1/chat/completions"
USER: list[ChatCompletionMessageParam] = [{"role": "user", "content": IN_CHAT}]


def asking(text: str = IN_CHAT, **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, http_client=open_http_client(gateway)
    ) as client:
        yield client


# -- with OpenAI's own client


async def test_openais_client_gets_a_plain_answer(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " you", prompt_tokens=30, cached_tokens=16))
    got = await client.chat.completions.create(model="auto", messages=USER)
    assert (got.choices[0].message.role, got.choices[0].message.content) == ("assistant", "Hello you")
    assert (got.choices[0].finish_reason, got.model, got.object) == ("stop", "tiny", "chat.completion")
    assert got.usage is not None
    assert got.usage.prompt_tokens_details is not None
    assert (got.usage.total_tokens, got.usage.prompt_tokens_details.cached_tokens) == (32, 16)


async def test_openais_synchronous_client_works_too(gateway: Gateway, engine: ScriptedEngine) -> None:
    def ask() -> str | None:
        with (
            httpx.Client(verify=False) as http,
            openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=http) as client,
        ):
            return client.chat.completions.create(model="auto", messages=USER).choices[0].message.content

    assert await asyncio.to_thread(ask) == "Hello there"


async def test_openais_client_gets_a_stream(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    engine.says(*answer("a", "b"))
    chunks = [c async for c in await client.chat.completions.create(model="auto", messages=USER, stream=True)]
    assert [c.choices[0].delta.content for c in chunks] == ["a", "b", None]
    assert [c.choices[0].delta.role for c in chunks] == ["assistant", None, None]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({(c.id, c.created, c.model, c.object) for c in chunks}) == 1
    assert all(c.usage is None for c in chunks)


async def test_a_stream_ends_with_usage_on_request(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="auto", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    *_, last = [c async for c in stream]
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (20, 2, 22)
    assert last.model_extra is not None
    assert last.model_extra["pointsman"]["path"] == "small_talk"


async def test_openais_client_assembles_tool_calls(client: openai.AsyncOpenAI, engine: ScriptedEngine) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "refund", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": part}} for part in ('{"booking":', ' "AB12"}')]
    second = {"index": 1, "id": "c2", "type": "function", "function": {"name": "notify", "arguments": "{}"}}
    engine.says(
        *(chunk(tool_calls=[c]) for c in (call, *pieces, second)), chunk("", finish="tool_calls"), usage(), DONE
    )
    got = await client.chat.completions.create(model="auto", messages=USER)
    calls = got.choices[0].message.tool_calls
    assert calls is not None
    assert [(c.id, c.function.name, c.function.arguments) for c in calls if c.type == "function"] == [
        ("c1", "refund", '{"booking": "AB12"}'),
        ("c2", "notify", "{}"),
    ]
    assert got.choices[0].message.content is None
    assert got.choices[0].finish_reason == "tool_calls"


async def test_several_choices_and_their_logprobs_are_separate(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    def piece(content: str, index: int, finish: str | None = None) -> dict[str, Any]:
        logprob = {"token": content, "logprob": -0.5, "bytes": None, "top_logprobs": []}
        return chunk(content, index=index, finish=finish, logprobs={"content": [logprob]})

    engine.says(piece("b", 1), piece("a", 0), piece("B", 1, "length"), piece("A", 0, "stop"), usage(), DONE)
    got = await client.chat.completions.create(model="auto", messages=USER, n=2, logprobs=True)
    assert engine.bodies[0]["n"] == 2
    assert [(c.message.content, c.finish_reason) for c in got.choices] == [("aA", "stop"), ("bB", "length")]
    assert [[p.token for p in c.logprobs.content or []] for c in got.choices if c.logprobs] == [["a", "A"], ["b", "B"]]


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_are_openais_own_types(client: openai.AsyncOpenAI, engine: ScriptedEngine, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="nobody", messages=USER, stream=stream)
    assert (unknown.value.code, unknown.value.param, unknown.value.type) == (
        "unknown_model", "model", "invalid_request_error",
    )  # fmt: skip
    engine.refuses(400, TOO_LONG)
    with pytest.raises(openai.BadRequestError) as too_long:
        await client.chat.completions.create(model="auto", messages=USER, stream=stream)
    assert too_long.value.code == "context_length_exceeded"
    engine.refuses(500, {})
    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(model="tiny", messages=USER, stream=stream)
    assert (failed.value.status_code, failed.value.code, failed.value.type) == (503, "engine_error", "server_error")
    assert failed.value.response.headers["retry-after"] == "1"


async def test_an_error_in_a_stream_is_raised_by_openais_client(
    client: openai.AsyncOpenAI, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("Hel"), BREAK)
    stream = await client.chat.completions.create(model="auto", messages=USER, stream=True)
    assert (await anext(stream)).choices[0].delta.content == "Hel"
    with pytest.raises(openai.APIError, match="engine 'local' failed"):
        await anext(stream)


async def test_models_lists_what_a_request_may_name(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [
        "auto", "tiny", "path:triage_adapter", "path:triage_few_shot", "path:handbook", "path:letter",
        "path:small_talk", "path:safe_start", "triage@prod", "voice@prod", TRIAGE, VOICE,
    ]  # fmt: skip


# -- the stream as it is on the wire


async def test_a_stream_ends_with_done_and_a_broken_one_with_an_error_event(
    http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    response = await http.post(CHAT, json=asking(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in response.headers
    assert response.text.endswith("data: [DONE]\n\n")
    engine.says(*beginning("Hel"), BREAK)
    broken = await http.post(CHAT, json=asking(stream=True))
    assert "[DONE]" not in broken.text
    last = json.loads(broken.text.strip().rpartition("data: ")[2])
    assert (last["error"]["code"], last["error"]["type"]) == ("engine_unavailable", "server_error")


async def test_a_chunk_is_sent_as_soon_as_it_arrives(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    wait = asyncio.Event()
    engine.says(*beginning("first"), wait, *answer("second"))
    async with http.stream("POST", CHAT, json=asking(stream=True)) as response:
        lines = response.aiter_lines()
        assert "first" in await anext(lines)
        wait.set()
        assert "second" in "".join([line async for line in lines])


# -- headers


@pytest.mark.parametrize("stream", [False, True])
async def test_the_decision_is_in_the_headers(http: httpx.AsyncClient, gateway: Gateway, stream: bool) -> None:
    headers = (await http.post(CHAT, json=asking(IN_TRIAGE, stream=stream))).headers
    assert (headers["x-pointsman-task"], headers["x-pointsman-path"]) == ("triage", "triage_adapter")
    assert (headers["x-pointsman-kind"], headers["x-pointsman-reason"]) == ("lora", "policy:fixed")
    assert headers["x-pointsman-decision-id"].startswith("dec_")
    assert 0 < float(headers["x-pointsman-confidence"]) <= 1
    assert float(headers["x-pointsman-overhead-ms"]) > 0
    if not stream:  # a stream's cost is known only at its end
        assert float(headers["x-pointsman-cost-usd"]) == pytest.approx(28e-6)


async def test_a_fallback_shows_in_the_headers(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.script = lambda body: [BREAK] if body["model"] == TRIAGE else answer("sorted")
    headers = (await http.post(CHAT, json=asking(IN_TRIAGE))).headers
    assert (headers["x-pointsman-path"], headers["x-pointsman-reason"]) == ("triage_few_shot", "fallback")


async def test_a_request_id_is_kept_and_reaches_the_engine(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    given = await http.post(CHAT, json=asking(), headers={"x-request-id": "abc-123"})
    assert given.headers["x-request-id"] == engine.headers[0]["x-request-id"] == "abc-123"
    made = [(await http.get("/healthz")).headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2
    odd = await http.get("/healthz", headers={"x-request-id": "a" * 500})
    assert odd.headers["x-request-id"] == "a" * 64


async def test_a_client_may_shorten_the_deadline(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.says(asyncio.Event())
    late = await http.post(CHAT, json=asking(), headers={"x-request-timeout": "0.1"})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    past = await http.post(CHAT, json=asking(), headers={"x-request-timeout": "-1"})
    assert (past.status_code, past.json()["error"]["code"]) == (504, "deadline_exceeded")
    wrong = await http.post(CHAT, json=asking(), headers={"x-request-timeout": "soon"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-request-timeout")
    await until(lambda: engine.running == 0)


async def test_without_an_engine_a_gateway_is_alive_but_not_ready(
    neighbours: Neighbours, gateway: Gateway, http: httpx.AsyncClient
) -> None:
    assert (await http.get("/readyz")).status_code == 200
    await neighbours.lora_server.say(STARTING, detail="loading weights")
    await until(lambda: not gateway.components.engines.any_ready)
    assert (await http.get("/healthz")).text == "ok\n"
    not_ready = await http.get("/readyz")
    assert (not_ready.status_code, not_ready.headers["retry-after"]) == (503, "5")
    assert (await http.get("/readyz", params={"engines": 0})).status_code == 200
    refused = await http.post(CHAT, json=asking())
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["error"]["code"] == "engine_not_ready"


async def test_a_base_url_can_be_tested_with_head(http: httpx.AsyncClient) -> None:
    assert (await http.head("/")).status_code == 200
    assert (await http.get("/")).status_code == 405  # the route exists, but only for HEAD


async def test_the_schema_is_built_outside_the_event_loop() -> None:
    """Building the schema takes 0.2 s, and anybody may request it without a key."""
    dependencies: Any = SimpleNamespace(has_metrics_port=False, console=None)
    api, threads = build_api(dependencies), list[threading.Thread]()
    build = api.openapi

    def observed() -> dict[str, Any]:
        threads.append(threading.current_thread())
        return build()

    api.openapi = observed  # type: ignore[method-assign]  # the way that FastAPI documents
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://gateway") as client:
        answers = await asyncio.gather(*(client.get("/openapi.json") for _ in range(3)))
    assert [answered.json() for answered in answers] == [build()] * 3
    assert threading.main_thread() not in threads


class CountedCollects(Collector):
    """A collector that counts how often its metrics are collected."""

    def __init__(self) -> None:
        self.times = 0

    def collect(self) -> Iterator[Metric]:
        self.times += 1
        yield CounterMetricFamily("collects", "-", value=self.times)


async def test_all_who_ask_at_once_get_the_same_metrics_page(gateway: Gateway, http: httpx.AsyncClient) -> None:
    collector = CountedCollects()
    gateway.components.registry.register(collector)
    pages = await asyncio.gather(*(http.get("/metrics") for _ in range(20)))
    assert collector.times < 5, "each page is served for a second"
    assert len({page.text for page in pages}) == collector.times
    assert pages[0].headers["content-encoding"] == "gzip"


async def test_metrics_are_prometheus_text(http: httpx.AsyncClient) -> None:
    await http.post(CHAT, json=asking(IN_POLICY))
    metrics = await http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    line = 'pointsman_requests_total{fault="none",kind="rag",outcome="ok",path="handbook",task="policy"} 1.0'
    assert line in metrics.text
    assert "process_resident_memory_bytes" in metrics.text


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "auto", "messages": USER},
        {"model": "auto", "messages": USER, "stream": True, "stream_options": {"include_usage": True}},
        {"model": "path:small_talk", "messages": USER, "n": 2, "stop": "x"},
        {"model": "path:nowhere", "messages": USER},
        {"model": "auto", "messages": []},
        {"model": "auto", "messages": USER, "max_tokens": "many"},
    ],
)
async def test_the_fast_path_answers_like_the_framework(
    gateway: Gateway, engine: ScriptedEngine, asked: dict[str, Any]
) -> None:
    engine.says(*answer("Hello", " there"))
    components = gateway.components
    dependencies = http_dependencies(components)
    api = build_api(dependencies)
    without_raw_routes = GatewayApp(api, dependencies.tenancy, dependencies.budget, {}, lambda *_: None)
    async with (
        serve_http(build_app(dependencies), "127.0.0.1:0", grace=1) as hot,
        serve_http(without_raw_routes, "127.0.0.1:0", grace=1) as cold,
    ):
        seen = [await _told_at(address, asked) for address in (hot, cold)]
    assert seen[0] == seen[1]


async def _told_at(address: str, asked: dict[str, Any]) -> tuple[int, set[str], str]:
    """Sends a request; returns the status, the headers' names, and the body without fields that are unique to each
    answer.
    """
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=10, verify=False) as client:
        answered = await client.post("/v1/chat/completions", json=asked)
    body = re.sub(r"dec_\w+|[\d.]+e-\d+|\d\.\d+|(?<=created\":)\d+", "_", answered.text)
    return answered.status_code, set(answered.headers) - {"date"}, body
