"""Anthropic's Python client against a gateway process: plain, streamed, with tools, structured, and in its errors."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from pydantic import BaseModel

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import BREAK, DONE, ScriptedEngine, Step, answer, beginning, chunk, usage
from tests.gateway.doubles.gateway import Neighbours
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until

ASKED: dict[str, Any] = {"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": IN_CHAT}]}
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLS: list[Step] = [
    chunk("I look."),
    chunk(tool_calls=[{"index": 0, "id": "call_0", "function": {"name": "weather", "arguments": ""}}]),
    chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"city": "Ro'}}]),
    chunk(tool_calls=[{"index": 0, "function": {"arguments": 'me"}'}}]),
    chunk(finish="tool_calls"), usage(40, 9, 8), DONE,
]  # fmt: skip


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
async def process(
    neighbours: Neighbours, valkey: Valkey, model_folder: Path, tmp_path: Path
) -> AsyncIterator[ProcessGateway]:
    """Runs a gateway with authentication."""
    await neighbours.ready()
    neighbours.config.models["engines"]["local"]["lora_server"] = neighbours.lora_server.address
    neighbours.config.models["aliases"] = {"claude-sonnet-5": "auto"}
    settings = {"embedding_model": model_folder, "retriever": neighbours.retriever.address, "redis_url": valkey.url}
    config = neighbours.config.write()
    async with process_gateway(tmp_path, config=config, wal_dir=tmp_path / "wal", auth="on", **settings) as process:
        yield process


@pytest.fixture
async def client(process: ProcessGateway, valkey: Valkey) -> AsyncIterator[anthropic.AsyncAnthropic]:
    key = (await issue(valkey.url)).credential.text
    async with (
        httpx2.AsyncClient(verify=False) as http,
        anthropic.AsyncAnthropic(base_url=process.url, api_key=key, max_retries=0, http_client=http) as client,
    ):
        yield client


async def test_everything_that_a_client_does(
    client: anthropic.AsyncAnthropic, process: ProcessGateway, engine: ScriptedEngine
) -> None:
    """This is a single test, because each start of a process takes time."""
    await plain(client, engine)
    await streamed(client, engine)
    await with_tools(client, engine)
    await with_a_tool_runner(client, engine)
    await structured(client, engine)
    await counted(client, engine)
    await models(client)
    await beta(client, engine)
    await synchronous(client, process, engine)
    await with_a_bearer_token(client, process, engine)
    await errors(client, engine)
    await disconnected(client, process, engine)


async def plain(client: anthropic.AsyncAnthropic, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " you", prompt_tokens=30, cached_tokens=16))
    for model in ("auto", "claude-sonnet-5"):
        message = await client.messages.create(
            **{**ASKED, "model": model}, system="Be kind.", extra_body={"temperature": 0}
        )
        assert "".join([block.text for block in message.content if block.type == "text"]) == "Hello you"
        assert (message.stop_reason, message.role, message.model) == ("end_turn", "assistant", "tiny")
        assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (14, 16)
        assert message.usage.output_tokens == 2
        assert message.model_extra is not None
        assert message.model_extra["pointsman"]["path"] == "small_talk"


async def streamed(client: anthropic.AsyncAnthropic, engine: ScriptedEngine) -> None:
    events = [event async for event in await client.messages.create(**ASKED, stream=True)]
    assert [event.type for event in events][-2:] == ["message_delta", "message_stop"]
    async with client.messages.stream(**ASKED) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        message = await stream.get_final_message()
    assert text == "Hello you"
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (14, 2)


async def with_tools(client: anthropic.AsyncAnthropic, engine: ScriptedEngine) -> None:
    engine.says(*CALLS)
    asked = {**ASKED, "tools": [WEATHER]}
    message = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        same = await stream.get_final_message()
    got: Any
    for got in (message, same):
        assert got.stop_reason == "tool_use"
        text, call = got.content
        assert (text.type, text.text, call.type) == ("text", "I look.", "tool_use")
        assert (call.name, call.input, call.id) == ("weather", {"city": "Rome"}, "call_0")
    engine.says(*answer("It is sunny."))
    result: Any = {"type": "tool_result", "tool_use_id": "call_0", "content": "sunny"}
    history: Any = [
        *ASKED["messages"], {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]},
    ]  # fmt: skip
    choice: Any = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    await client.messages.create(**{**asked, "messages": history}, tool_choice=choice)
    sent = engine.bodies[-1]
    arguments = json.loads(sent["messages"][-2]["tool_calls"][0]["function"]["arguments"])
    assert (arguments, sent["messages"][-1]["content"], sent["messages"][-1]["role"]) == (
        {"city": "Rome"},
        "sunny",
        "tool",
    )
    assert (sent["tool_choice"]["function"], sent["parallel_tool_calls"]) == ({"name": "weather"}, False)


async def with_a_tool_runner(client: anthropic.AsyncAnthropic, engine: ScriptedEngine) -> None:
    """The runner sends only the new messages at first, and the whole conversation if the server stores none."""

    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """The weather of a city."""
        engine.says(*answer("It is ", "sunny."))
        return f"sunny in {city}"

    for streams in (False, True):
        engine.says(*CALLS)
        runner: Any = client.beta.messages.tool_runner(**ASKED, tools=[weather], stream=streams)
        message = await runner.until_done()
        assert "".join(block.text for block in message.content if block.type == "text") == "It is sunny."
        roles = [each["role"] for each in engine.bodies[-1]["messages"] if each["role"] != "system"]
        assert roles[-3:] == ["user", "assistant", "tool"]
        assert engine.bodies[-1]["messages"][-1]["content"] == "sunny in Rome"


async def structured(client: anthropic.AsyncAnthropic, engine: ScriptedEngine) -> None:
    engine.says(*answer('{"name": "Ann",', ' "age": 30}'))
    message = await client.messages.parse(**ASKED, output_format=Person)
    assert message.parsed_output == Person(name="Ann", age=30)
    assert engine.bodies[-1]["response_format"]["json_schema"]["schema"]["required"] == ["name", "age"]


async def counted(client: anthropic.AsyncAnthropic, engine: ScriptedEngine) -> None:
    count = await client.messages.count_tokens(model="path:small_talk", messages=ASKED["messages"])
    assert count.input_tokens == 8


async def models(client: anthropic.AsyncAnthropic) -> None:
    everything = [model async for model in client.models.list(limit=1000)]
    names = [model.id for model in everything]
    assert {"auto", "tiny", "claude-sonnet-5"} < set(names)
    assert {model.type for model in everything} == {"model"}
    assert all(model.display_name == model.id and model.created_at.year > 2020 for model in everything)
    assert [model.id async for model in client.models.list(limit=2)] == names
    last = await client.models.list(before_id=names[-1], limit=2)
    assert ([model.id for model in last.data], last.has_more) == (names[-3:-1], True)
    assert [model.id async for model in client.models.list(before_id=names[2], limit=2)] == names[:2]
    assert await client.models.retrieve("claude-sonnet-5") == everything[names.index("claude-sonnet-5")]
    assert [model async for model in client.models.list(lifecycle=["retired"])] == []
    with pytest.raises(anthropic.NotFoundError) as unknown:
        await client.models.retrieve("nobody")
    assert unknown.value.type == "not_found_error"
    for wrong in ({"limit": 0}, {"limit": "x"}, {"after_id": "nobody"}, {"after_id": "auto", "before_id": "tiny"}):
        with pytest.raises(anthropic.BadRequestError):
            await client.models.list(extra_query=wrong)


async def beta(client: anthropic.AsyncAnthropic, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " you"))
    message = await client.beta.messages.create(**ASKED, betas=["interleaved-thinking-2025-05-14"])
    assert message.stop_reason == "end_turn"


async def synchronous(client: anthropic.AsyncAnthropic, process: ProcessGateway, engine: ScriptedEngine) -> None:
    def ask() -> str:
        with (
            httpx2.Client(verify=False) as http,
            anthropic.Anthropic(base_url=process.url, api_key=client.api_key, http_client=http) as synchronous,
            synchronous.messages.stream(**ASKED) as stream,
        ):
            return "".join(stream.text_stream)

    assert await asyncio.to_thread(ask) == "Hello you"


async def with_a_bearer_token(
    client: anthropic.AsyncAnthropic, process: ProcessGateway, engine: ScriptedEngine
) -> None:
    async with (
        httpx2.AsyncClient(verify=False) as http,
        anthropic.AsyncAnthropic(base_url=process.url, auth_token=client.api_key, http_client=http) as bearer,
    ):
        assert (await bearer.messages.create(**ASKED)).stop_reason == "end_turn"


async def errors(client: anthropic.AsyncAnthropic, engine: ScriptedEngine) -> None:
    with pytest.raises(anthropic.NotFoundError, match="unknown model"):
        await client.messages.create(**{**ASKED, "model": "claude-x"})
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        await client.messages.create(**ASKED, extra_body={"temperature": 9})
    with pytest.raises(anthropic.AuthenticationError) as denied:
        await client.with_options(api_key="sk-ant-1").messages.create(**ASKED)
    assert denied.value.type == "authentication_error"
    engine.refuses(500, {})
    with pytest.raises(anthropic.InternalServerError) as failed:
        await client.messages.create(**ASKED)
    assert failed.value.status_code == 529
    engine.says(asyncio.Event())
    with pytest.raises(anthropic.APIStatusError) as late:
        await client.messages.create(**ASKED, extra_headers={"x-request-timeout": "0.2"})
    assert (late.value.status_code, late.value.type) == (504, "timeout_error")
    engine.says(*beginning("Hel"), BREAK)
    with pytest.raises(anthropic.APIStatusError, match="engine 'local' failed"):
        async with client.messages.stream(**ASKED) as stream:
            await stream.get_final_message()


async def disconnected(client: anthropic.AsyncAnthropic, process: ProcessGateway, engine: ScriptedEngine) -> None:
    engine.says(*beginning("a"), asyncio.Event(), DONE)
    async with client.messages.stream(**ASKED) as stream:
        await anext(aiter(stream.text_stream))
        assert engine.running == 1
    await until(lambda: engine.running == 0)
