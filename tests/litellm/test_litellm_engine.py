"""Engines through LiteLLM's SDK: the real SDK against an OpenAI-compatible server. `make test-litellm` runs it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.doubles.engine import TOO_LONG, ScriptedEngine, answer, beginning, chunk, running_engine, usage
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.waiting import until

# The SDK reads a deprecated attribute of pydantic's.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")

CHAT = "/v1/chat/completions"
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def neighbours(neighbours: Neighbours, second_engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> Neighbours:
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    models = neighbours.config.models
    models["models"]["other"] = {**models["models"]["tiny"], "upstream": "big-model"}
    url = f"{second_engine.url}/v1"
    models["engines"]["other"] = {
        "model": "other", "provider": "litellm/openai", "url": url, "api_key_env": "OTHER_KEY",
        "timeouts": {"first_token_seconds": 3, "stream_idle_seconds": 3},
    }  # fmt: skip
    models["resilience"] = {"retries": {"max_retries": 0}}
    return neighbours


@pytest.fixture
async def http(neighbours: Neighbours) -> AsyncIterator[httpx.AsyncClient]:
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        http.timeout = httpx.Timeout(30)
        yield http


def asking(**more: Any) -> dict[str, Any]:
    return {"model": "other", "messages": [{"role": "user", "content": "Hello"}], **more}


async def test_an_answer_has_the_text_the_usage_and_the_price_of_any_other_engine(
    http: httpx.AsyncClient, second_engine: ScriptedEngine
) -> None:
    second_engine.says(*answer("Hello", " from", " afar", prompt_tokens=30, cached_tokens=10))
    answered = await http.post(CHAT, json=asking(temperature=0.5, max_tokens=9, stop=["x"]))
    body = answered.json()
    assert body["choices"][0]["message"]["content"] == "Hello from afar"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (30, 3)
    expected = (20 * 1.0 + 10 * 0.25 + 3 * 4.0) / 1e6
    assert float(answered.headers["x-pointsman-cost-usd"]) == pytest.approx(expected)
    sent = second_engine.bodies[-1]
    assert (sent["model"], sent["temperature"], sent["max_tokens"], sent["stop"]) == ("big-model", 0.5, 9, ["x"])
    assert second_engine.headers[-1]["authorization"] == "Bearer sk-other"


async def test_tool_calls_are_streamed_as_openais_client_reads_them(
    http: httpx.AsyncClient, second_engine: ScriptedEngine
) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": '{"city": "Oslo"}'}}
    second_engine.says(
        chunk(role="assistant", tool_calls=[call]), chunk(tool_calls=[rest]), chunk(finish="tool_calls"),
        usage(20, 5), b"data: [DONE]\n\n",
    )  # fmt: skip
    client = openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="none", http_client=http)
    stream = await client.chat.completions.create(**asking(tools=[WEATHER], tool_choice="required"), stream=True)
    deltas = [event.choices[0] async for event in stream if event.choices]
    calls = [part for delta in deltas for part in delta.delta.tool_calls or ()]
    assert json.loads("".join(part.function.arguments or "" for part in calls if part.function)) == {"city": "Oslo"}
    assert (calls[0].id, calls[0].function and calls[0].function.name) == ("call_1", "weather")
    assert deltas[-1].finish_reason == "tool_calls"
    assert second_engine.bodies[-1]["tools"] == [WEATHER]


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (400, {"error": {"message": "top_k is unknown", "code": 400}}, 400, "engine_refused"),
        (400, TOO_LONG, 400, "context_length_exceeded"),
        (401, {"error": {"message": "no such key"}}, 503, "engine_error"),
        (429, {"error": {"message": "slow down"}}, 503, "engine_overloaded"),
        (500, {"error": {"message": "out of order"}}, 503, "engine_error"),
    ],
)
async def test_errors_are_those_of_other_engines(
    http: httpx.AsyncClient, second_engine: ScriptedEngine, status: int, body: Any, expected: int, code: str
) -> None:
    second_engine.refuses(status, body)
    answered = await http.post(CHAT, json=asking())
    assert (answered.status_code, answered.json()["error"]["code"]) == (expected, code), answered.text
    assert "sk-other" not in answered.text
    assert len(second_engine.bodies) == 1  # the SDK does not retry


async def test_a_failure_before_the_first_token_leads_to_another_engine(
    neighbours: Neighbours, second_engine: ScriptedEngine
) -> None:
    async with running_engine() as spare:
        spare.says(*answer("Spare"))
        neighbours.config.models["engines"]["spare"] = {"model": "other", "url": spare.url}
        neighbours.config.models["resilience"] = {}
        second_engine.refuses(503, {"error": {"message": "down"}})
        await neighbours.ready()
        async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
            texts = set()
            for _ in range(4):
                answered = await http.post(CHAT, json=asking(), timeout=30)
                texts.add(answered.json()["choices"][0]["message"]["content"])
            assert texts == {"Spare"}


async def test_a_silent_engine_is_given_up_in_time(http: httpx.AsyncClient, second_engine: ScriptedEngine) -> None:
    second_engine.says(asyncio.Event())
    answered = await http.post(CHAT, json=asking())
    assert (answered.status_code, answered.json()["error"]["code"]) == (503, "first_token_timeout")
    await until(lambda: second_engine.running == 0)


async def test_a_client_that_disconnects_stops_the_engine(
    http: httpx.AsyncClient, second_engine: ScriptedEngine
) -> None:
    second_engine.says(*beginning("Once"), asyncio.Event())
    async with http.stream("POST", CHAT, json=asking(stream=True)) as answered:
        async for line in answered.aiter_lines():
            if "Once" in line:
                break
        assert second_engine.running == 1
    await until(lambda: second_engine.running == 0)


async def test_an_answer_that_breaks_off_ends_with_an_error(
    http: httpx.AsyncClient, second_engine: ScriptedEngine
) -> None:
    second_engine.says(*beginning("Half"), b"data: {not json\n\n")
    async with http.stream("POST", CHAT, json=asking(stream=True)) as answered:
        lines = [line async for line in answered.aiter_lines() if line]
    assert any('"error"' in line for line in lines)
    assert lines[-1] != "data: [DONE]" or any("engine_unavailable" in line for line in lines)
