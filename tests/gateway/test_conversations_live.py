"""Agents through the real HTTP gateway: a loop of tool calls stays on one path, with one gateway or two, even without
Valkey."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_gateway.conversations.stage import UNAVAILABLE_NOTE
from pointsman_gateway.conversations.store import PREFIX
from pointsman_gateway.domain import Decision, Finished
from redis.asyncio import Redis

from tests.gateway.doubles.conversations import TOOLS, request
from tests.gateway.doubles.engine import DONE, Refusal, Step, answer, chunk, usage
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

CALLS = 3
"""Tool calls of each agent before it answers."""
CHATTING = "Hello number {}, how are you today?"
SCHEMA = {"type": "object", "properties": {}}

Dialect = Callable[[httpx.AsyncClient, list[dict[str, Any]]], Awaitable[httpx.Response]]
"""Sends a conversation in one API's format, and appends the answer and the results of its tool calls to the
conversation."""


def script(body: Mapping[str, Any]) -> Refusal | list[Step]:
    """Calls a tool until the conversation has enough results."""
    results = sum(message["role"] == "tool" for message in body["messages"])
    if results >= CALLS:
        return answer("done")
    function = {"name": "look", "arguments": "{}"}
    call = {"index": 0, "id": f"call_{results}", "type": "function", "function": function}
    return [chunk("", role="assistant"), chunk(tool_calls=[call]), chunk("", finish="tool_calls"), usage(), DONE]


async def send_chat(client: httpx.AsyncClient, messages: list[dict[str, Any]]) -> httpx.Response:
    response = await client.post("/v1/chat/completions", json={"model": "auto", "messages": messages, **TOOLS})
    body = response.raise_for_status().json()["choices"][0]["message"]
    messages.append({"role": "assistant", "content": body["content"], "tool_calls": body.get("tool_calls") or []})
    messages += [
        {"role": "tool", "tool_call_id": call["id"], "content": "seen"} for call in body.get("tool_calls") or ()
    ]
    return response


async def send_response(client: httpx.AsyncClient, items: list[dict[str, Any]]) -> httpx.Response:
    tools = [{"type": "function", "name": "look", "parameters": SCHEMA}]
    response = await client.post("/v1/responses", json={"model": "auto", "input": items, "tools": tools})
    output = response.raise_for_status().json()["output"]
    items += output
    items += [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "seen"}
        for item in output
        if item["type"] == "function_call"
    ]
    return response


async def send_message(client: httpx.AsyncClient, messages: list[dict[str, Any]]) -> httpx.Response:
    tools = [{"name": "look", "input_schema": SCHEMA}]
    body = {"model": "auto", "max_tokens": 50, "messages": messages, "tools": tools}
    response = await client.post("/v1/messages", json=body)
    content = response.raise_for_status().json()["content"]
    messages.append({"role": "assistant", "content": content})
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "seen"}
        for block in content
        if block["type"] == "tool_use"
    ]
    if results:  # as agents do, with a remark of their own
        messages.append({"role": "user", "content": [*results, {"type": "text", "text": "Go on."}]})
    return response


DIALECTS: Mapping[str, Dialect] = {"chat": send_chat, "responses": send_response, "messages": send_message}


@pytest.fixture
def neighbours(neighbours: Neighbours) -> Neighbours:
    terms = {"paths": ["small_talk", "safe_start"], "quality_floor": 0.5, "exploration_rate": 0.5}
    neighbours.config.tasks["chat"]["policy"] = {"best_value": terms}
    neighbours.engine.script = script
    return neighbours


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_no_tool_loop_changes_its_path(dialect: str, gateway: Gateway, http: httpx.AsyncClient) -> None:
    begun = set()
    for number in range(8):
        conversation = [{"role": "user", "content": CHATTING.format(number)}]
        paths = [path_of(await DIALECTS[dialect](http, conversation)) for _ in range(CALLS + 1)]
        assert len(set(paths)) == 1, (number, paths)
        begun.add(paths[0])
    assert begun == {"small_talk", "safe_start"}  # one of them on trial


def path_of(response: httpx.Response) -> str:
    return response.headers["x-pointsman-path"]


# -- several gateways


@pytest.fixture
def shared(neighbours: Neighbours, valkey: Valkey) -> Neighbours:
    """Configures gateways that share a Valkey, but do not adopt each other's configuration."""
    neighbours.settings |= {"redis_url": valkey.url, "reload_seconds": 3600.0}
    return neighbours


@asynccontextmanager
async def gateway_that_sends_all_to(path: str, neighbours: Neighbours, wal: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Runs a gateway whose policy sends all new conversations to `path`."""
    weights = {name: 1_000_000_000.0 if name == path else 1.0 for name in ("small_talk", "safe_start")}
    neighbours.config.tasks["chat"]["policy"] = {"split": weights}
    neighbours.settings["wal_dir"] = wal
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        yield client


async def written(valkey: Valkey, path: str, answers: int = 0) -> None:
    """Waits until Valkey has one conversation with this path and this number of answers."""

    async def look() -> bool:
        async with Redis.from_url(valkey.url, decode_responses=True) as redis:
            texts = [await redis.get(key) async for key in redis.scan_iter(PREFIX + "*")]
        values = [json.loads(text) for text in texts if text]
        return [(value["path"], value["answers"]) for value in values] == [(path, answers)]

    await found(look)


async def notes_of(client: httpx.AsyncClient, messages: list[dict[str, Any]]) -> list[str]:
    routed = await client.post("/v1/route", json={"model": "auto", "messages": messages, **TOOLS})
    return list(routed.raise_for_status().json()["notes"])


async def test_two_gateways_keep_the_path_of_a_tool_loop(shared: Neighbours, valkey: Valkey, tmp_path: Path) -> None:
    await shared.ready()
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(gateway_that_sends_all_to("small_talk", shared, tmp_path / "one"))
        other = await stack.enter_async_context(gateway_that_sends_all_to("safe_start", shared, tmp_path / "other"))
        conversation = [{"role": "user", "content": CHATTING.format(1)}]
        paths = []
        for number, client in enumerate((one, other, other, one)):
            paths.append(path_of(await send_chat(client, conversation)))
            await written(valkey, "small_talk", number)
        assert paths == ["small_talk"] * 4
        assert path_of(await send_chat(other, [{"role": "user", "content": CHATTING.format(2)}])) == "safe_start"


async def test_a_restarted_gateway_keeps_the_path(shared: Neighbours, valkey: Valkey, tmp_path: Path) -> None:
    await shared.ready()
    conversation = [{"role": "user", "content": CHATTING.format(1)}]
    async with gateway_that_sends_all_to("small_talk", shared, tmp_path / "wal") as before:
        assert path_of(await send_chat(before, conversation)) == "small_talk"
    async with gateway_that_sends_all_to("safe_start", shared, tmp_path / "wal") as after:
        assert await notes_of(after, conversation) == ["stayed on small_talk: results of tools that it called follow"]
        assert path_of(await send_chat(after, conversation)) == "small_talk"


@pytest.mark.parametrize("how", ["kill", "hang"])
async def test_without_valkey_conversations_are_decided_as_if_they_began(
    how: str, shared: Neighbours, valkey: Valkey, tmp_path: Path
) -> None:
    await shared.ready()
    conversation = [{"role": "user", "content": CHATTING.format(1)}]
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(gateway_that_sends_all_to("small_talk", shared, tmp_path / "one"))
        other = await stack.enter_async_context(gateway_that_sends_all_to("safe_start", shared, tmp_path / "other"))
        await send_chat(one, conversation)
        getattr(valkey, how)()
        assert UNAVAILABLE_NOTE in await notes_of(other, conversation)
        assert path_of(await send_chat(one, list(conversation))) == "small_talk"
        assert path_of(await send_chat(other, conversation)) == "safe_start"
        assert path_of(await send_chat(other, conversation)) == "safe_start"
        if how == "hang":
            valkey.go_on()
        else:
            await valkey.start()
        await written(valkey, "safe_start", 2)


async def test_a_broken_value_in_valkey_is_no_conversation(shared: Neighbours, valkey: Valkey, tmp_path: Path) -> None:
    await shared.ready()
    conversation = [{"role": "user", "content": CHATTING.format(1)}]
    async with gateway_that_sends_all_to("small_talk", shared, tmp_path / "wal") as client:
        await send_chat(client, conversation)
        await written(valkey, "small_talk")
    async with Redis.from_url(valkey.url) as redis:
        async for key in redis.scan_iter(PREFIX + "*"):
            await redis.set(key, b'{"path":"small_talk"')
    async with gateway_that_sends_all_to("safe_start", shared, tmp_path / "wal") as client:
        assert path_of(await send_chat(client, conversation)) == "safe_start"


async def test_a_tool_loop_whose_engine_fails_moves_with_a_note(gateway: Gateway, neighbours: Neighbours) -> None:
    async def answered(*roles: str) -> Decision:
        asked = request(*roles, first=CHATTING.format(1))
        *_, finished = [event async for event in gateway.components.pipeline.answer(asked)]
        assert isinstance(finished, Finished)
        return finished.receipt.decision

    first = (await answered("user")).path.name
    refusing = [Refusal(500, {"error": {"message": "out of luck"}})]
    neighbours.engine.script = lambda body: refusing.pop() if refusing else script(body)
    moved = await answered("user", "assistant", "tool")
    assert moved.path.name != first
    assert moved.notes == (f"left {first}: engine_error",)
    following = await answered("user", "assistant", "tool", "assistant", "tool")
    assert following.path.name == moved.path.name
