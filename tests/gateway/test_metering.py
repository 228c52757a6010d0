"""Every request ends with a receipt, and the metrics are the sum of the receipts."""

import asyncio
import itertools
from datetime import date
from typing import Any

import httpx
import pytest
from pointsman_gateway.config.models_file import ModelConfig, ModelsFile, RetrievalPrices, TrainingConfig
from pointsman_gateway.config.token_prices import Prices
from pointsman_gateway.domain import Message, Path, Request, Sampling, Usage
from pointsman_gateway.domain.outcome import fault_of
from pointsman_gateway.metering.expected_cost import CostEstimator
from pointsman_gateway.metering.pricing import Pricing
from pointsman_gateway.metering.token_estimates import TYPICAL_ANSWER_TOKENS
from pointsman_gateway.routing.path_facts import EMPTY_REQUEST
from pointsman_servicekit.errors import (
    DeadlineExceeded,
    InvalidArgument,
    PointsmanError,
    ResourceExhausted,
    Unavailable,
)
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.api_clients import ApiClient, GrpcStreamClient, HttpClient, HttpStreamClient
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.engine import ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import TRIAGE, Gateway
from tests.gateway.doubles.waiting import until

PRICING = Pricing(
    ModelsFile(
        prices_as_of=date(2026, 11, 1),
        models={
            "tiny": ModelConfig(context_window=1, usd_per_million_tokens=Prices(prompt=1, cached=0.25, completion=4))
        },
        engines={},
        retrieval=RetrievalPrices(usd_per_search=0.00005, usd_per_embedding=0.000002),
        training=TrainingConfig(usd_per_hour=7.2, expected_requests=1000, expected_days=10),
    ),
    training_seconds=lambda model, version: 500.0 if version == "triage@1" else 0.0,
)


def test_each_component_has_its_price_in_whole_picodollars() -> None:
    assert PRICING.parts("tiny", Usage(100, 10, 60)) == {
        "prompt": 40_000_000, "cached": 15_000_000, "completion": 40_000_000
    }  # fmt: skip
    assert (PRICING.searches(2), PRICING.embeddings(1)) == (100_000_000, 2_000_000)


def test_an_adapters_training_cost_is_spread_over_its_answers() -> None:
    assert PRICING.training_usd("tiny", "triage@1") == pytest.approx(1.0)
    assert PRICING.training("tiny", "triage@1") == 10**9  # a thousandth of a dollar
    assert PRICING.training_usd_per_hour("tiny", "triage@1") == pytest.approx(1 / 240)
    assert PRICING.training("tiny", "voice@2") == 0  # its duration is unknown


def test_the_expected_cost_is_estimated_first_and_measured_later() -> None:
    expected, path = CostEstimator(PRICING), Path("p", "tiny", sampling=Sampling(max_tokens=10))
    request = Request("auto", (Message("user", "x" * 400),))
    assert expected.usd(path, request) == pytest.approx(100e-6 + 40e-6)
    for _ in range(200):
        expected.statistics.add(path, 100, Usage(150, 5), 1_000_000)
    assert expected.usd(path, request) == pytest.approx(150e-6 + 20e-6 + 1e-6)
    expected.statistics.add(path, 100, Usage(150, 25), 1_000_000)
    assert expected.usd(path, request) == pytest.approx(150e-6 + 24e-6 + 1e-6)  # a twentieth of the step


def test_a_paths_own_prompt_tokens_do_not_depend_on_the_requests_length() -> None:
    expected, path = CostEstimator(PRICING), Path("p", "tiny")
    expected.statistics.add(path, 100, Usage(150, 5, 75), 0)  # half of its prompt is in the prefix cache
    longer = Request("auto", (Message("user", "x" * 4000),))
    assert expected.usd(path, longer) == pytest.approx(1050e-6 * (1 + 0.25) / 2 + 20e-6)
    assert expected.picodollars(path, 3, 3000) == pytest.approx(3 * (expected.usd(path, longer) or 0) * 10**12)
    assert expected.picodollars(Path("another", "tiny"), 1, 1) is None


def test_the_expected_cost_has_the_components_of_the_receipt() -> None:
    expected = CostEstimator(PRICING, version_of=lambda path: "triage@1")
    adapter, lookup = Path("a", "tiny", adapter="triage@prod"), Path("l", "tiny", collections=("handbook", "faq"))
    request = Request("auto", (Message("user", "x" * 400),), Sampling(max_tokens=10))
    tokens, training, embedding, search = 140e-6, 1e-3, 2e-6, 50e-6
    assert expected.usd(adapter, request) == pytest.approx(tokens + training)
    assert expected.usd(adapter, request, is_embedded=True) == pytest.approx(tokens + training + embedding)
    # Without the classifier's vector, each search embeds the query.
    assert expected.usd(lookup, request) == pytest.approx(tokens + 2 * search + 2 * embedding)
    assert expected.usd(lookup, request, is_embedded=True) == pytest.approx(tokens + 2 * search + embedding)
    for is_embedded, path in ((False, adapter), (True, adapter), (False, lookup), (True, lookup)):
        most = expected.most_usd(path, request, is_embedded=is_embedded)
        assert most == pytest.approx(expected.usd(path, request, is_embedded=is_embedded))


def test_embeddings_are_expected_as_often_as_the_path_makes_them() -> None:
    expected, path = CostEstimator(PRICING), Path("p", "tiny", sampling=Sampling(max_tokens=10))
    request = Request("auto", (Message("user", "x" * 400),))
    expected.statistics.add(path, 100, Usage(100, 10), 0, embeddings=None)  # embedded to classify it
    assert expected.usd(path, request) == pytest.approx(140e-6)
    assert expected.usd(path, request, is_embedded=True) == pytest.approx(142e-6)
    assert expected.picodollars(path, 1, 100) == pytest.approx(142_000_000)
    for _ in range(200):
        expected.statistics.add(path, 100, Usage(100, 10), 0, embeddings=1)  # by its examples
    assert expected.usd(path, request) == pytest.approx(142e-6)
    assert expected.usd(path, request, is_embedded=True) == pytest.approx(142e-6)


def test_a_preview_without_a_request_is_priced_as_a_typical_request() -> None:
    expected, path, other = CostEstimator(PRICING), Path("p", "tiny"), Path("o", "tiny")
    expected.statistics.add(path, 100, Usage(150, 5), 0)
    assert expected.usd(path, EMPTY_REQUEST) == pytest.approx(150e-6 + 20e-6)
    assert expected.usd(other, EMPTY_REQUEST) == pytest.approx(100e-6 + 4e-6 * TYPICAL_ANSWER_TOKENS)


def fields_of(step: object) -> dict[str, Any]:
    assert isinstance(step, dict)
    return step


async def test_plain_stream_and_grpc_agree_to_the_token_and_the_cent(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*answer("a", "b", "c", prompt_tokens=101, cached_tokens=64))
    async with open_channel(gateway.grpc_address) as channel:
        apis: list[ApiClient] = [HttpClient(http), HttpStreamClient(http), GrpcStreamClient(channel)]
        plain, streamed, grpc = [await api.ask(IN_POLICY) for api in apis]
    assert plain == streamed == grpc
    assert plain.cost_usd == pytest.approx(sum(plain.cost_parts_usd.values()), abs=1e-15)
    assert gateway.metric("pointsman_cost_usd_total", path="handbook") == pytest.approx(3 * plain.cost_usd)
    assert gateway.metric("pointsman_tokens_total", path="handbook") == 3 * (101 + 3)
    assert gateway.metric("pointsman_tokens_total", path="handbook", type="cached") == 3 * 64


async def test_each_path_is_counted_under_its_own_labels(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    for text in (IN_TRIAGE, IN_POLICY, IN_CHAT):
        await HttpClient(http).ask(text)
    for path, kind, task in [
        ("triage_adapter", "lora", "triage"), ("handbook", "rag", "policy"), ("small_talk", "prompt", "chat"),
    ]:  # fmt: skip
        labels = {"path": path, "kind": kind, "task": task}
        assert gateway.metric("pointsman_requests_total", **labels, outcome="ok") == 1
        assert gateway.metric("pointsman_request_duration_seconds_count", **labels) == 1
        assert gateway.metric("pointsman_time_to_first_token_seconds_count", **labels) == 1
        assert gateway.metric("pointsman_decisions_total", path=path, task=task, reason="policy") == 1
    assert gateway.metric("pointsman_phase_duration_seconds_count", path="handbook", phase="retrieval") == 1
    assert gateway.metric("pointsman_phase_duration_seconds_count", path="small_talk", phase="retrieval") == 0
    assert gateway.metric("pointsman_classification_confidence_count") == 3


async def test_the_phases_lie_within_the_total(http: httpx.AsyncClient, gateway: Gateway) -> None:
    body = (await http.post("/v1/chat/completions", json=asking(IN_POLICY))).json()
    seconds = body["pointsman"]["seconds"]
    phases = ("admission", "classification", "retrieval", "prompt", "prefill", "generation")
    assert set(seconds) == {*phases, "first_token", "total"}
    assert all(seconds[phase] >= 0 for phase in phases)
    assert sum(seconds[phase] for phase in phases) <= seconds["total"] + 1e-5  # they are rounded
    assert 0 < seconds["classification"] < seconds["first_token"] <= seconds["total"]
    assert seconds["first_token"] + seconds["generation"] == pytest.approx(seconds["total"], abs=1e-4)


async def test_a_reported_queue_time_is_a_separate_phase(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    *pieces, last, done = answer("a", "b")
    fields = {"queue_time_ms": 0.001, "time_to_first_token_ms": 0.002, "generation_time_ms": 0.004, "mean_itl_ms": None}
    engine.says(*pieces, {**fields_of(last), "metrics": fields}, done)  # as vLLM does with --enable-per-request-metrics
    seconds = (await http.post("/v1/chat/completions", json=asking(IN_CHAT))).json()["pointsman"]["seconds"]
    assert seconds["queue"] == pytest.approx(1e-6)
    assert seconds["prefill"] > 0
    assert gateway.metric("pointsman_phase_duration_seconds_count", path="small_talk", phase="queue") == 1


async def test_an_answers_tokens_after_the_first_are_timed(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    name = "pointsman_time_per_output_token_seconds"
    engine.says(*answer("a"))  # it has none
    await http.post("/v1/chat/completions", json=asking(IN_CHAT))
    assert gateway.metric(f"{name}_count") == 0
    engine.says(*answer("a", "b", "c"))
    seconds = (await http.post("/v1/chat/completions", json=asking(IN_CHAT))).json()["pointsman"]["seconds"]
    assert gateway.metric(f"{name}_count", path="small_talk") == 1
    assert gateway.metric(f"{name}_sum", path="small_talk") == pytest.approx(seconds["generation"] / 2, abs=1e-6)


@pytest.mark.parametrize("metrics", ["soon", None, {}, {"queue_time_ms": "long"}, {"queue_time_ms": None}])
async def test_unknown_fields_of_an_engines_report_are_ignored(
    http: httpx.AsyncClient, engine: ScriptedEngine, metrics: object
) -> None:
    *pieces, last, done = answer("a", "b")
    engine.says(*pieces, {**fields_of(last), "metrics": metrics}, done)
    body = (await http.post("/v1/chat/completions", json=asking(IN_CHAT))).json()
    assert body["choices"][0]["message"]["content"] == "ab"
    assert "queue" not in body["pointsman"]["seconds"]


async def test_unknown_names_create_no_series(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    api = HttpClient(http)
    await api.ask(IN_CHAT, "triage@prod")
    before = series(gateway)
    for number in range(20):
        with pytest.raises(PointsmanError, match="unknown model"):
            await api.ask("x", f"junk-{number}")
    await api.ask(IN_CHAT, TRIAGE)
    await api.ask(IN_CHAT, "tiny", user="someone", metadata={"junk": "junk"})
    new = {labels for labels in series(gateway) - before if "tiny" not in labels}
    assert new == {("pointsman_rejected_total", "unknown_model", "caller")}
    assert gateway.metric("pointsman_rejected_total", code="unknown_model") == 20
    assert gateway.metric("pointsman_requests_total", path="other", kind="lora") == 2


def series(gateway: Gateway) -> set[tuple[str, ...]]:
    return {
        (sample.name, *sample.labels.values())
        for family in gateway.components.registry.collect()
        for sample in family.samples
        if sample.name.startswith("pointsman_")
    }


async def test_an_interrupted_answer_is_metered_by_its_received_chunks(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("one", "two", "three"), asyncio.Event())
    async with http.stream("POST", "/v1/chat/completions", json=asking(IN_CHAT) | {"stream": True}) as response:
        lines = response.aiter_lines()
        pieces = itertools.count()
        async for line in lines:
            if line.startswith("data: ") and next(pieces) == 2:
                break
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled", path="small_talk") == 1)
    assert gateway.metric("pointsman_tokens_total", path="small_talk", type="completion") == 3
    assert gateway.metric("pointsman_cost_usd_total", path="small_talk", component="completion") == pytest.approx(12e-6)
    # The prompt had been processed by then, and the engine can no longer report its length.
    sent = sum(len(message["content"]) for message in engine.bodies[0]["messages"])
    assert gateway.metric("pointsman_tokens_total", path="small_talk", type="prompt") == sent // 4 > 0
    await until(lambda: engine.running == 0)


async def test_an_engine_that_did_not_start_costs_nothing(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.refuses(400, {"error": {"message": "no"}})
    assert (await http.post("/v1/chat/completions", json=asking(IN_CHAT))).status_code == 400
    assert gateway.metric("pointsman_requests_total", outcome="engine_refused") == 1
    assert gateway.metric("pointsman_tokens_total") == 0
    assert gateway.metric("pointsman_cost_usd_total") == 0


async def test_a_failed_request_does_not_change_the_expected_cost(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    api = HttpClient(http)
    before = (await api.route(IN_CHAT))["expected_cost_usd"]
    engine.refuses(500, "x")
    with pytest.raises(PointsmanError):
        await api.ask(IN_CHAT, "path:small_talk")
    assert (await api.route(IN_CHAT))["expected_cost_usd"] == before
    engine.says(*answer("a", prompt_tokens=5))
    await api.ask(IN_CHAT)
    assert (await api.route(IN_CHAT))["expected_cost_usd"] == pytest.approx(9e-6)


def asking(text: str) -> dict[str, object]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    ("outcome", "error", "fault"),
    [
        ("ok", None, "none"),
        ("cancelled", None, "caller"),
        ("internal", None, "gateway"),
        ("bad_json", InvalidArgument("x", code="bad_json"), "caller"),
        ("requests_per_minute", ResourceExhausted("x", code="requests_per_minute"), "limits"),
        ("stream_idle_timeout", Unavailable("x", code="stream_idle_timeout"), "engine"),
        ("adapter_not_resident", Unavailable("x", code="adapter_not_resident"), "adapter"),
        ("redis_unavailable", Unavailable("x", code="redis_unavailable"), "state"),
        ("overloaded", Unavailable("x", code="overloaded"), "gateway"),
        ("deadline_exceeded", DeadlineExceeded("x", code="deadline_exceeded"), "gateway"),
    ],
)
def test_each_outcome_has_a_fault(outcome: str, error: PointsmanError | None, fault: str) -> None:
    assert fault_of(outcome, error) == fault
