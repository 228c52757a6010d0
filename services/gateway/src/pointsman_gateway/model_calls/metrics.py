"""The Prometheus metrics of calls of embedding or reranking models, and of their costs."""

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pointsman_gateway.domain import PICODOLLARS, Operation, UndecidedReceipt

# In seconds: one text takes two milliseconds, 2048 of them take four seconds.
SECONDS = (.0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120)  # fmt: skip


class GenAi(Protocol):
    """Interface to the metrics of OpenTelemetry's conventions for generative AI; `metering/gen_ai.py` implements it."""

    def observe_model_call(self, operation: Operation, model: str, outcome: str, seconds: float) -> None: ...

    def observe_model_tokens(self, operation: Operation, model: str, tokens: int) -> None: ...


class CallMetrics:
    """Records the metrics of embeddings, or of reranking. The label `model` is the model's name in the
    configuration.
    """

    def __init__(self, registry: CollectorRegistry, gen_ai: GenAi, operation: Operation, prefix: str) -> None:
        """`prefix` is the beginning of the metrics' names, such as "pointsman_embedding"."""
        self._gen_ai = gen_ai
        self._operation = operation
        labels = ["model"]
        self._requests = Counter(
            f"{prefix}_requests",
            f"Requests for {operation} by outcome and fault.",
            ["model", "outcome", "fault"],
            registry=registry,
        )
        self._seconds = Histogram(f"{prefix}_seconds", "Arrival to end.", labels, buckets=SECONDS, registry=registry)
        self._tokens = Counter(f"{prefix}_tokens", f"Tokens read for {operation}.", labels, registry=registry)
        self._capped = Counter(
            f"{prefix}_usage_capped",
            "Answers for which an engine reported a number of tokens that is not possible.",
            labels,
            registry=registry,
        )
        self._cost = _CostCounter(f"{prefix}_cost_usd")
        registry.register(self._cost)

    def ended(self, receipt: UndecidedReceipt) -> None:
        self._requests.labels(receipt.model, receipt.outcome, receipt.fault).inc()
        self._seconds.labels(receipt.model).observe(receipt.seconds["total"])
        self._tokens.labels(receipt.model).inc(receipt.usage.prompt_tokens)
        self._gen_ai.observe_model_call(self._operation, receipt.model, receipt.outcome, receipt.seconds["total"])
        if receipt.usage.prompt_tokens:
            self._gen_ai.observe_model_tokens(self._operation, receipt.model, receipt.usage.prompt_tokens)
        if receipt.notes:
            self._capped.labels(receipt.model).inc()
        self._cost.add(receipt.model, sum(receipt.picodollars.values()))


class _CostCounter(Collector):
    """A counter that is exported in dollars and adds whole picodollars, so that it equals the sum of the receipts."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._picodollars: dict[str, int] = {}

    def add(self, model: str, picodollars: int) -> None:
        self._picodollars[model] = self._picodollars.get(model, 0) + picodollars

    def collect(self) -> list[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, "Dollars.", labels=["model"])
        for model, picodollars in self._picodollars.items():
            family.add_metric([model], picodollars / PICODOLLARS)
        return [family]
