"""Streams, large bodies and clients that disconnect, through a real nginx and a real Envoy in front of a gateway."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import DONE, ScriptedEngine, Step, chunk, running_engine, usage
from tests.gateway.doubles.envoy import running_envoy
from tests.gateway.doubles.nginx import running_nginx
from tests.gateway.doubles.process_gateway import process_gateway
from tests.gateway.doubles.waiting import until

MESSAGES = [{"role": "user", "content": "Hello"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 20},
}
WORDS = ("first", "second", "third")
ANSWER = "".join(WORDS)
PATIENCE = 20.0


@dataclass(frozen=True)
class Proxied:
    """A proxy's addresses, and the engine of the gateway behind the proxy."""

    url: str
    grpc: str
    engine: ScriptedEngine
    seen: Mapping[str, asyncio.Event]
    """By word of the engine's answer, an event. The engine sends a word, and waits for its event before it sends the
    next one."""

    def see(self, text: str) -> None:
        """Sets the events of the words in `text`, which a client has received."""
        for word, event in self.seen.items():
            if word in text:
                event.set()


@pytest.fixture(params=["nginx", "envoy"])
async def proxied(request: pytest.FixtureRequest, tmp_path: Path, model_folder: Path) -> AsyncIterator[Proxied]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running_engine())
        seen = {word: asyncio.Event() for word in WORDS}
        words: list[Step] = [step for word, event in seen.items() for step in (chunk(word), event)]
        engine.says(chunk("", role="assistant"), *words, chunk("", finish="stop"), usage(), DONE)
        config = ConfigFolder(tmp_path / "config")
        config.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
        config.paths = {"safe_start": {"model": "tiny"}}
        config.tasks = {}
        settings = {"config": config.write(), "embedding_model": model_folder}
        gateway = await stack.enter_async_context(process_gateway(tmp_path, **settings))
        http = gateway.url.removeprefix("http://")
        if request.param == "nginx":
            proxy: Any = await stack.enter_async_context(running_nginx(tmp_path, http, gateway.grpc_address))
        else:
            proxy = await stack.enter_async_context(running_envoy(tmp_path, [http], [gateway.grpc_address]))
        yield Proxied(proxy.url, proxy.grpc_address, engine, seen)


@asynccontextmanager
async def stream(proxied: Proxied, path: str, body: Any) -> AsyncIterator[httpx.Response]:
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream("POST", proxied.url + path, json=body) as it,
    ):
        yield it


@pytest.mark.parametrize("path", REQUESTS)
async def test_each_event_arrives_before_the_engine_sends_the_next(proxied: Proxied, path: str) -> None:
    text = ""
    async with stream(proxied, path, REQUESTS[path] | {"model": "tiny", "stream": True}) as answer:
        assert answer.status_code == 200
        async for piece in answer.aiter_text():
            text += piece
            proxied.see(text)
    assert all(word in text for word in WORDS)


async def test_a_client_that_leaves_a_stream_ends_it_at_the_engine(proxied: Proxied) -> None:
    body = {"model": "tiny", "messages": MESSAGES, "stream": True}
    async with stream(proxied, "/v1/chat/completions", body) as answer:
        await anext(answer.aiter_text())
        assert proxied.engine.running == 1
    await until(lambda: proxied.engine.running == 0, within=PATIENCE)


async def test_a_client_that_leaves_before_a_plain_answer_ends_it_at_the_engine(proxied: Proxied) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        asking = asyncio.create_task(
            client.post(f"{proxied.url}/v1/chat/completions", json={"model": "tiny", "messages": MESSAGES})
        )
        await until(lambda: proxied.engine.running == 1, within=PATIENCE)
        asking.cancel()
        await asyncio.wait([asking])
    await until(lambda: proxied.engine.running == 0, within=PATIENCE)


async def test_a_large_body_reaches_the_engine(proxied: Proxied) -> None:
    proxied.see(ANSWER)
    content = "word " * 600_000
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
        answer = await client.post(f"{proxied.url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.text)["choices"][0]["message"]["content"] == ANSWER
    assert proxied.engine.bodies[-1]["messages"][0]["content"] == content


async def test_each_event_arrives_over_grpc_before_the_engine_sends_the_next(proxied: Proxied) -> None:
    text = ""
    async with open_channel(proxied.grpc) as channel:
        async for event in streamed(channel):
            text += event.delta.content
            proxied.see(text)
    assert text == ANSWER


async def test_a_cancelled_grpc_call_ends_at_the_engine(proxied: Proxied) -> None:
    async with open_channel(proxied.grpc) as channel:
        call = streamed(channel)
        await anext(aiter(call))
        await until(lambda: proxied.engine.running == 1, within=PATIENCE)
        call.cancel()
        await until(lambda: proxied.engine.running == 0, within=PATIENCE)


def streamed(channel: grpc.aio.Channel) -> Any:
    request = pb.GenerateRequest(messages=[pb.Message(role="user", content="Hello")], model="tiny")
    return gateway_pb2_grpc.GatewayStub(channel).GenerateStream(request, timeout=PATIENCE)
