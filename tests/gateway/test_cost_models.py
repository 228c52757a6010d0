"""Costs of paths other than tokens: engines with an hourly price, training, and counterfactual costs."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import PICODOLLARS, Path, Receipt, Usage
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.metering.cost_metrics import CounterfactualCosts, PathTotals
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.api_clients import ApiClient, HttpClient
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.engine import ScriptedEngine, Step, beginning, chunk, usage
from tests.gateway.doubles.gateway import TRIAGE, VOICE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import READY
from tests.gateway.doubles.request_logs import ADAPTED, decision, ended, receipt
from tests.gateway.doubles.waiting import until

ENGINE = "pointsman_engine_cost_usd_total"
COUNTERFACTUAL = "pointsman_counterfactual_cost_usd_total"


@pytest.fixture
def neighbours(neighbours: Neighbours) -> Neighbours:
    models = neighbours.config.models
    models["engines"]["local"]["usd_per_hour"] = 3600.0  # a dollar a second
    models["training"] = {"usd_per_hour": 3.6, "expected_requests": 1000, "expected_days": 10}
    return neighbours


async def trained(neighbours: Neighbours, seconds: Mapping[str, float]) -> None:
    aliases = {"triage@prod": TRIAGE, "voice@prod": VOICE}
    await neighbours.lora_server.say(
        READY, url=neighbours.engine.url, resident=[TRIAGE, VOICE], aliases=aliases, training_seconds=seconds
    )


@pytest.fixture
async def gateway(neighbours: Neighbours) -> AsyncIterator[Gateway]:
    await trained(neighbours, {TRIAGE: 1000.0})
    async with neighbours.gateway() as gateway:
        yield gateway


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client(gateway) as client:
        yield client


def counting(*pieces: str, inference_ms: float) -> list[Step]:
    """Returns an answer of an engine that reports how many milliseconds it worked."""
    timings = {"queue_time_ms": 1.0, "time_to_first_token_ms": 0.0, "generation_time_ms": inference_ms}
    return [
        *beginning(*pieces),
        chunk("", finish="stop"),
        usage(20, len(pieces)) | {"metrics": timings},
        b"data: [DONE]\n\n",
    ]


# -- an engine by the hour


async def test_an_engines_cost_is_allocated_to_its_paths_and_to_idle_time(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    account = gateway.components.cost_metrics.engine_costs.allocator("local")
    engine.script = lambda body: counting("a", inference_ms=10.0 if body["messages"][0]["role"] == "system" else 5.0)
    api = HttpClient(http)
    await asyncio.gather(*(api.ask(IN_CHAT) for _ in range(4)), *(api.ask(IN_TRIAGE) for _ in range(4)))
    dollars = {path: gateway.metric(ENGINE, engine="local", path=path) for path in ("small_talk", "triage_adapter")}
    # Each alone would have cost that much; together they share the common time.
    assert 0 < dollars["small_talk"] <= 0.040 + 1e-6
    assert 0 < dollars["triage_adapter"] <= 0.020 + 1e-6
    total = sum(sample.value for sample in next(iter(gateway.components.cost_metrics.engine_costs.collect())).samples)
    assert total == pytest.approx(account.allocated_until - account.start, rel=1e-9)  # a dollar a second
    assert account.allocated_until <= time.monotonic()


async def test_an_aborted_request_counts_as_work_until_its_end(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("a"), asyncio.Event())
    asking = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": IN_CHAT}]}
    async with http.stream("POST", "/v1/chat/completions", json=asking):
        await until(lambda: engine.sent == 2)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
    await until(lambda: gateway.metric(ENGINE, engine="local", path="small_talk") > 0)


async def test_an_engine_that_has_no_price_has_no_series(neighbours: Neighbours) -> None:
    del neighbours.config.models["engines"]["local"]["usd_per_hour"]
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        await HttpClient(http).ask(IN_CHAT)
        assert gateway.metric(ENGINE) == 0


# -- training


async def test_an_adapters_answers_amortize_its_training(gateway: Gateway, api: ApiClient) -> None:
    got = await api.ask(IN_TRIAGE)
    assert got.cost_parts_usd["training"] == pytest.approx(1.0 / 1000)  # 1000 s at 3.6 an hour, over 1000 requests
    assert got.cost_usd == pytest.approx(sum(got.cost_parts_usd.values()))
    assert "training" not in (await api.ask(IN_CHAT)).cost_parts_usd
    assert "training" not in (await api.ask(IN_POLICY, "path:letter")).cost_parts_usd  # its training cost is unknown
    assert gateway.metric("pointsman_cost_usd_total", path="triage_adapter", component="training") == 0.001


async def test_fixed_costs_accrue_by_the_hour(gateway: Gateway) -> None:
    assert gateway.metric("pointsman_training_usd", adapter=TRIAGE) == pytest.approx(1.0)
    assert gateway.metric("pointsman_fixed_usd_per_hour", path="triage_adapter") == pytest.approx(1.0 / 240)
    # All paths share the engine, which would be paid for without any one of them.
    assert gateway.metric("pointsman_fixed_usd_per_hour", path="small_talk") == 0


async def test_a_dedicated_engine_is_a_fixed_cost_of_its_path(neighbours: Neighbours) -> None:
    config = neighbours.config
    config.models["models"]["large"] = config.models["models"]["tiny"]
    config.models["engines"]["own"] = {"model": "large", "url": neighbours.engine.url, "usd_per_hour": 2.5}
    config.paths["handbook"]["model"] = "large"
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        assert gateway.metric("pointsman_fixed_usd_per_hour", path="handbook") == 2.5
        as_of = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
        assert gateway.metric("pointsman_prices_as_of_timestamp_seconds") == as_of


# -- the road not taken


async def test_a_decision_has_the_expected_cost_of_each_path(api: ApiClient) -> None:
    await api.ask(IN_TRIAGE, "path:triage_adapter")
    await api.ask(IN_TRIAGE, "path:triage_few_shot")
    routed = await api.route(IN_TRIAGE)
    costs = routed["costs_usd"]
    assert set(costs) == {"triage_adapter", "triage_few_shot", "safe_start"}
    assert costs["triage_adapter"] == routed["expected_cost_usd"]
    assert costs["triage_few_shot"] == pytest.approx(28e-6)  # as it was


async def test_the_expected_cost_is_what_the_receipt_states(neighbours: Neighbours) -> None:
    """With the adapter's training, the search and the embedding of the query."""
    neighbours.config.models["retrieval"] = {"usd_per_search": 0.00005, "usd_per_embedding": 0.000002}
    await trained(neighbours, {TRIAGE: 1000.0})
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        api = HttpClient(http)
        for text, named in ((IN_TRIAGE, "auto"), (IN_POLICY, "auto"), (IN_POLICY, "path:handbook")):
            await api.ask(text, named)
            routed, answer = await api.route(text, named), await api.ask(text, named)
            assert routed["expected_cost_usd"] == pytest.approx(answer.cost_usd, rel=1e-9), (text, named)
            assert routed["costs_usd"][routed["path"]] == routed["expected_cost_usd"]
        fallback = (await api.route(IN_TRIAGE, "path:safe_start"))["costs_usd"]
        assert fallback["safe_start"] < 0.001 < (await api.route(IN_TRIAGE))["costs_usd"]["triage_adapter"]


def sent(answered: int, tokens: int, paid: int, lost: int = 0) -> PathTotals:
    return PathTotals(answered, tokens, paid, lost)


class Linear:
    """Implements the expected cost of each path as a linear function of requests and tokens."""

    def __init__(self, **costs: tuple[float, float]) -> None:
        self.costs = costs

    def picodollars(self, path: Path, requests: int, tokens: int) -> float | None:
        if path.name not in self.costs:
            return None
        by_request, by_token = self.costs[path.name]
        return requests * by_request + tokens * by_token

    def is_priced(self, path: Path) -> bool:
        return True


PLAIN, TUNED = Path("plain", "m"), Path("tuned", "m")


def picodollars(counterfactual: CounterfactualCosts) -> dict[tuple[str, str], float]:
    (family,) = counterfactual.collect()
    return {(s.labels["task"], s.labels["path"]): s.value * PICODOLLARS for s in family.samples}


def test_counterfactual_costs_use_actual_costs_for_the_paths_own_requests() -> None:
    rows = [("chat", "plain", sent(3, 300, 3000, 50)), ("chat", "tuned", sent(2, 100, 700))]
    counterfactual = CounterfactualCosts(lambda: rows)
    counterfactual.apply_config(Linear(plain=(10, 5), tuned=(100, 1)), {"chat": [PLAIN, TUNED]})
    expected = {
        ("chat", "plain"): 3000 + 50 + 2 * 10 + 100 * 5,
        ("chat", "tuned"): 700 + 3 * 100 + 300 * 1 + 50,
    }
    assert picodollars(counterfactual) == pytest.approx(expected)
    assert picodollars(counterfactual) == pytest.approx(expected)  # reading again adds nothing
    rows[0] = ("chat", "plain", sent(4, 310, 3060, 50))
    assert picodollars(counterfactual) == pytest.approx(
        {("chat", "plain"): expected["chat", "plain"] + 60, ("chat", "tuned"): expected["chat", "tuned"] + 110}
    )


def test_if_all_requests_use_one_path_its_counterfactual_saves_nothing() -> None:
    rows = [("chat", "plain", sent(5, 100, 900, 40))]
    counterfactual = CounterfactualCosts(lambda: rows)
    counterfactual.apply_config(Linear(), {"chat": [PLAIN]})
    assert picodollars(counterfactual) == pytest.approx({("chat", "plain"): 940})


def test_a_path_keeps_its_counters_when_its_kind_changes() -> None:
    counting = MetricsAggregator(CollectorRegistry())
    counting.set_label_values((["plain"], ["chat"]), ({}, set(), []))
    counterfactual = CounterfactualCosts(counting.metrics.path_totals)
    counterfactual.apply_config(Linear(), {"chat": [PLAIN]})
    counting.add(ended(receipt(decision(path=PLAIN), cost_usd=3e-6)))
    assert picodollars(counterfactual)["chat", "plain"] == pytest.approx(3_000_000)
    looks_up = replace(PLAIN, strategies=("retrieval",), fingerprint="f2")
    for _ in range(2):
        counting.add(ended(receipt(decision(path=looks_up), cost_usd=1e-6)))
    assert picodollars(counterfactual)["chat", "plain"] == pytest.approx(5_000_000)


def test_a_path_without_statistics_is_counted_once_it_has_some() -> None:
    rows = [("chat", "plain", sent(3, 300, 3000))]
    counterfactual, costs = CounterfactualCosts(lambda: rows), Linear(plain=(1, 1))
    counterfactual.apply_config(costs, {"chat": [PLAIN, TUNED]})
    assert picodollars(counterfactual) == pytest.approx({("chat", "plain"): 3000})
    costs.costs["tuned"] = (1, 0)
    assert picodollars(counterfactual)["chat", "tuned"] == pytest.approx(3)


def test_the_training_of_adapters_is_in_no_counterfactual() -> None:
    counting = MetricsAggregator(CollectorRegistry())
    counting.set_label_values(([ADAPTED.name], ["chat"]), ({}, set(), []))
    cost = {"prompt": 5, "training": 100}
    counting.add(ended(Receipt(decision(path=ADAPTED), Usage(1, 1), cost, {"total": 1.0}, "ok")))
    counting.add(ended(Receipt(decision(path=ADAPTED), Usage(1, 0), cost, {"total": 1.0}, "cancelled")))
    assert list(counting.metrics.path_totals()) == [("chat", ADAPTED.name, PathTotals(1, 10, 5, 5))]


async def test_counterfactual_costs_use_the_tasks_own_paths(gateway: Gateway, http: httpx.AsyncClient) -> None:
    api = HttpClient(http)
    await api.ask(IN_TRIAGE, "path:triage_few_shot")  # without a task, but part of the path's statistics
    await api.ask(IN_TRIAGE)
    labels: dict[str, Any] = {"task": "triage"}
    assert gateway.metric(COUNTERFACTUAL, **labels, path="triage_adapter") == pytest.approx(28e-6)
    assert gateway.metric(COUNTERFACTUAL, **labels, path="triage_few_shot") == pytest.approx(28e-6)
    assert gateway.metric(COUNTERFACTUAL, **labels, path="safe_start") == 0  # it has no answers yet
    assert gateway.metric(COUNTERFACTUAL, path="handbook") == 0


# -- the price list


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("prices_as_of"), "'prices_as_of' is missing"),
        (lambda m: m.update(prices_as_of="soon"), "'prices_as_of': Input should be a valid date"),
        (lambda m: m["retrieval"].pop("usd_per_embedding"), "'retrieval.usd_per_embedding' is missing"),
        (lambda m: m["training"].pop("expected_days"), "'training.expected_days' is missing"),
        (
            lambda m: m["training"].update(expected_requests=0),
            "'training.expected_requests': Input should be greater than or equal to 1",
        ),
        (
            lambda m: m["engines"]["local"].update(usd_per_hour=0),
            "'engines.local.usd_per_hour': Input should be greater than 0",
        ),
    ],
)
def test_a_missing_price_is_rejected_by_name(neighbours: Neighbours, change: Any, message: str) -> None:
    change(neighbours.config.models)
    with pytest.raises(ConfigError, match=message):
        load_config(neighbours.config.write())


def test_reserved_label_values_are_rejected_as_path_names(neighbours: Neighbours) -> None:
    neighbours.config.paths["idle"] = neighbours.config.paths["small_talk"]
    with pytest.raises(ConfigError, match="no path may be called 'idle': metrics mean an engine's time"):
        load_config(neighbours.config.write())
