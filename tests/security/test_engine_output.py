"""The gateway does not trust anything that an engine sends."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.gateway.doubles.engine import usage
from tests.gateway.doubles.raw_engine import HEAD, LAST, RawEngine, event, in_chunks, running_raw_engine
from tests.gateway.doubles.waiting import found
from tests.security.keyed_gateway import KeyedGateway, keyed_gateway
from tests.security.measuring import assert_delays_nobody, cost_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = 30.0
DONE = b"data: [DONE]\n\n"
WINDOW, MAX_TOKENS = 4096, 2**31 - 1
"""The model's context window, and the largest number of tokens that is read."""


def text_event(text: str, index: int = 0, finish: str | None = None) -> bytes:
    return event({"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]})


def ended_with(prompt: int, completion: int, *, choices: int = 1) -> bytes:
    texts = [text_event("a", index, "stop") for index in range(choices)]
    return HEAD + in_chunks([*texts, event(usage(prompt, completion)), DONE]) + LAST


DEEP = b"[" * 900 + b"]" * 900
DEEPER = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
FAILURES: dict[str, bytes] = {
    "a deep event": HEAD + in_chunks([b'data: {"choices":[],"x":' + DEEP + b"}\n\n", DONE]) + LAST,
    "a deep delta": HEAD + in_chunks([b'data: {"choices":[{"delta":{"x":' + DEEPER + b"}}]}\n\n", DONE]) + LAST,
    "many choices": HEAD + in_chunks([*[text_event("x", number) for number in range(5000)], DONE]) + LAST,
    "a late choice": HEAD + in_chunks([text_event("", 1), text_event("x", 1), DONE]) + LAST,
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"x-y: z\r\n" * 1_000_000,
    "an endless header": b"HTTP/1.1 200 OK\r\nx-y: " + b"z" * 8_000_000,
    "endless trailers": HEAD + b"0\r\n" + b"x-y: z\r\n" * 1_000_000,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[RawEngine]:
    async with running_raw_engine() as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(engine: RawEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KeyedGateway]:
    """Runs a gateway whose circuit breaker opens at the first failure, for a moment."""
    breaker = {"consecutive_failures": 1, "open_duration_seconds": 0.05, "max_open_duration_seconds": 0.05}
    async with keyed_gateway(tmp_path_factory.mktemp("engine"), engine.url, {"breaker": breaker}) as gateway:
        yield gateway


async def ask(gateway: KeyedGateway, key: dict[str, str], **fields: Any) -> httpx.Response:
    """Waits until the circuit breaker is closed, and sends a request."""

    async def answered() -> httpx.Response | None:
        response = await gateway.chat(key, **fields)
        is_open = response.status_code == 503 and response.json()["error"]["code"] == "breaker_open"
        return None if is_open else response

    return await found(answered, PATIENCE)


@pytest.mark.parametrize("name", FAILURES)
async def test_what_no_engine_should_send_is_its_failure(gateway: KeyedGateway, engine: RawEngine, name: str) -> None:
    key = await gateway.key("acme")
    engine.steps = [ended_with(3, 1)]
    assert (await ask(gateway, key)).status_code == 200
    opened = await gateway.process.present_metric("pointsman_engine_breaker_opened_total")
    engine.steps = [FAILURES[name]]
    with cost_of(gateway.process.pid) as cost:
        response = await gateway.chat(key)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable"), response.text
    assert await gateway.process.present_metric("pointsman_engine_breaker_opened_total") > opened
    assert cost.cpu_seconds < 1.5
    assert cost.peak_mib < 40
    loop, address = asyncio.get_running_loop(), gateway.process.url.removeprefix("http://")
    await asyncio.to_thread(
        assert_delays_nobody, address, lambda: asyncio.run_coroutine_threadsafe(ask(gateway, key), loop).result()
    )
    assert "Traceback" not in gateway.process.words


@pytest.mark.parametrize(
    ("fields", "reported", "charged"),
    [
        ({"max_tokens": 7}, (3, MAX_TOKENS), (3, 7)),
        ({"max_tokens": 7, "n": 3}, (3, 100), (3, 21)),
        ({}, (MAX_TOKENS, MAX_TOKENS), (WINDOW, WINDOW)),
        ({"n": 2}, (3, MAX_TOKENS), (3, 2 * WINDOW)),
        ({"max_tokens": 7, "n": 3}, (3, 21), (3, 21)),
    ],
)
async def test_usage_is_capped_at_what_is_possible(
    gateway: KeyedGateway,
    engine: RawEngine,
    fields: dict[str, Any],
    reported: tuple[int, int],
    charged: tuple[int, int],
) -> None:
    key = await gateway.key("acme")
    counted = await gateway.process.present_metric("pointsman_usage_capped_total")
    engine.steps = [ended_with(*reported, choices=fields.get("n", 1))]
    response = await ask(gateway, key, **fields)
    used = response.json()["usage"]
    assert (used["prompt_tokens"], used["completion_tokens"]) == charged
    assert response.json()["pointsman"]["cost_usd"] == pytest.approx((charged[0] + 4 * charged[1]) / 1e6)
    path = f"/console/api/decisions/{response.headers['x-pointsman-decision-id']}"

    async def logged() -> Any:
        read = await gateway.http.get(path, headers={**key, "x-pointsman-console": "1"})
        return read.json()["entry"]["notes"] + ["logged"] if read.status_code == 200 else None

    notes = [note for note in await found(logged, PATIENCE) if note.startswith("usage capped: the engine reported")]
    assert len(notes) == (reported != charged)
    assert await gateway.process.present_metric("pointsman_usage_capped_total") == counted + len(notes)


@pytest.mark.parametrize("status", [400, 413, 422, 500])
async def test_an_engines_error_text_is_masked(gateway: KeyedGateway, engine: RawEngine, status: int) -> None:
    secret = "pm_ABCDEFGH_" + "s" * 32
    body = json.dumps({"error": {"message": f"bad key {secret} and sk-{'a' * 40}", "param": "x"}}).encode()
    engine.steps = [b"HTTP/1.1 %d No\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)]
    response = await ask(gateway, await gateway.key("acme"))
    message = response.json()["error"]["message"]
    assert response.status_code in (400, 503)
    assert "bad key" in message
    assert secret not in message
