"""The fast counters and histograms export the same values as the Prometheus client's own."""

import random

import pytest
from pointsman_gateway.fast_metrics import FastCollector, Histogram, counter, histogram
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.parser import text_string_to_metric_families

EDGES = (0.005, 0.01, 0.1, 1, 2.5)


def test_fast_metrics_export_the_same_as_the_prometheus_client() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    asked = counter("asked", "Requests.", ["path"])
    took = histogram("took_seconds", "Time.", ["path"], EDGES)
    ours.register(FastCollector([asked], [took]))
    their_asked = Counter("asked", "Requests.", ["path"], registry=theirs)
    their_took = TheirHistogram("took_seconds", "Time.", ["path"], buckets=EDGES, registry=theirs)
    values = [*EDGES, 0.0, 3.0, *(random.Random(7).uniform(0, 3) for _ in range(200))]
    for number, value in enumerate(values):
        path = f"p{number % 3}"
        asked.series(path).value += 1
        took.series(path).observe(value)
        their_asked.labels(path).inc()
        their_took.labels(path).observe(value)
    assert _said(ours) == _said(theirs)


def test_batches_are_counted_like_single_values() -> None:
    drawn = random.Random(7)
    for number in (0, 1, 20, 40, 500):
        values = [*EDGES, *(drawn.uniform(0, 3) for _ in range(number))]
        one_by_one, at_once = Histogram(EDGES), Histogram(EDGES)
        for value in values:
            one_by_one.observe(value)
        at_once.add(values)
        assert at_once.counts == one_by_one.counts
        assert at_once.sum == pytest.approx(one_by_one.sum)


def test_a_series_is_created_on_first_use() -> None:
    registry = CollectorRegistry()
    asked = counter("asked", "Requests.", ["path"])
    registry.register(FastCollector([asked], []))
    assert b"asked_total{" not in generate_latest(registry)
    assert asked.series("p") is asked.series("p")
    assert b'asked_total{path="p"} 0.0' in generate_latest(registry)


def _said(registry: CollectorRegistry) -> dict[str, object]:
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        f"{sample.name}{sorted(sample.labels.items())}": round(sample.value, 9)
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
