"""Anthropic as an engine: requests are translated into its Messages API, and its streams back, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from aiohttp import web
from pointsman_gateway.domain import Chunk, Usage
from pointsman_gateway.engines.anthropic_messages import MessagesReader

from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.http_server import serving
from tests.gateway.doubles.waiting import until

FIELDS = frozenset(
    ["model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "top_k", "stop_sequences"]
) | {"tools", "tool_choice", "thinking", "metadata", "output_config"}  # fmt: skip
Event = Mapping[str, Any]


def started(**usage: int) -> Event:
    counted = {"input_tokens": 10, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 1}
    message = {"id": "msg_01", "type": "message", "role": "assistant", "content": [], "model": "claude-haiku-4-5"}
    return {"type": "message_start", "message": {**message, "usage": {**counted, **usage}}}


def ended(reason: str = "end_turn", output_tokens: int = 2) -> Sequence[Event]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": output_tokens}},
        {"type": "message_stop"},
    ]


def block(index: int, kind: str, *deltas: Event, **more: Any) -> Sequence[Event]:
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text(*pieces: str, index: int = 0) -> Sequence[Event]:
    return block(index, "text", *({"type": "text_delta", "text": piece} for piece in pieces), text="")


HELLO = [started(), {"type": "ping"}, *text("Hello", " there"), *ended()]
TOOL = [
    started(),
    *text("I look.", index=0),
    *block(
        1, "tool_use", {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"city": '},
        {"type": "input_json_delta", "partial_json": '"Oslo"}'},
        id="toolu_01", name="weather", input={},
    ),
    *ended("tool_use", 30),
]  # fmt: skip


def written(events: Sequence[Event]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)


class Anthropic:
    """A double of Anthropic's API that answers and rejects requests as Anthropic documents."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.events: Sequence[Event] = HELLO
        self.failure: tuple[int, str, dict[str, str]] | None = None
        self.hold: asyncio.Event | None = None
        self.running = 0

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if request.headers.get("x-api-key") != "sk-ant":
            return self._error(401, "authentication_error", "invalid x-api-key")
        if request.headers.get("anthropic-version") != "2023-06-01":
            return self._error(400, "invalid_request_error", "anthropic-version: header is required")
        if self.failure:
            status, kind, headers = self.failure
            return self._error(status, kind, "it says no", headers)
        problem = self._problem(body)
        if problem:
            return self._error(400, "invalid_request_error", problem)
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        self.running += 1
        try:
            await response.write(written(self.events))
            if self.hold:
                await self.hold.wait()
        finally:
            self.running -= 1
        return response

    def _problem(self, body: Mapping[str, Any]) -> str:
        unknown = body.keys() - FIELDS
        if unknown:
            return f"{min(unknown)}: Extra inputs are not permitted"
        if "max_tokens" not in body:
            return "max_tokens: Field required"
        roles = [message["role"] for message in body["messages"]]
        if roles[0] != "user" or {*roles} - {"user", "assistant"}:
            return "messages: first message must use the user role"
        blocks = [one for message in body["messages"] for one in message["content"]]
        if any(one["type"] == "text" and not one["text"] for one in blocks):
            return "messages: text content blocks must be non-empty"
        return ""

    def _error(self, status: int, kind: str, message: str, headers: Mapping[str, str] = {}) -> web.Response:
        error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
        return web.json_response(error, status=status, headers=headers)

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "claude-haiku-4-5", "type": "model"}], "has_more": False})


@pytest.fixture
async def anthropic() -> AsyncIterator[Anthropic]:
    double = Anthropic()
    app = web.Application()
    app.router.add_post("/v1/messages", double.messages)
    app.router.add_get("/v1/models", double.models)
    async with serving(app, handler_cancellation=True, shutdown_timeout=0.1) as double.url:
        yield double


@asynccontextmanager
async def site(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch, key: str = "sk-ant"
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("CLAUDE_KEY", key)
    models = neighbours.config.models
    models["models"]["claude"] = {"upstream": "claude-haiku-4-5"}  # with the listed price
    models["engines"]["claude"] = {
        "model": "claude", "provider": "anthropic", "url": anthropic.url, "api_key_env": "CLAUDE_KEY",
    }  # fmt: skip
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        yield http


async def ask(http: httpx.AsyncClient, *messages: Any, **more: Any) -> httpx.Response:
    messages = messages or ({"role": "user", "content": "Hi"},)
    return await http.post("/v1/chat/completions", json={"model": "claude", "messages": [*messages], **more})


async def test_an_answer_has_its_text_its_usage_with_the_cache_and_its_price(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(neighbours, anthropic, monkeypatch) as http:
        plain = (await ask(http)).json()
        streamed = (await ask(http, stream=True, stream_options={"include_usage": True})).text
    assert plain["choices"][0] | {"logprobs": None} == {
        "index": 0, "finish_reason": "stop", "logprobs": None,
        "message": {"role": "assistant", "content": "Hello there", "refusal": None},
    }  # fmt: skip
    usage = plain["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (20, 2)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 6
    assert plain["pointsman"]["cost_usd"] == pytest.approx((14 * 1 + 6 * 0.1 + 2 * 5) * 1e-6)
    assert streamed.endswith("data: [DONE]\n\n")
    assert '"content":"Hello"' in streamed.replace(": ", ":")
    assert anthropic.bodies[0] == {
        "model": "claude-haiku-4-5", "max_tokens": 4096, "stream": True,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }  # fmt: skip


async def test_parameters_system_and_tools_are_translated(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": schema}}
    call = {"id": "toolu_01", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    anthropic.events = TOOL
    async with site(neighbours, anthropic, monkeypatch) as http:
        told = await ask(
            http,
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "toolu_01", "content": "Rain"},
            {"role": "user", "content": "And in Oslo?"},
            max_tokens=9, temperature=1.5, top_p=0.9, stop=["X"], top_k=5, n=1, tools=[tool], tool_choice="required",
            parallel_tool_calls=False, reasoning_effort="low", prompt_cache_key="k",
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
        )  # fmt: skip
    answered = told.json()["choices"][0]
    assert answered["finish_reason"] == "tool_calls"
    assert answered["message"]["content"] == "I look."
    assert answered["message"]["tool_calls"] == [call]
    use = {"type": "tool_use", "id": "toolu_01", "name": "weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_01", "content": "Rain"}
    assert anthropic.bodies[0] == {
        "model": "claude-haiku-4-5", "max_tokens": 9, "stream": True, "system": "Be brief.", "temperature": 1.0,
        "top_p": 0.9, "top_k": 5, "stop_sequences": ["X"],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result, {"type": "text", "text": "And in Oslo?"}]},
        ],
        "tools": [{"name": "weather", "description": "Now", "input_schema": schema}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}},
    }  # fmt: skip


async def test_anthropics_own_format_passes_through_both_ways(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    anthropic.events = TOOL
    async with site(neighbours, anthropic, monkeypatch) as http:
        asked = {"model": "claude", "max_tokens": 50, "messages": [{"role": "user", "content": "Weather?"}]}
        told = await http.post("/v1/messages", json={**asked, "system": "Be brief."})
    assert told.status_code == 200, told.text
    assert told.json()["stop_reason"] == "tool_use"
    assert [one["type"] for one in told.json()["content"]] == ["text", "tool_use"]
    assert anthropic.bodies[0]["system"] == "Be brief."


FAILURES = [
    (401, "authentication_error", {}, 503, "engine_error", "engine 'claude' answered 401: it says no; check its api_k"),
    (529, "overloaded_error", {}, 503, "engine_overloaded", "claude"),
    (500, "api_error", {}, 503, "engine_error", "engine 'claude' answered 500: it says no"),
    (400, "invalid_request_error", {}, 400, "engine_refused", "it says no"),
    (413, "request_too_large", {}, 400, "engine_refused", "it says no"),
    (429, "rate_limit_error", {"retry-after": "9"}, 503, "engine_overloaded", "claude"),
]


async def test_its_errors_are_told_apart(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours.config.models["resilience"] = {"breaker": {"enabled": False}}
    async with site(neighbours, anthropic, monkeypatch) as http:
        for status, kind, headers, told, code, message in FAILURES:
            anthropic.failure = status, kind, headers
            answered = await ask(http)
            error = answered.json()["error"]
            assert (answered.status_code, error["code"]) == (told, code), answered.text
            assert message in error["message"]


async def test_an_error_in_the_stream_ends_it_with_an_error(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    anthropic.events = [started(), *text("Hel"), failed]
    async with site(neighbours, anthropic, monkeypatch) as http:
        streamed = (await ask(http, stream=True)).text
    assert "Overloaded" in streamed
    assert "[DONE]" not in streamed.rpartition("Overloaded")[0]


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"min_p": 0.1}, "min_p"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
]


async def test_what_the_api_cannot_do_is_rejected(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(neighbours, anthropic, monkeypatch) as http:
        for fields, param in IMPOSSIBLE:
            refused = await ask(http, **fields)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
        completion = await http.post("/v1/completions", json={"model": "claude", "prompt": "Once"})
        assert (completion.status_code, completion.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert anthropic.bodies == []


async def test_a_client_that_disconnects_stops_the_answer(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    anthropic.events, anthropic.hold = [started(), *text("Hel")], asyncio.Event()
    async with site(neighbours, anthropic, monkeypatch) as http:
        body = {"model": "claude", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            await anext(response.aiter_raw())
            assert anthropic.running == 1
        await until(lambda: anthropic.running == 0)


def test_a_stream_may_arrive_in_any_pieces() -> None:
    thinking = block(
        0, "thinking", {"type": "thinking_delta", "thinking": "Hm"}, {"type": "signature_delta", "signature": "x"}
    )
    whole = written([started(), *thinking, *text("Grüße", index=1), *ended("max_tokens", 7)])
    expected = [
        Chunk(extra={"delta": {"reasoning_content": "Hm"}}), Chunk(content="Grüße"), Chunk(finish_reason="length"),
        Chunk(usage=Usage(20, 7, 6)),
    ]  # fmt: skip
    for size in (1, 7, len(whole)):
        reader = MessagesReader()
        chunks = [one for at in range(0, len(whole), size) for one in reader.read(whole[at : at + size])]
        assert (chunks, reader.done, reader.failure) == (expected, True, "")


@pytest.mark.parametrize("event", [b"data: {\n", b"data: 5\n", b'data: {"type": "content_block_delta", "index": 0}\n'])
def test_an_event_that_cannot_be_read_is_a_failure(event: bytes) -> None:
    reader = MessagesReader()
    assert reader.read(event) == ()
    assert reader.failure.startswith("an event of its stream cannot be read")
