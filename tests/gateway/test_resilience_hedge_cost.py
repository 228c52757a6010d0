"""A hedged request pays for the prompt twice, and the receipt shows that."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pointsman_gateway.domain import Finished, Message, Request

from tests.gateway.doubles.config_folder import IN_CHAT, PRICES
from tests.gateway.doubles.engine import ScriptedEngine, answer
from tests.gateway.doubles.gateway import Gateway, Neighbours


@pytest.fixture
async def hedging(neighbours: Neighbours, second_engine: ScriptedEngine) -> AsyncIterator[Gateway]:
    neighbours.config.models["engines"]["spare"] = {"model": "tiny", "url": second_engine.url}
    neighbours.config.models["resilience"] = {"hedge_after_seconds": 0.02}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        next(cell for cell in gateway.components.engines.states if cell.engine.name == "spare").in_flight += 100
        yield gateway


async def test_the_receipt_includes_the_losers_prompt(
    hedging: Gateway, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    engine.says(asyncio.Event())
    second_engine.says(*answer("quick", prompt_tokens=100, cached_tokens=40))
    deadline = asyncio.get_running_loop().time() + 30
    request = Request("auto", (Message("user", IN_CHAT),), deadline=deadline)
    events = [event async for event in hedging.components.pipeline.answer(request)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    expected = (60 * PRICES["prompt"] + 40 * PRICES["cached"]) / 1e6
    assert finished.receipt.cost_parts_usd["hedge"] == pytest.approx(expected)
    assert hedging.metric("pointsman_hedges_total", engine="local", outcome="won") == 1
    assert hedging.metric("pointsman_cost_usd_total", component="hedge") == pytest.approx(expected)
