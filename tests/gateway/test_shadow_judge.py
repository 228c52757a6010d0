"""A configured model judges a request's answer and its shadow's answer, in both orders and within a budget of its
own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_cli.advise.live import fetch_tasks, live_advice
from pointsman_cli.advise.regret import fetch_regrets
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config

from tests.gateway.doubles.api_clients import HttpClient
from tests.gateway.doubles.config_folder import IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.engine import Refusal, answer
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.process_gateway import process_gateway
from tests.gateway.doubles.request_logs import pair_scores_in, rated_in
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found, until

GOOD, BAD = '{"intent": "lost_item"}', "I cannot tell."
RUBRIC = "Prefer the answer that names the intent."
VERDICTS = "pointsman_judge_verdicts_total"

Judging = Callable[[str, str], str]
"""A function that maps the answers A and B to the judge's reply."""


def honest(first: str, second: str) -> str:
    return f"One of them names the intent.\nScore A: {9 if first == GOOD else 2}\nScore B: {9 if second == GOOD else 2}"


def scripted(judging: Judging) -> Callable[[Mapping[str, Any]], Any]:
    """Returns a script of the engine: the adapter answers well, the base model badly, and the base model also replies
    as the judge.
    """

    def script(body: Mapping[str, Any]) -> Any:
        if body["messages"][0]["content"].startswith(RUBRIC):
            case = json.loads(body["messages"][-1]["content"])
            assert case["request"] == [{"role": "user", "content": IN_TRIAGE}]
            return answer(judging(case["A"], case["B"]))
        return answer(GOOD if "@" in body["model"] else BAD)

    return script


@pytest.fixture
def neighbours(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> Neighbours:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    neighbours.config.prompts["rubric.txt"] = RUBRIC
    neighbours.config.tasks["triage"]["shadow"] = {
        "paths": ["triage_few_shot"],
        "share": 1.0,
        "usd_per_day": 1.0,
        "rate_by": "judge",
        "judge": {"model": "tiny", "prompt": "rubric.txt", "usd_per_day": 0.5},
    }
    neighbours.engine.script = scripted(honest)
    return neighbours


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[HttpClient]:
    async with open_http_client(gateway) as client:
        yield HttpClient(client)


async def judged(api: HttpClient, gateway: Gateway, outcome: str) -> str:
    """Sends requests until a comparison of two answers has this outcome; returns the id of the last decision."""
    asked = []

    async def has_outcome() -> bool:
        asked.append((await api.ask(IN_TRIAGE)).decision_id)
        return gateway.metric(VERDICTS, outcome=outcome) > 0

    await found(has_outcome)
    return asked[-1]


async def test_the_judge_scores_both_answers_in_both_orders(
    api: HttpClient, gateway: Gateway, neighbours: Neighbours, valkey: Valkey
) -> None:
    await judged(api, gateway, "chosen")
    pairs = gateway.metric("pointsman_shadow_scored_total")
    assert gateway.metric("pointsman_shadow_quality_total", side="chosen") == pytest.approx(0.9 * pairs)
    assert gateway.metric("pointsman_shadow_quality_total", side="shadow") == pytest.approx(0.2 * pairs)
    assert gateway.metric("pointsman_judge_cost_usd_total", task="triage") > 0
    asked = [body for body in neighbours.engine.bodies if body["messages"][0]["content"].startswith(RUBRIC)]
    cases = [json.loads(body["messages"][-1]["content"]) for body in asked[:2]]
    assert [(case["A"], case["B"]) for case in cases] == [(GOOD, BAD), (BAD, GOOD)]
    assert asked[0]["temperature"] == 0

    async def rated() -> bool:
        ratings = await rated_in(valkey.url)
        return ratings.keys() == {"triage_adapter", "triage_few_shot"}

    assert await found(rated)
    scores = await found(partial(pair_scores_in, valkey.url))
    assert scores[0] == {"triage_adapter": 0.9, "triage_few_shot": 0.2}


async def test_a_preference_that_depends_on_the_order_is_a_tie(
    api: HttpClient, gateway: Gateway, neighbours: Neighbours
) -> None:
    neighbours.engine.script = scripted(lambda first, second: "The first.\nScore A: 8\nScore B: 4")
    await judged(api, gateway, "disagreement")
    sides = [gateway.metric("pointsman_shadow_quality_total", side=side) for side in ("chosen", "shadow")]
    assert sides[0] == sides[1] == pytest.approx(0.6 * gateway.metric("pointsman_shadow_scored_total"))
    assert gateway.metric("pointsman_regret_quality_total") == 0


@pytest.mark.parametrize("message", ["Both are fine.", "Score A: 9", "Score A: 12\nScore B: 1"])
async def test_a_judgement_without_two_scores_is_counted_and_is_no_rating(
    api: HttpClient, gateway: Gateway, neighbours: Neighbours, message: str
) -> None:
    neighbours.engine.script = scripted(lambda first, second: message)
    await judged(api, gateway, "unparsable")
    assert gateway.metric("pointsman_shadow_scored_total") == 0
    assert gateway.known("triage", "triage_few_shot").ratings == 0


async def test_a_failed_judge_is_counted_and_its_pair_has_no_rating(
    api: HttpClient, gateway: Gateway, neighbours: Neighbours
) -> None:
    answers, no = scripted(honest), Refusal(400, {"error": {"message": "no"}})
    neighbours.engine.script = lambda body: no if body["messages"][0]["content"].startswith(RUBRIC) else answers(body)
    await judged(api, gateway, "engine_refused")
    assert gateway.metric("pointsman_shadow_scored_total") == 0


async def test_the_judge_has_a_budget_of_its_own(neighbours: Neighbours) -> None:
    neighbours.config.tasks["triage"]["shadow"]["judge"]["usd_per_day"] = 1e-9
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        await judged(HttpClient(client), gateway, "spent")
        assert gateway.metric(VERDICTS, outcome="chosen") == 1
        assert gateway.metric("pointsman_shadow_pairs_total") > 1


async def test_peoples_ratings_are_compared_with_the_judge(api: HttpClient, gateway: Gateway) -> None:
    decision_id = await judged(api, gateway, "chosen")
    verdicts = {"judge": "good", "human": "bad"}
    await api.say(decision_id, rating=0.2)
    await until(lambda: gateway.metric("pointsman_judge_agreements_total", **verdicts) == 1)
    earlier = (await api.ask(IN_TRIAGE)).decision_id  # rated before or after it is judged
    await api.say(earlier, rating=1.0)
    await until(lambda: gateway.metric("pointsman_judge_agreements_total", judge="good", human="good") == 1)
    await api.say(decision_id, rating=0.1)
    assert gateway.metric("pointsman_judge_agreements_total") == 2


async def test_right_answers_are_compared_with_both_scores(neighbours: Neighbours) -> None:
    neighbours.config.rest_of_tasks["request_log"] = {"store_messages": True}
    neighbours.config.tasks["triage"]["metric"] = {"exact": True}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        api = HttpClient(client)
        await api.say(await judged(api, gateway, "chosen"), right_answer=GOOD)
        await until(lambda: gateway.metric("pointsman_judge_agreements_total") == 2)
        for verdict in ("good", "bad"):
            assert gateway.metric("pointsman_judge_agreements_total", judge=verdict, human=verdict) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"judge": {"model": "gpt-9", "usd_per_day": 1}}, "asks model 'gpt-9'"),
        ({"judge": {"model": "path:nowhere", "usd_per_day": 1}}, "asks model 'path:nowhere'"),
        ({"judge": {"model": "tiny", "prompt": "none.txt", "usd_per_day": 1}}, "names prompt 'none.txt'"),
        ({"judge": {"model": "tiny", "usd_per_day": 0}}, "usd_per_day"),
        ({"judge": None}, "rate_by: judge and judge:"),
        ({"rate_by": "right_answers"}, "rate_by: judge and judge:"),
    ],
)
def test_a_judge_that_cannot_work_is_refused(config_folder: ConfigFolder, change: dict[str, Any], message: str) -> None:
    config_folder.tasks["triage"]["shadow"] = {
        "paths": ["triage_few_shot"],
        "usd_per_day": 1.0,
        "rate_by": "judge",
        "judge": {"model": "tiny", "usd_per_day": 1},
    } | change
    with pytest.raises(ConfigError, match=message):
        load_config(config_folder.write())


def test_a_judge_of_unknown_price_is_refused(config_folder: ConfigFolder) -> None:
    config_folder.models["models"]["dear"] = {"context_window": 4096, "usd_per_million_tokens": "unknown"}
    config_folder.models["engines"]["remote"] = {"model": "dear", "url": "http://127.0.0.1:1"}
    config_folder.tasks["triage"]["shadow"] = {
        "paths": ["triage_few_shot"],
        "usd_per_day": 1.0,
        "rate_by": "judge",
        "judge": {"model": "dear", "usd_per_day": 1},
    }
    with pytest.raises(ConfigError, match="the price of its model 'dear' is unknown"):
        load_config(config_folder.write())


async def test_a_gateway_process_judges_and_its_command_reports_it(
    neighbours: Neighbours, model_folder: Path, tmp_path: Path
) -> None:
    await neighbours.ready()
    neighbours.config.models["engines"]["local"]["lora_server"] = neighbours.lora_server.address
    settings = {"config": neighbours.config.write(), "embedding_model": model_folder, **neighbours.settings}
    async with process_gateway(tmp_path, **settings) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:

        async def judged() -> bool:
            await HttpClient(client).ask(IN_TRIAGE)
            return await gateway.metric(VERDICTS, task="triage", outcome="chosen") > 0

        assert await found(judged, within=60)
        [figures] = (await asyncio.to_thread(fetch_regrets, f"{gateway.url}/metrics")).judges
        assert figures.verdicts["chosen"] >= 1
        assert figures.spent_usd > 0
        tasks = await asyncio.to_thread(fetch_tasks, gateway.url, "")
        [advice] = [live_advice(task) for task in tasks if task["task"] == "triage"]
        assert (advice.verdict, advice.path) == ("train", "triage_adapter")
        assert {path.path for path in advice.paths} == {"triage_adapter", "triage_few_shot"}
