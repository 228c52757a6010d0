"""Dollars of tokens that no engine has counted are added up by cause, separately from exact dollars."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import httpx
import pytest

from tests.gateway.doubles.config_folder import IN_CHAT, PRICES
from tests.gateway.doubles.engine import BREAK, ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.lora_server import READY
from tests.gateway.doubles.waiting import until

ESTIMATED = "pointsman_estimated_cost_usd_total"
BODY = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": IN_CHAT}]}


def tokens_usd(gateway: Gateway) -> float:
    parts = ("prompt", "cached", "completion")
    return sum(gateway.metric("pointsman_cost_usd_total", component=part) for part in parts)


async def test_an_answer_that_the_engine_has_counted_is_no_estimate(gateway: Gateway, http: httpx.AsyncClient) -> None:
    assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
    assert gateway.metric(ESTIMATED) == 0 < tokens_usd(gateway)


async def test_an_answer_whose_client_left_is_an_estimate(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("a", "b"), asyncio.Event())
    async with http.stream("POST", "/v1/chat/completions", json=BODY):
        await until(lambda: engine.sent == 3)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
    assert gateway.metric(ESTIMATED, cause="cancelled") == pytest.approx(tokens_usd(gateway)) != 0
    assert gateway.metric(ESTIMATED, cause="interrupted") == 0


async def test_the_prompt_of_a_client_that_left_before_the_first_token_is_an_estimate(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(asyncio.Event())
    asking = asyncio.create_task(http.post("/v1/chat/completions", json=BODY))
    await until(lambda: engine.running == 1)
    asking.cancel()
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
    assert gateway.metric(ESTIMATED, cause="cancelled") == pytest.approx(tokens_usd(gateway)) != 0
    assert gateway.metric("pointsman_cost_usd_total", component="completion") == 0


async def test_the_prompt_of_an_engine_that_was_too_late_is_an_estimate(
    neighbours: Neighbours, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    neighbours.config.models["engines"]["spare"] = {"model": "tiny", "url": second_engine.url}
    neighbours.config.models["resilience"] = {"timeouts": {"first_token_seconds": 0.1}}
    await neighbours.ready()
    engine.says(asyncio.Event())
    second_engine.says(*answer("quick", prompt_tokens=100, cached_tokens=0))
    async with neighbours.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url, timeout=30) as http:
        next(cell for cell in gateway.components.engines.states if cell.engine.name == "spare").in_flight += 100
        assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
        assert gateway.metric(ESTIMATED) == pytest.approx(100 * PRICES["prompt"] / 1e6)


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_engine_that_refused_the_prompt_is_not_paid(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine, status: int
) -> None:
    engine.refuses(status, {"error": {"message": "no"}})
    assert (await http.post("/v1/chat/completions", json=BODY)).status_code >= 400
    assert gateway.metric(ESTIMATED) == tokens_usd(gateway) == 0


async def test_a_prompt_that_no_engine_got_is_not_paid(neighbours: Neighbours) -> None:
    with ExitStack() as sockets:
        deaf = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # once its queue is full, others wait for their connection
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        await neighbours.lora_server.say(
            READY, url=f"http://127.0.0.1:{deaf.getsockname()[1]}", resident=[], aliases={}
        )
        async with neighbours.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.post("/v1/chat/completions", json=BODY, timeout=0.5)
            await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
            assert gateway.metric(ESTIMATED) == 0


async def test_an_answer_that_broke_off_is_an_estimate(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("a", "b"), BREAK)
    async with http.stream("POST", "/v1/chat/completions", json=BODY) as response:
        await response.aread()
    assert gateway.metric(ESTIMATED, cause="interrupted") == pytest.approx(tokens_usd(gateway)) != 0
    assert gateway.metric(ESTIMATED, cause="cancelled") == 0


async def test_a_cut_off_answer_has_the_price_of_the_service_tier_that_was_asked_for(
    neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    half = {kind: price / 2 for kind, price in PRICES.items()}
    neighbours.config.models["models"]["tiny"]["service_tiers"] = {"flex": half}
    neighbours.config.models["engines"]["far"] = {
        "model": "tiny", "url": engine.url, "request_fields": ["service_tier"],
    }  # fmt: skip
    await neighbours.ready()
    engine.says(*beginning("a", "b"), BREAK)
    async with neighbours.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url, verify=False) as http:
        for tier in ("flex", "unheard-of"):
            async with http.stream("POST", "/v1/chat/completions", json={**BODY, "service_tier": tier}) as response:
                await response.aread()
        completion = gateway.metric("pointsman_cost_usd_total", component="completion")
    assert completion == pytest.approx(2 * (PRICES["completion"] / 2 + PRICES["completion"]) / 1e6)


@pytest.fixture
async def hedging(neighbours: Neighbours, second_engine: ScriptedEngine) -> AsyncIterator[Gateway]:
    neighbours.config.models["engines"]["spare"] = {"model": "tiny", "url": second_engine.url}
    neighbours.config.models["resilience"] = {"hedge_after_seconds": 0.02}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        next(cell for cell in gateway.components.engines.states if cell.engine.name == "spare").in_flight += 100
        yield gateway


async def test_only_the_prompt_of_the_slower_engine_of_a_hedged_request_is_an_estimate(
    hedging: Gateway, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    engine.says(asyncio.Event())
    second_engine.says(*answer("quick", prompt_tokens=100, cached_tokens=0))
    async with httpx.AsyncClient(base_url=hedging.url, verify=False, timeout=30) as http:
        assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
    assert hedging.metric(ESTIMATED, cause="hedged") == pytest.approx(100 * PRICES["prompt"] / 1e6)
    assert hedging.metric(ESTIMATED) == hedging.metric(ESTIMATED, cause="hedged")
