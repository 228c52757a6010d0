"""The metrics of `/v1/embeddings`; the one label that varies is the model's name in the configuration."""

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram

# In seconds: a text takes two milliseconds, 2048 of them take four seconds.
SECONDS = (.0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120)  # fmt: skip


class GenAi(Protocol):
    """The same, as OpenTelemetry names it."""

    def embedded(self, model: str, outcome: str, seconds: float) -> None: ...

    def embedded_tokens(self, model: str, tokens: int) -> None: ...


class EmbeddingMetrics:
    """Made once; generations of the configuration share it."""

    def __init__(self, registry: CollectorRegistry, gen_ai: GenAi) -> None:
        self._gen_ai = gen_ai
        self._requests = Counter(
            "pointsman_embedding_requests",
            "Embedding requests by how they ended.",
            ["model", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "pointsman_embedding_seconds", "Arrival to end.", ["model"], buckets=SECONDS, registry=registry
        )
        self._tokens = Counter("pointsman_embedding_tokens", "Tokens embedded.", ["model"], registry=registry)
        self._cost = Counter("pointsman_embedding_cost_usd", "Dollars.", ["model"], registry=registry)

    def ended(self, model: str, outcome: str, seconds: float) -> None:
        """`outcome` is "ok", "cancelled" or the code of an error."""
        self._requests.labels(model, outcome).inc()
        self._seconds.labels(model).observe(seconds)
        self._gen_ai.embedded(model, outcome, seconds)

    def used(self, model: str, tokens: int, usd: float) -> None:
        self._tokens.labels(model).inc(tokens)
        self._cost.labels(model).inc(usd)
        self._gen_ai.embedded_tokens(model, tokens)
