"""The metrics of several processes are merged into one page."""

import json
from collections.abc import Mapping

import pytest
from pointsman_servicekit.merged_metrics import Combine, Dump, MergedMetrics, dump_metrics
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics import exposition
from prometheus_client.parser import text_string_to_metric_families

GAUGES: Mapping[str, Combine] = {"in_flight": sum, "redis_up": min}


class Service:
    """One process of a service, with its metrics in a registry."""

    def __init__(self, answers: int = 0, in_flight: int = 0, redis_up: int = 1, model: str = "tiny") -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter("answers", "-", ["model"], registry=self.registry)
        self.seconds = Histogram("seconds", "-", ["model"], registry=self.registry, buckets=(0.1, 1))
        self.model = model
        Gauge("in_flight", "-", registry=self.registry).set(in_flight)
        Gauge("redis_up", "-", registry=self.registry).set(redis_up)
        Gauge("breaker_open", "-", registry=self.registry).set(redis_up)
        for _ in range(answers):
            self.answer()

    def answer(self, seconds: float = 0.05, trace: str = "") -> None:
        self.answers.labels(self.model).inc()
        self.seconds.labels(self.model).observe(seconds, {"trace_id": trace} if trace else None)

    def dump(self) -> Dump:
        dumped: Dump = json.loads(json.dumps(dump_metrics(self.registry)))  # as it arrives from another process
        return dumped


def values(merged: MergedMetrics, *services: Service) -> dict[tuple[str, str], float]:
    """Returns the values by a sample's name and its label `model` or `le`."""
    page = generate_latest(merged.page([service.dump() for service in services])).decode()
    return {
        (sample.name, sample.labels.get("le") or sample.labels.get("model", "")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_counters_and_histograms_are_added_up_by_their_labels() -> None:
    one, other = Service(answers=2), Service(answers=3)
    other.answer(seconds=5)
    different = Service(answers=1, model="large")
    page = values(MergedMetrics(GAUGES), one, other, different)
    assert page["answers_total", "tiny"] == 6
    assert page["answers_total", "large"] == 1
    assert page["seconds_count", "tiny"] == 6
    assert page["seconds_sum", "tiny"] == pytest.approx(5.25)


def test_each_bucket_of_a_histogram_is_a_sum() -> None:
    one, other = Service(answers=2), Service()
    other.answer(seconds=0.5)
    page = values(MergedMetrics(GAUGES), one, other)
    assert [page["seconds_bucket", bound] for bound in ("0.1", "1.0", "+Inf")] == [2, 3, 3]


def test_gauges_are_combined_as_their_meaning_requires() -> None:
    page = values(MergedMetrics(GAUGES), Service(in_flight=2, redis_up=1), Service(in_flight=3, redis_up=0))
    assert page["in_flight", ""] == 5
    assert page["redis_up", ""] == 0
    assert page["breaker_open", ""] == 1  # the largest by default


def test_the_sum_does_not_fall_when_a_process_ends() -> None:
    merged, one, other = MergedMetrics(GAUGES), Service(answers=2, in_flight=4), Service(answers=3, in_flight=1)
    merged.retire(one.dump())
    assert values(merged, other)["answers_total", "tiny"] == 5
    merged.retire(other.dump())
    page = values(merged, Service(answers=10))
    assert page["answers_total", "tiny"] == page["seconds_bucket", "0.1"] == 15
    assert page["in_flight", ""] == 0  # what they had in progress has ended with them


def test_exemplars_survive_and_the_latest_is_kept() -> None:
    one, other, merged = Service(), Service(), MergedMetrics(GAUGES)
    one.answer(trace="earlier")
    other.answer(trace="later")
    merged.retire(other.dump())
    page = exposition.generate_latest(merged.page([one.dump()])).decode()
    assert 'trace_id="later"' in page
    assert 'trace_id="earlier"' not in page
