"""Prometheus metrics of the engines, and the reports of canary outcomes to the lora-servers.

The values of labels are bounded: names in models.yaml, member numbers in a group, error codes, and fixed words.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from pointsman_servicekit.canary_reports import CanaryReport
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman_gateway.domain import Operation
from pointsman_gateway.engines.engine_client import EngineRequest
from pointsman_gateway.engines.engine_state import EngineState
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.fast_metrics import FastCollector, counter

REPORT_INTERVAL_SECONDS = 1.0
"""Seconds between two reports of canary outcomes."""


class CallTimer(Protocol):
    """Interface for recording the duration of engine calls; `GenAiMetrics` implements it."""

    def observe_call(self, operation: Operation, model: str, outcome: str, seconds: float) -> None:
        """Records how long a call to an engine took, in `seconds`.

        `operation` is the kind of request, such as "chat", and `model` the base model or adapter version that was
        called. `outcome` is "ok", "cancelled", "internal" (a bug of the gateway) or another error's code.
        """
        ...


class NullCallTimer:
    """Records nothing; implements `CallTimer`."""

    def observe_call(self, operation: Operation, model: str, outcome: str, seconds: float) -> None:
        pass


class EngineMetrics:
    """The counters and gauges of everything that happens to engines and engine groups, for Prometheus.

    They cover calls, circuit breakers that open, retries, hedged requests, adapter loads, evictions and changes,
    reports of canary outcomes, polls of lists of models, choices of endpoint pickers, and changes of groups.
    """

    def __init__(self, registry: CollectorRegistry, calls: CallTimer | None = None) -> None:
        self._calls = calls or NullCallTimer()
        self._attempts = counter("pointsman_engine_attempts", "Calls to engines by outcome.", ["engine", "outcome"])
        registry.register(FastCollector([self._attempts], []))
        self._opened = Counter(
            "pointsman_engine_breaker_opened",
            "Times that an engine's circuit breaker opened.",
            ["engine"],
            registry=registry,
        )
        self._retries = Counter(
            "pointsman_retries",
            "Retries before the first token; refused: the retry budget was used up.",
            ["engine", "outcome"],
            registry=registry,
        )
        self._hedges = Counter(
            "pointsman_hedges",
            "Hedged requests by which engine answered first; refused: the retry budget was used up.",
            ["engine", "outcome"],
            registry=registry,
        )
        self._loads = Counter(
            "pointsman_adapter_loads",
            "Adapter loads requested from lora-servers: loaded, refused, late (timeout) or away (unreachable).",
            ["engine", "outcome"],
            registry=registry,
        )
        self._evicted = Counter(
            "pointsman_adapter_evicted",
            "Requests whose adapter the engine had evicted in the meantime.",
            ["engine"],
            registry=registry,
        )
        self._canary_outcomes = Counter(
            "pointsman_canary_outcomes",
            "Outcomes of requests to aliases with a canary: sent to a lora-server, refused, lost, or full (dropped).",
            ["outcome"],
            registry=registry,
        )
        self._lookups = Counter(
            "pointsman_engine_group_lookups",
            "Lookups of engine groups in DNS or Kubernetes: answered or failed.",
            ["group", "outcome"],
            registry=registry,
        )
        self._changes = Counter(
            "pointsman_engine_group_changes",
            "Engines that joined (came) or left (went) a group.",
            ["group", "change"],
            registry=registry,
        )
        self._picks = Counter(
            "pointsman_endpoint_picks",
            "Choices of endpoint pickers: picked, no_endpoint (503), shed (429) or failed.",
            ["group", "result"],
            registry=registry,
        )
        self._listings = Counter(
            "pointsman_engine_model_lists",
            "Polls of engines with `adapters: discover`: listed, or why their models could not be read.",
            ["engine", "outcome"],
            registry=registry,
        )
        self._adapter_changes = Counter(
            "pointsman_engine_adapter_changes",
            "Discovered adapters that an engine began (came) or ceased (went) to list.",
            ["engine", "change"],
            registry=registry,
        )
        self._members = Gauge("pointsman_engine_group_members", "Members of a group.", ["group"], registry=registry)
        self._left_out = Gauge(
            "pointsman_engine_group_left_out",
            "Endpoints ignored because the group has max_endpoints members.",
            ["group"],
            registry=registry,
        )

    def ended(self, request: EngineRequest, model: str, outcome: str, seconds: float) -> None:
        """Counts a call to an engine that has ended, and records its duration in `seconds`.

        `model` is the base model or the adapter version that was called. `outcome` is "ok", "cancelled", "internal"
        (a bug of the gateway) or another error's code.
        """
        self._calls.observe_call(request.operation, model, outcome, seconds)
        self._attempts.series(request.engine, outcome).value += 1

    def opened(self, engine: str) -> None:
        self._opened.labels(engine).inc()

    def retried(self, engine: str, outcome: str) -> None:
        """Counts a retry after the engine named `engine` has failed.

        `outcome` is "sent", or "refused" if the retry budget was used up and so the retry was not sent.
        """
        self._retries.labels(engine, outcome).inc()

    def hedged(self, engine: str, outcome: str) -> None:
        """Counts a hedged request: one that was to be sent to a second engine because the first one, `engine`, was
        slow.

        `outcome` is "won" (the second engine answered first), "lost" (the first one did), "failed" (neither answered)
        or "refused" (the retry budget was used up, so no second request was sent).
        """
        self._hedges.labels(engine, outcome).inc()

    def loaded(self, engine: str, outcome: str) -> None:
        """Counts an attempt to load an adapter into the engine named `engine`.

        `outcome` is "loaded", "refused" (the lora-server rejected it), "late" (timeout) or "away" (the lora-server
        cannot be reached).
        """
        self._loads.labels(engine, outcome).inc()

    def evicted(self, engine: str) -> None:
        self._evicted.labels(engine).inc()

    def canary_reported(self, requests: int, outcome: str) -> None:
        """Counts a number of `requests` to aliases with a canary, whose outcomes were to be reported to a
        lora-server.

        `outcome` is "sent", "refused" (the lora-server rejected them), "lost" (it is unknown whether they have
        arrived) or "full" (they were dropped before a report).
        """
        self._canary_outcomes.labels(outcome).inc(requests)

    def looked_up(self, group: str, outcome: str) -> None:
        """Counts a lookup of an engine group in DNS or Kubernetes; `outcome` is "answered" or "failed"."""
        self._lookups.labels(group, outcome).inc()

    def picked(self, group: str, result: str) -> None:
        """Counts a request for which an endpoint picker was asked to choose an engine of `group`, a group or a
        single engine.

        `result` is "picked", "no_endpoint" (the picker has no engine for the request), "shed" (it rejected the
        request for lack of capacity) or "failed".
        """
        self._picks.labels(group, result).inc()

    def models_listed(self, engine: str, outcome: str) -> None:
        """Counts a poll of an engine's list of models; `outcome` is "listed" or a `NotListed.outcome`."""
        self._listings.labels(engine, outcome).inc()

    def adapters_changed(self, engine: str, came: int, went: int) -> None:
        self._adapter_changes.labels(engine, "came").inc(came)
        self._adapter_changes.labels(engine, "went").inc(went)

    def group_changed(self, group: str, change: str) -> None:
        """Counts a member that was added to an engine group (`change` is "came") or removed from it ("went")."""
        self._changes.labels(group, change).inc()

    def group_has(self, group: str, members: int, left_out: int) -> None:
        self._members.labels(group).set(members)
        self._left_out.labels(group).set(left_out)

    def remove_group(self, group: str) -> None:
        self._members.remove(group)
        self._left_out.remove(group)


class EngineStates(Collector):
    """Gauges of each engine's requests in flight, readiness, number of adapters and circuit breaker, read at each
    scrape.
    """

    def __init__(self, states: Callable[[], Sequence[EngineState]]) -> None:
        """Takes `states`, which returns the states of the active configuration's engines."""
        self._states = states

    def collect(self) -> Iterable[Metric]:
        yield self._family("in_flight", "Answers in progress on the engine.", lambda state: state.in_flight)
        yield self._family("ready", "1 if the engine is ready.", lambda state: state.engine.ready)
        yield self._family("adapters", "Adapters that the engine holds.", lambda state: len(state.engine.resident))
        yield self._family(
            "breaker_open",
            "1 if the engine's circuit breaker is open or half open.",
            lambda state: not state.breaker.closed,
        )

    def describe(self) -> Iterator[Metric]:
        """Returns no metrics: Prometheus' registry calls this at registration, when there is no state to read yet."""
        return iter(())

    def _family(self, name: str, documentation: str, value: Callable[[EngineState], float]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"pointsman_engine_{name}", documentation, labels=["engine"])
        for state in self._states():
            family.add_metric([state.engine.name], float(value(state)))
        return family


class CanaryOutcomeSource(Protocol):
    """Interface of the counts of canary outcomes that have not been reported to a lora-server yet.

    `CanaryOutcomes` implements it.
    """

    def take(self) -> Mapping[str, Sequence[CanaryReport]]:
        """Returns the unreported counts, as a list of reports for each base model's name, and resets all counts to
        zero.
        """
        ...

    def give_back(self, model: str, unreported: Sequence[CanaryReport]) -> None:
        """Adds the counts in `unreported` again, so that the next `take` returns them; `model` is the base model's
        name.
        """
        ...


class CanaryReporter:
    """Reports the outcomes of requests to canaries to the lora-servers about once a second, each outcome at most
    once.

    A report that may have arrived is not repeated, so up to a second of outcomes is lost if a lora-server disappears
    or times out during a call. A report that cannot have arrived is sent again with the next one.
    """

    def __init__(self, source: CanaryOutcomeSource, engines: Callable[[], Engines], metrics: EngineMetrics) -> None:
        """Takes `engines`, which returns the engines of the active configuration."""
        self._source = source
        self._engines = engines
        self._metrics = metrics

    async def run(self) -> None:
        """Calls `report` every `REPORT_INTERVAL_SECONDS`, until cancelled."""
        while True:
            await asyncio.sleep(REPORT_INTERVAL_SECONDS)
            await self.report()

    async def report(self) -> None:
        """Reports the outcomes of each base model to one of the model's lora-servers, which share one registry.

        If no lora-server can be reached, the outcomes are kept for the next report; if a lora-server rejects them, they
        are dropped.
        """
        for model, reports in self._source.take().items():
            await self._report(model, reports)

    async def _report(self, model: str, reports: Sequence[CanaryReport]) -> None:
        for state in self._engines().states:
            if state.engine.model != model or state.lora_server is None:
                continue
            outcome = await state.lora_server.report(reports)
            if outcome != "kept":
                self._metrics.canary_reported(sum(one.counts.requests for one in reports), outcome)
                return
        self._source.give_back(model, reports)
