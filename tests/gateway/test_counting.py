"""Receipts are aggregated in batches, and every scrape of the metrics includes all of them."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from pointsman_gateway.domain import PICODOLLARS, Receipt, Usage
from pointsman_gateway.metering.aggregate import (
    FLUSHES_KEPT,
    MAX_BATCHES,
    MAX_PENDING_RECEIPTS,
    MAX_PENDING_ROWS,
    MetricsAggregator,
)
from pointsman_servicekit.logs import TraceIds, current_trace
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.gateway.doubles.request_logs import PLAIN, decision, ended

LABELS = ([PLAIN.name], ["chat"])
NAMES = ({"tiny": "vllm"}, set[str](), [PLAIN.name])
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def counting(registry: CollectorRegistry) -> MetricsAggregator:
    counting = MetricsAggregator(registry)
    counting.set_label_values(LABELS, NAMES)
    return counting


def receipt(outcome: str = "ok", tokens: int = 5, task: str = "chat", **fields: object) -> Receipt:
    """Returns a receipt whose numbers are derived from `tokens`."""
    seconds = {"prefill": 0.001 * tokens, "classification": 0.0001, "total": 0.01 * tokens}
    seconds |= {"first_token": 0.002 * tokens, "generation": 0.008 * tokens} if outcome == "ok" else {}
    parts = {"prompt": 7 * tokens, "completion": 11 * tokens}
    given = {"model": "tiny"} | fields
    return Receipt(decision(path=PLAIN, task=task), Usage(3 * tokens, tokens, tokens), parts, seconds, outcome, **given)  # type: ignore[arg-type]


def summed(registry: CollectorRegistry, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_every_scrape_includes_all_ended_requests_exactly(
    counting: MetricsAggregator, registry: CollectorRegistry
) -> None:
    drawn = random.Random(7)
    spent, tokens, ends = 0, 0, Counter[str]()
    for number in range(1, 1001):
        one = receipt(drawn.choice(["ok", "cancelled", "stream_idle_timeout"]), drawn.randint(1, 900))
        counting.add(ended(one))
        spent += sum(one.picodollars.values())
        tokens += one.usage.prompt_tokens + one.usage.completion_tokens
        ends[one.outcome] += 1
        if number % 97 == 0:
            assert summed(registry, "pointsman_requests_total") == number
    assert {end: summed(registry, "pointsman_requests_total", outcome=end) for end in ends} == ends
    assert round(summed(registry, "pointsman_cost_usd_total") * PICODOLLARS) == spent
    assert summed(registry, "pointsman_tokens_total") == tokens
    assert summed(registry, "pointsman_request_duration_seconds_count") == 1000
    assert summed(registry, "gen_ai_server_time_to_first_token_seconds_count") == ends["ok"]


def test_pending_receipts_are_bounded_without_scrapes(counting: MetricsAggregator) -> None:
    for _ in range(MAX_PENDING_ROWS - 1):
        counting.add(ended(receipt()))
    assert counting.pending == (MAX_PENDING_RECEIPTS - 1, MAX_PENDING_ROWS - MAX_PENDING_RECEIPTS)
    counting.add(ended(receipt()))
    assert counting.pending == (0, 0)


def test_batches_of_adapter_versions_that_are_gone_are_dropped(
    counting: MetricsAggregator, registry: CollectorRegistry
) -> None:
    for version in range(20):
        for _ in range(FLUSHES_KEPT // 4):
            counting.add(ended(receipt(model=f"version-{version}")))
            counting.add(ended(receipt()))
            counting.flush()
    assert len(counting._batches) + len(counting._unused_batches) <= 12  # the last 8 versions, and those of "tiny"
    assert summed(registry, "pointsman_requests_total") == 20 * 2 * (FLUSHES_KEPT // 4)


def test_a_cached_answer_counts_no_generated_tokens(counting: MetricsAggregator, registry: CollectorRegistry) -> None:
    counting.add(ended(receipt(tokens=10, cached="exact")))
    assert summed(registry, "pointsman_tokens_total", type="replayed") == 40
    assert summed(registry, "pointsman_tokens_total") == 40
    assert summed(registry, "pointsman_time_per_output_token_seconds_count") == 0
    assert summed(registry, "gen_ai_server_time_per_output_token_seconds_count") == 1


def test_only_tokens_reported_by_an_engine_are_counted_as_its_tokens(
    counting: MetricsAggregator, registry: CollectorRegistry
) -> None:
    counting.add(ended(receipt(tokens=10)))
    assert summed(registry, "gen_ai_client_token_usage_count") == 0
    counting.add((*ended(receipt(tokens=10))[:-1], True))
    assert summed(registry, "gen_ai_client_token_usage_sum", gen_ai_token_type="input") == 30
    assert summed(registry, "gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 10


def test_a_decision_is_counted_for_the_first_path_even_after_a_fallback(
    counting: MetricsAggregator, registry: CollectorRegistry
) -> None:
    first, now = decision(path=PLAIN), decision(path=replace(PLAIN, name="unknown"), reason="fallback")
    counting.add((replace(receipt(), decision=now), first, "chat", "auto", 10, False))
    assert summed(registry, "pointsman_decisions_total", path=PLAIN.name, reason="policy") == 1
    assert summed(registry, "pointsman_decisions_total") == 1
    assert summed(registry, "pointsman_requests_total", path="other") == 1


def test_pending_receipts_keep_their_labels_when_labels_change(
    counting: MetricsAggregator, registry: CollectorRegistry
) -> None:
    counting.add(ended(receipt()))
    counting.set_label_values(([], ["chat"]), NAMES)
    counting.add(ended(receipt()))
    assert summed(registry, "pointsman_requests_total", path=PLAIN.name) == 1
    assert summed(registry, "pointsman_requests_total", path="other") == 1


def test_names_beyond_the_cache_size_are_counted_too(counting: MetricsAggregator, registry: CollectorRegistry) -> None:
    many = MAX_BATCHES + 100
    for number in range(many):
        counting.add(ended(receipt(task=f"junk-{number}"), f"junk-{number}"))
    assert summed(registry, "pointsman_requests_total", task="other") == many


def test_a_recorded_trace_becomes_an_exemplar(counting: MetricsAggregator, registry: CollectorRegistry) -> None:
    token = current_trace.set(TraceIds(TRACE, "b7ad6b7169203331", sampled=True))
    counting.add(ended(receipt(tokens=8)))
    current_trace.reset(token)
    counting.add(ended(receipt(tokens=8)))
    named = {
        sample.name: sample.exemplar.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if sample.exemplar and sample.exemplar.labels == {"trace_id": TRACE}
    }
    assert named["pointsman_request_duration_seconds_bucket"] == pytest.approx(0.08)
    assert named["gen_ai_server_time_to_first_token_seconds_bucket"] == pytest.approx(0.016)
