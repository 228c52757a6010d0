"""A shadow path also answers a share of the requests, with the real APIs and a real Valkey."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pointsman_servicekit.keys.records import KeyScope

from tests.gateway.doubles.answers import Answer
from tests.gateway.doubles.api_clients import HttpClient
from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.engine import ScriptedEngine, answer, chunk
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.request_logs import decisions_in, rated_in
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found, until

GOOD, BAD = '{"intent": "lost_item"}', "I cannot tell."


def by_path(body: Mapping[str, Any]) -> list[Any]:
    """Answers well as the adapter, and badly as the base model, which only the few-shot path uses."""
    return answer(GOOD if "@" in body["model"] else BAD)


async def shadowed(api: HttpClient, gateway: Gateway, name: str = "pointsman_shadow_pairs_total") -> Answer:
    """Returns the first shadowed answer. Shadowing starts once the gateway knows what other gateways have spent."""
    while True:
        ends = gateway.metric("pointsman_shadow_requests_total")
        got = await api.ask(IN_TRIAGE)
        await until(partial(_has_more, gateway, ends))
        if gateway.metric(name):
            return got


def _has_more(gateway: Gateway, ends: float) -> bool:
    return gateway.metric("pointsman_shadow_requests_total") > ends


@pytest.fixture
def neighbours(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> Neighbours:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    neighbours.config.rest_of_tasks["request_log"] = {"store_messages": True}
    neighbours.config.tasks["triage"] |= {
        "metric": {"exact": True},
        "shadow": {"paths": ["triage_few_shot"], "share": 1.0, "usd_per_day": 1.0},
    }
    neighbours.engine.script = by_path
    return neighbours


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[HttpClient]:
    async with open_http_client(gateway) as client:
        yield HttpClient(client)


async def test_the_caller_gets_the_chosen_answer_and_the_shadow_counts_as_evidence(
    api: HttpClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    got = await shadowed(api, gateway)
    assert (got.text, got.path) == (GOOD, "triage_adapter")
    assert [body["model"] for body in engine.bodies][-2:] == [TRIAGE, "tiny"]
    shadow = gateway.known("triage", "triage_few_shot")
    assert (shadow.answers, shadow.ratings) == (1, 0)
    assert shadow.mean_cost_usd == pytest.approx(gateway.metric("pointsman_shadow_cost_usd_total"))


async def test_a_shadow_does_not_count_as_a_request(api: HttpClient, gateway: Gateway, valkey: Valkey) -> None:
    got = await shadowed(api, gateway)
    assert gateway.metric("pointsman_requests_total", path="triage_few_shot") == 0

    async def noted() -> bool:
        return got.decision_id in [entry["id"] for entry in await decisions_in(valkey.url)]

    await found(noted)
    assert {entry["path"] for entry in await decisions_in(valkey.url)} == {"triage_adapter"}


async def test_requests_that_are_not_sampled_have_no_shadow(
    api: HttpClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    await api.ask(IN_CHAT)
    await api.ask(IN_TRIAGE, model="path:triage_few_shot")  # a named path is not shadowed
    before = len(engine.bodies)
    await shadowed(api, gateway)
    assert before == 2
    assert gateway.metric("pointsman_shadow_requests_total", outcome="ok") == 1


async def test_a_correct_answer_scores_both_and_gives_the_regret(
    api: HttpClient, gateway: Gateway, valkey: Valkey
) -> None:
    got = await shadowed(api, gateway)

    async def marked() -> bool:
        await api.say(got.decision_id, right_answer=json.dumps({"intent": "lost_item"}))
        return gateway.metric("pointsman_shadow_scored_total") == 1

    await found(marked)
    assert gateway.metric("pointsman_shadow_quality_total", side="chosen") == 1
    assert gateway.metric("pointsman_shadow_quality_total", side="shadow") == 0
    assert gateway.metric("pointsman_regret_quality_total") == 0

    async def rated() -> bool:
        return await rated_in(valkey.url) == {"triage_adapter": (1, 1.0), "triage_few_shot": (1, 0.0)}

    assert await found(rated)


async def test_a_right_answer_that_arrives_before_the_shadows_scores_both(neighbours: Neighbours) -> None:
    rated = asyncio.Event()
    neighbours.engine.script = lambda body: by_path(body) if "@" in body["model"] else [rated, *by_path(body)]
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        api = HttpClient(client)
        got = await api.ask(IN_TRIAGE)
        await until(lambda: neighbours.engine.running == 1)
        await api.say(got.decision_id, right_answer=GOOD)
        rated.set()
        await until(lambda: gateway.metric("pointsman_shadow_scored_total") == 1)
        assert gateway.metric("pointsman_shadow_quality_total", side="chosen") == 1


@pytest.mark.parametrize("is_rated_before", [False, True])
async def test_the_regret_is_the_shadows_advantage(
    neighbours: Neighbours, valkey: Valkey, is_rated_before: bool
) -> None:
    neighbours.engine.script = lambda body: answer(BAD if "@" in body["model"] else GOOD)
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        api = HttpClient(client)
        got, rating = await shadowed(api, gateway), {"rating": 0.25}
        if is_rated_before:
            await api.say(got.decision_id, **rating)

        async def marked() -> bool:
            await api.say(got.decision_id, right_answer=GOOD, **({} if is_rated_before else rating))
            return gateway.metric("pointsman_shadow_scored_total") == 1

        await found(marked)
        assert gateway.metric("pointsman_regret_quality_total") == 1

        async def rated() -> bool:  # the caller's own rating has priority
            return await rated_in(valkey.url) == {"triage_adapter": (1, 0.25), "triage_few_shot": (1, 1.0)}

        assert await found(rated)


async def test_validators_can_score_both_answers(neighbours: Neighbours, valkey: Valkey) -> None:
    triage = neighbours.config.tasks["triage"]
    triage["validators"] = [{"json_schema": {"type": "object"}}]
    triage["shadow"]["rate_by"] = "validators"
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        await shadowed(HttpClient(client), gateway, "pointsman_shadow_scored_total")

        async def rated() -> bool:
            return await rated_in(valkey.url) == {"triage_adapter": (1, 1.0), "triage_few_shot": (1, 0.0)}

        assert await found(rated)


async def test_a_shadow_is_cancelled_if_callers_need_its_slot_and_its_cost_counts(neighbours: Neighbours) -> None:
    never = asyncio.Event()
    neighbours.engine.script = lambda body: (
        by_path(body) if "@" in body["model"] else [chunk("slow"), never, *answer(" end")]
    )
    neighbours.settings["max_in_flight"] = 4  # half of the slots count as busy
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        api = HttpClient(client)
        await api.ask(IN_TRIAGE)
        await until(lambda: neighbours.engine.running == 1)
        crowd = [asyncio.create_task(api.ask(IN_CHAT)) for _ in range(2)]
        await until(lambda: gateway.metric("pointsman_shadow_requests_total", outcome="crowded"))
        await until(lambda: neighbours.engine.running == 2)  # the callers' alone
        assert gateway.metric("pointsman_shadow_cost_usd_total") > 0
        assert gateway.metric("pointsman_shadow_pairs_total") == 0
        never.set()
        await asyncio.gather(*crowd)


async def test_no_shadow_starts_beyond_the_daily_budget(neighbours: Neighbours) -> None:
    neighbours.config.tasks["triage"]["shadow"]["usd_per_day"] = 1e-9
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        api = HttpClient(client)
        await shadowed(api, gateway)
        await api.ask(IN_TRIAGE)
        await until(lambda: gateway.metric("pointsman_shadow_requests_total", outcome="spent"))
        assert gateway.metric("pointsman_shadow_pairs_total") == 1


async def test_a_failed_shadow_does_not_count_as_a_failure(neighbours: Neighbours) -> None:
    neighbours.engine.script = lambda body: by_path(body) if "@" in body["model"] else [chunk("half")]
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        got = await HttpClient(client).ask(IN_TRIAGE)
        assert got.text == GOOD
        await until(lambda: gateway.metric("pointsman_shadow_requests_total", outcome="engine_unavailable"))
        assert gateway.metric("pointsman_requests_total", outcome="ok") == 1


async def test_shadows_respect_the_scope_of_the_callers_key(neighbours: Neighbours, valkey: Valkey) -> None:
    narrow = await issue(valkey.url, scope=KeyScope(paths=("triage_adapter",)))
    wide = await issue(valkey.url)
    neighbours.settings["auth"] = "on"
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        client.headers["authorization"] = f"Bearer {wide.credential.text}"
        await shadowed(HttpClient(client), gateway)
        began, asked = gateway.metric("pointsman_shadow_requests_total"), len(neighbours.engine.bodies)
        client.headers["authorization"] = f"Bearer {narrow.credential.text}"
        for _ in range(3):
            await HttpClient(client).ask(IN_TRIAGE)
        client.headers["authorization"] = f"Bearer {wide.credential.text}"
        await HttpClient(client).ask(IN_TRIAGE)
        await until(lambda: gateway.metric("pointsman_shadow_pairs_total") == 2)
        await until(partial(_has_more, gateway, began))  # a pair is reported before its shadow has ended
        assert gateway.metric("pointsman_shadow_requests_total") == began + 1
        assert [body["model"] for body in neighbours.engine.bodies[asked:]] == [TRIAGE] * 4 + ["tiny"]


async def test_without_redis_a_gateway_uses_its_own_budget_count(neighbours: Neighbours) -> None:
    del neighbours.settings["redis_url"]
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        await HttpClient(client).ask(IN_TRIAGE)
        await until(lambda: gateway.metric("pointsman_shadow_pairs_total"))


async def test_a_running_shadow_ends_with_the_gateway(neighbours: Neighbours) -> None:
    never = asyncio.Event()
    neighbours.engine.script = lambda body: (
        by_path(body) if "@" in body["model"] else [chunk("slow"), never, *answer(" end")]
    )
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        await HttpClient(client).ask(IN_TRIAGE)
        await until(lambda: neighbours.engine.running == 1)
    await until(lambda: neighbours.engine.running == 0)
