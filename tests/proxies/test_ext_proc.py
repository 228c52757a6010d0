"""A real Envoy carries the requests to the engine, and asks a gateway by external processing for each."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import BREAK, DONE, Refusal, ScriptedEngine, chunk, running_engine, usage
from tests.gateway.doubles.envoy_ext_proc import running_envoy_with_processor
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.gateway.doubles.waiting import until
from tests.ports import free_port

MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"
REQUESTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": MESSAGES},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 20},
}
PATIENCE = 20.0
STREAMS = 1100


@dataclass(frozen=True)
class Carried:
    url: str
    gateway: ProcessGateway
    engine: ScriptedEngine


@pytest.fixture
async def carried(tmp_path: Path, model_folder: Path) -> AsyncIterator[Carried]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running_engine())
        config = ConfigFolder(tmp_path / "config")
        config.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
        config.paths = {"safe_start": {"model": "tiny"}}
        config.tasks = {}
        port = free_port()
        settings = {"config": config.write(), "embedding_model": model_folder, "ext_proc_listen": f"127.0.0.1:{port}"}
        gateway = await stack.enter_async_context(process_gateway(tmp_path, **settings))
        url = await stack.enter_async_context(running_envoy_with_processor(tmp_path, f"127.0.0.1:{port}"))
        yield Carried(url, gateway, engine)


async def ask(url: str, path: str = CHAT, **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        return await client.post(url + path, json=REQUESTS[path] | {"model": "tiny"} | more)


def without_ids(body: dict[str, Any]) -> dict[str, Any]:
    """Returns an answer's receipt and usage, without what differs between any two requests."""
    receipt = {name: value for name, value in body["pointsman"].items() if not name.endswith(("_id", "_ms", "seconds"))}
    return {"usage": body["usage"], "receipt": receipt}


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_plain_answer_and_its_receipt_equal_those_of_a_direct_request(carried: Carried, path: str) -> None:
    through, direct = await ask(carried.url, path), await ask(carried.gateway.url, path)
    assert through.status_code == direct.status_code == 200, through.text
    assert without_ids(through.json()) == without_ids(direct.json())
    names = {name for name in direct.headers if name.startswith("x-pointsman")}
    assert names <= set(through.headers)
    assert carried.engine.bodies[0] == carried.engine.bodies[1]


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_streamed_answer_equals_that_of_a_direct_request(carried: Carried, path: str) -> None:
    through, direct = await ask(carried.url, path, stream=True), await ask(carried.gateway.url, path, stream=True)
    assert through.status_code == 200, through.text
    assert len(through.text.splitlines()) == len(direct.text.splitlines())
    assert through.headers["content-type"] == direct.headers["content-type"]


async def test_each_event_arrives_before_the_engine_sends_the_next(carried: Carried) -> None:
    seen = {word: asyncio.Event() for word in ("first", "second", "third")}
    words = [step for word, event in seen.items() for step in (chunk(word), event)]
    carried.engine.says(chunk("", role="assistant"), *words, chunk("", finish="stop"), usage(), DONE)
    text = ""
    body = REQUESTS[CHAT] | {"model": "tiny", "stream": True}
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream("POST", carried.url + CHAT, json=body) as it,
    ):
        async for piece in it.aiter_text():
            text += piece
            for word, event in seen.items():
                if word in text:
                    event.set()
    assert text.endswith("data: [DONE]\n\n")


async def test_a_refused_request_gets_the_error_of_a_direct_one(carried: Carried) -> None:
    wrong: list[dict[str, Any]] = [{"model": "unknown"}, {"messages": []}]
    for more in wrong:
        through, direct = await ask(carried.url, **more), await ask(carried.gateway.url, **more)
        assert (through.status_code, through.json()) == (direct.status_code, direct.json())
        assert through.status_code in (400, 404)
        assert through.headers["content-type"] == "application/json"
    assert carried.engine.bodies == []


async def test_a_malformed_body_is_refused(carried: Carried) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        answer = await client.post(carried.url + CHAT, content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_json")


async def test_a_body_over_the_limit_is_refused(carried: Carried) -> None:
    answer = await ask(carried.url, messages=[{"role": "user", "content": "word " * 4_000_000}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "body_too_large")


async def test_a_large_body_reaches_the_engine(carried: Carried) -> None:
    content = "word " * 600_000
    answer = await ask(carried.url, messages=[{"role": "user", "content": content}])
    assert answer.status_code == 200, answer.text
    assert carried.engine.bodies[-1]["messages"][0]["content"] == content


async def test_an_engine_that_fails_is_reported_as_in_a_direct_request(carried: Carried) -> None:
    carried.engine.refuses(500, {"error": {"message": "broken"}})
    through, direct = await ask(carried.url), await ask(carried.gateway.url)
    assert through.status_code == direct.status_code == 503
    assert through.json()["error"]["code"] == direct.json()["error"]["code"]


async def test_a_retry_after_a_failure_is_sent_by_the_gateway_itself(carried: Carried) -> None:
    carried.engine.script = lambda body: (
        Refusal(503, {})
        if len(carried.engine.bodies) == 1
        else [chunk("again", role="assistant"), chunk("", finish="stop"), usage(), DONE]
    )
    answer = await ask(carried.url)
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "again")


async def test_a_client_that_leaves_ends_the_request_and_its_work(carried: Carried) -> None:
    carried.engine.says(chunk("a", role="assistant"), asyncio.Event())
    body = REQUESTS[CHAT] | {"model": "tiny", "stream": True}
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream("POST", carried.url + CHAT, json=body) as it,
    ):
        await anext(it.aiter_text())
        assert carried.engine.running == 1
    await until(lambda: carried.engine.running == 0, within=PATIENCE)
    assert await carried.gateway.present_metric("pointsman_requests_total", outcome="cancelled") == 1


async def test_an_answer_without_usage_is_metered_as_a_direct_one(carried: Carried) -> None:
    carried.engine.says(chunk("a", role="assistant"), chunk("", finish="stop"), DONE)
    through, direct = await ask(carried.url), await ask(carried.gateway.url)
    assert without_ids(through.json()) == without_ids(direct.json())


async def test_a_stream_that_its_engine_breaks_off_at_once_is_ended_by_envoy(carried: Carried) -> None:
    carried.engine.says(chunk("a", role="assistant"), chunk("b"), BREAK)
    answer = await ask(carried.url, stream=True)
    assert answer.status_code == 502  # of Envoy itself
    await until(lambda: carried.engine.running == 0)
    assert await carried.gateway.present_metric("pointsman_in_flight") == 0
    assert await carried.gateway.metric("pointsman_requests_total", outcome="cancelled") == 1


async def test_more_streams_than_envoys_default_limit_run_at_once(carried: Carried) -> None:
    """Envoy's clusters refuse more than 1,024 requests at once unless their configuration states another limit."""
    go_on = asyncio.Event()
    carried.engine.says(chunk("", role="assistant"), chunk("Hello"), go_on, chunk("", finish="stop"), usage(), DONE)
    begun = 0

    async def read(client: aiohttp.ClientSession) -> tuple[int, bool]:
        nonlocal begun
        body = REQUESTS[CHAT] | {"model": "tiny", "stream": True}
        async with client.post(carried.url + CHAT, json=body) as answer:
            await answer.content.readany()
            begun += 1
            if begun == STREAMS:
                go_on.set()
            return answer.status, (await answer.content.read()).endswith(b"data: [DONE]\n\n")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client, asyncio.timeout(120):
        found = await asyncio.gather(*(read(client) for _ in range(STREAMS)))
    assert set(found) == {(200, True)}
