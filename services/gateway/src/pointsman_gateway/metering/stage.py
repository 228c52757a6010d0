"""The stage: a meter runs along with each request and writes its receipt, however the request ends."""

import time

from pointsman_gateway.domain import Decision, Path, Prompt, Receipt, Usage
from pointsman_gateway.metering.pricing import ExpectedCost, Pricing
from pointsman_gateway.metering.prometheus import Metrics


class Metering:
    """Starts meters."""

    def __init__(self, pricing: Pricing, expected_cost: ExpectedCost, metrics: Metrics) -> None:
        self.pricing = pricing
        self.expected_cost = expected_cost
        self.metrics = metrics

    def start(self) -> "Meter":
        return Meter(self)


class Meter:
    """Times and counts one request."""

    def __init__(self, metering: Metering) -> None:
        self._metering = metering
        self._arrived = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._decision: Decision | None = None
        self._prompt = Prompt(())
        self._sent = self._arrived
        self._pieces = 0
        self._usage: Usage | None = None
        self._model = ""

    def decided(self, decision: Decision) -> None:
        self._seconds["classification"] = self.elapsed
        self._decision = decision
        self._metering.metrics.decided(decision, self.elapsed)

    def fell_back(self, source: Path, decision: Decision) -> None:
        self._decision = decision
        self._metering.metrics.fell_back(source, decision.path)

    def prompted(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._sent = time.perf_counter()

    def opened(self, model: str) -> None:
        """`model` has begun to answer."""
        self._model = model

    def token(self) -> None:
        """A piece of the answer has come."""
        self._pieces += 1
        if self._pieces == 1:
            self._seconds["first_token"] = self.elapsed
            self._seconds["queue_and_prefill"] = time.perf_counter() - self._sent

    def used(self, usage: Usage) -> None:
        self._usage = usage

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._arrived

    @property
    def overhead(self) -> float:
        """Seconds from arrival to sending, without retrieval."""
        return self._sent - self._arrived - self._prompt.seconds.get("retrieval", 0.0)

    def finish(self, outcome: str) -> Receipt | None:
        """The receipt, counted; None where nothing had been decided yet."""
        if self._decision is None:
            self._metering.metrics.refused.labels(outcome).inc()
            return None
        seconds = {**self._seconds, **self._prompt.seconds, "total": self.elapsed}
        if "first_token" in seconds:
            seconds["generation"] = seconds["total"] - seconds["first_token"]
        path, usage = self._decision.path, self._counted()
        parts = self._metering.pricing.parts_usd(path.model, usage, self._prompt.searches)
        receipt = Receipt(self._decision, usage, parts, seconds, outcome, self._prompt.passages, self._model)
        self._metering.metrics.ended(receipt)
        if outcome == "ok":
            self._metering.expected_cost.learn(path, receipt.cost_usd)
        return receipt

    def _counted(self) -> Usage:
        """The engine's own count; where an answer was cut before it came, the pieces that arrived (a token or more)."""
        return self._usage or Usage(completion_tokens=self._pieces)
