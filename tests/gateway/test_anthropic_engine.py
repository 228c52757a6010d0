"""Anthropic as an engine: requests are translated into its Messages API, and its streams back, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.gateway.doubles.anthropic_api import TOOL, Anthropic, ask, running_anthropic, site, started, text
from tests.gateway.doubles.gateway import Neighbours
from tests.gateway.doubles.waiting import until


@pytest.fixture
async def anthropic() -> AsyncIterator[Anthropic]:
    async with running_anthropic() as double:
        yield double


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
    assert plain["pointsman"]["cost_usd"] == pytest.approx((10 * 1 + 4 * 1.25 + 6 * 0.1 + 2 * 5) * 1e-6)
    assert streamed.endswith("data: [DONE]\n\n")
    assert '"content":"Hello"' in streamed.replace(": ", ":")
    assert anthropic.bodies[0] == {
        "model": "claude-haiku-4-5", "max_tokens": 4096, "stream": True,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }  # fmt: skip


@pytest.mark.parametrize("arguments", ["[" * 20_000, '{"a":' * 20_000, '{"a": NaN}', "no JSON", "[1]"])
async def test_arguments_of_a_call_that_are_no_object_become_its_only_field(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    call = {"id": "toolu_01", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    async with site(neighbours, anthropic, monkeypatch) as http:
        response = await ask(
            http,
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "toolu_01", "content": "Rain"},
        )
    assert response.status_code == 200, response.text[:300]
    [use] = anthropic.bodies[0]["messages"][1]["content"]
    assert use["input"] == {"arguments": arguments}


@pytest.mark.parametrize("calls", [{"type": []}, ["a"], [[]], [{"function": "weather"}], "a", 5, [None]])
async def test_tool_calls_that_are_no_list_of_objects_are_rejected(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch, calls: Any
) -> None:
    async with site(neighbours, anthropic, monkeypatch) as http:
        response = await ask(http, {"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": calls})
    assert response.status_code == 400, response.text[:300]
    assert response.json()["error"]["code"] == "bad_parameter"
    assert "'tool_calls' must be a list of objects" in response.json()["error"]["message"]


async def test_parameters_system_and_tools_are_translated(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": schema}}
    call = {"id": "toolu_01", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    anthropic.events = TOOL
    async with site(neighbours, anthropic, monkeypatch) as http:
        response = await ask(
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
    answered = response.json()["choices"][0]
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
        response = await http.post("/v1/messages", json={**asked, "system": "Be brief."})
    assert response.status_code == 200, response.text
    assert response.json()["stop_reason"] == "tool_use"
    assert [one["type"] for one in response.json()["content"]] == ["text", "tool_use"]
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
        for status, kind, headers, expected, code, message in FAILURES:
            anthropic.failure = status, kind, headers
            answered = await ask(http)
            error = answered.json()["error"]
            assert (answered.status_code, error["code"]) == (expected, code), answered.text
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


TOOLS = [{"type": "function", "function": {"name": "weather"}}]
KNOWN_CHOICES = 'this model takes "auto", "none", "required" or a function as tool_choice, and no '
MALFORMED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": 5}, "tools", "'tools' must be a list of objects"),
    ({"tools": {"a": 1}}, "tools", "'tools' must be a list of objects"),
    ({"tools": "x"}, "tools", "'tools' must be a list of objects"),
    ({"tools": ["x"]}, "tools[0]", 'tools[0] must be an object with the type "function"'),
    ({"tools": [*TOOLS, None]}, "tools[1]", 'tools[1] must be an object with the type "function"'),
    ({"tools": [{"function": "f"}]}, "tools[0].function", "tools[0].function must be an object"),
    ({"tools": TOOLS, "tool_choice": []}, "tool_choice", KNOWN_CHOICES + "'[]'"),
    ({"tools": TOOLS, "tool_choice": 5}, "tool_choice", KNOWN_CHOICES + "'5'"),
    ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", KNOWN_CHOICES + "'any'"),
    ({"response_format": "json"}, "response_format", "'response_format' must be an object with a 'type'"),
    (
        {"response_format": {"type": "json_schema", "json_schema": "x"}},
        "response_format.json_schema",
        "'response_format.json_schema' must be an object with a 'schema'",
    ),
]


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_malformed_tools_and_formats_are_rejected_by_their_name(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    async with site(neighbours, anthropic, monkeypatch) as http:
        for fields, param, message in MALFORMED:
            rejected = await ask(http, stream=streams, **fields)
            assert rejected.status_code == 400, rejected.text
            assert (rejected.json()["error"]["param"], rejected.json()["error"]["message"]) == (param, message)
    assert anthropic.bodies == []


@pytest.mark.parametrize(("choice", "sent"), [(None, "auto"), ("auto", "auto"), ("none", "none"), ("required", "any")])
async def test_a_tool_choice_is_sent_by_anthropics_name(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch, choice: str | None, sent: str
) -> None:
    async with site(neighbours, anthropic, monkeypatch) as http:
        assert (await ask(http, tools=TOOLS, tool_choice=choice)).status_code == 200
    assert anthropic.bodies[0]["tool_choice"] == {"type": sent}


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


@pytest.mark.parametrize(
    ("tier", "sent"),
    [("auto", "auto"), ("default", "standard_only"), ("standard_only", "standard_only"), ("flex", None)],
)
async def test_the_service_tier_is_sent_by_anthropics_name(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch, tier: str, sent: str | None
) -> None:
    async with site(neighbours, anthropic, monkeypatch) as http:
        assert (await ask(http, service_tier=tier, store=True)).status_code == 200
    assert anthropic.bodies[0].get("service_tier") == sent
