"""A key's budget also covers fallback paths, and costs other than tokens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from pointsman_gateway.domain import Message, Request, Started
from pointsman_servicekit.keys.records import Limits

from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import TRIAGE, VOICE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import READY
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey

GOOD, BAD = '{"urgency": "low"}', '{"intent": "x"}'
BUDGET = 0.002
PRICE = 50e-6 * 10 + 1e-6 * 40
"""Dollars of an answer on the expensive path."""


@dataclass(frozen=True)
class Customer:
    """A caller with a daily budget of BUDGET dollars."""

    gateway: Gateway
    http: httpx.AsyncClient
    credential: str

    async def ask(self, model: str = "auto") -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": IN_TRIAGE}]}
        authorization = {"authorization": f"Bearer {self.credential}"}
        return await self.http.post("/v1/chat/completions", json=body, headers=authorization)

    async def considered(self) -> dict[str, tuple[str, str]]:
        """Returns how the decision on one more request judges each path."""
        caller = await self.gateway.components.tenancy.identify(self.credential)
        deadline = asyncio.get_running_loop().time() + 10
        request = Request("auto", (Message("user", IN_TRIAGE),), deadline=deadline, caller=caller)
        seen = [event async for event in self.gateway.components.pipeline.answer(request)]
        assert isinstance(seen[0], Started)
        return {row.path: (row.outcome, row.reason) for row in seen[0].decision.considered}

    async def spend(self) -> float:
        """Sends requests until the budget rules out the expensive path, and returns the dollars spent."""
        spent = 0.0
        for _ in range(20):
            asked = await self.ask("path:large")
            if asked.status_code == 429:
                return spent
            spent += cost(asked)
        raise AssertionError("no budget was met")


def cost(asked: httpx.Response) -> float:
    return float(asked.headers["x-pointsman-cost-usd"])


def taken(asked: httpx.Response) -> tuple[int, str]:
    return asked.status_code, asked.headers["x-pointsman-path"]


@asynccontextmanager
async def customer(neighbours: Neighbours, valkey: Valkey, budget: float = BUDGET) -> AsyncIterator[Customer]:
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        key = await issue(valkey.url, Limits(dollars_per_day=budget))
        yield Customer(gateway, http, key.credential.text)


@pytest.fixture
async def two_prices(neighbours: Neighbours, valkey: Valkey, second_engine: ScriptedEngine) -> Neighbours:
    """Changes the configuration to a free path `small` and an expensive path `large`."""
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url}
    config = neighbours.config
    config.models["models"]["tiny"]["usd_per_million_tokens"] = {"prompt": 0, "cached": 0, "completion": 0}
    config.models["models"]["grand"] = {
        "context_window": 4096, "usd_per_million_tokens": {"prompt": 10.0, "cached": 2.5, "completion": 40.0},
    }  # fmt: skip
    config.models["engines"]["far"] = {"model": "grand", "url": second_engine.url}
    config.models["resilience"] = {"breaker": {"enabled": False}, "retries": {"max_retries": 0}}
    config.paths["small"] = {"model": "tiny"}
    config.rest_of_tasks["default_path"] = "small"
    config.paths["large"] = {"model": "grand", "max_tokens": 10}
    second_engine.says(*answer(GOOD, prompt_tokens=50))
    await neighbours.ready()
    return neighbours


async def test_the_budget_applies_to_a_fallback_path(
    two_prices: Neighbours, valkey: Valkey, engine: ScriptedEngine
) -> None:
    two_prices.config.tasks["triage"] |= {"policy": {"fixed": "small"}, "fallback": ["large"]}
    engine.refuses(503, {"error": {"message": "not now"}})
    async with customer(two_prices, valkey) as caller:
        answers = [await caller.ask() for _ in range(10)]
    assert taken(answers[0]) == (200, "large")
    assert answers[-1].status_code == 503
    assert sum(cost(one) for one in answers if one.status_code == 200) <= BUDGET + PRICE


async def test_a_path_after_an_answer_that_broke_off_is_reserved_in_addition_to_it(
    two_prices: Neighbours, valkey: Valkey, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    config = two_prices.config
    config.models["models"]["other"] = dict(config.models["models"]["grand"])
    config.models["engines"]["near"] = {"model": "other", "url": engine.url}
    config.paths["spare"] = {"model": "other", "max_tokens": 10}
    config.tasks["triage"] |= {
        "policy": {"escalate": {"paths": ["large", "spare"]}}, "fallback": [],
        "validators": [{"json_schema": {"type": "object", "required": ["urgency"]}}],
    }  # fmt: skip
    second_engine.says(*beginning(*"abcdefgh"), BREAK)
    engine.says(*answer(GOOD, prompt_tokens=50))
    async with customer(two_prices, valkey, 0.0008) as caller:
        asked = await caller.ask()
        spent = sum(
            caller.gateway.metric("pointsman_cost_usd_total", component=of) for of in ("prompt", "cached", "completion")
        )
    assert 0 < spent <= 0.0008
    assert taken(asked) == (200, "small")


async def test_a_refused_answer_is_sent_if_the_budget_does_not_allow_another(
    two_prices: Neighbours, valkey: Valkey, engine: ScriptedEngine
) -> None:
    two_prices.config.tasks["triage"] |= {
        "policy": {"escalate": {"paths": ["small", "large"]}},
        "validators": [{"json_schema": {"type": "object", "required": ["urgency"]}}],
        "fallback": [],
    }
    engine.says(*answer(BAD))
    async with customer(two_prices, valkey) as caller:
        first = await caller.ask()
        spent = cost(first) + await caller.spend()
        last = await caller.ask()
        large = (await caller.considered())["large"]
        escalations = caller.gateway.metric(
            "pointsman_escalations_total", task="triage", source="small", target="large", validator="json_schema"
        )
    assert (taken(first), first.json()["choices"][0]["message"]["content"]) == ((200, "large"), GOOD)
    assert (taken(last), last.json()["choices"][0]["message"]["content"], cost(last)) == ((200, "small"), BAD, 0)
    assert large == ("skipped", "dollars_per_day")
    assert escalations == 1
    assert spent <= BUDGET + PRICE


async def test_a_path_beyond_the_budget_is_skipped(
    two_prices: Neighbours, valkey: Valkey, engine: ScriptedEngine
) -> None:
    two_prices.config.tasks["triage"] |= {"policy": {"fixed": "large"}, "fallback": ["small"]}
    engine.says(*answer("free"))
    async with customer(two_prices, valkey) as caller:
        first = await caller.ask()
        await caller.spend()
        last = await caller.ask()
        large = (await caller.considered())["large"]
        forced = await caller.ask("path:large")
    assert taken(first) == (200, "large")
    assert (taken(last), last.headers["x-pointsman-reason"], cost(last)) == ((200, "small"), "fallback", 0)
    assert large == ("skipped", "dollars_per_day")
    assert (forced.status_code, forced.json()["error"]["code"]) == (429, "dollars_per_day")


async def test_the_reservation_includes_a_share_of_training_costs(
    neighbours: Neighbours, valkey: Valkey, engine: ScriptedEngine
) -> None:
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url}
    neighbours.config.models["models"]["tiny"]["usd_per_million_tokens"] = {"prompt": 0, "cached": 0, "completion": 0}
    neighbours.config.models["training"] = {"usd_per_hour": 3.6, "expected_requests": 1000, "expected_days": 30}
    await neighbours.lora_server.say(
        READY,
        url=engine.url,
        resident=[TRIAGE, VOICE],
        aliases={"triage@prod": TRIAGE, "voice@prod": VOICE},
        training_seconds={TRIAGE: 1000.0},
    )
    neighbours.config.tasks["triage"] |= {"fallback": []}
    async with customer(neighbours, valkey) as caller:
        answers = [await caller.ask() for _ in range(6)]
    dear = [one for one in answers if one.status_code == 200 and cost(one)]
    assert [taken(one) for one in dear] == 2 * [(200, "triage_adapter")]  # at $0.001
