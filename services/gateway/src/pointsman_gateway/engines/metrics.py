"""What is counted of engines; the labels are names in models.yaml, a number within a group, and codes of the code."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman_gateway.domain import CanaryMetrics, Operation
from pointsman_gateway.engines.engine_client import EngineRequest
from pointsman_gateway.engines.engines import Cell, Engines
from pointsman_gateway.fast_metrics import FastCollector, counter


class Calls(Protocol):
    """Times what engines are asked."""

    def observe_call(self, operation: Operation, model: str, outcome: str, seconds: float) -> None:
        """`model` as the engine knows it; `outcome` is "ok", "cancelled" or the code of an error."""
        ...


class NobodyTimes:
    """Implements `Calls` where nobody looks."""

    def observe_call(self, operation: Operation, model: str, outcome: str, seconds: float) -> None:
        pass


class EngineMetrics:
    """Counts what is asked of engines, and what comes of it."""

    def __init__(self, registry: CollectorRegistry, calls: Calls | None = None) -> None:
        self._calls = calls or NobodyTimes()
        self._attempts = counter(
            "pointsman_engine_attempts", "What engines were asked, by its end.", ["engine", "outcome"]
        )
        registry.register(FastCollector([self._attempts], []))
        self._opened = Counter(
            "pointsman_engine_breaker_opened", "Times that an engine was given up.", ["engine"], registry=registry
        )
        self._retries = Counter(
            "pointsman_retries",
            "Requests sent again before their first token; refused: the budget was spent.",
            ["engine", "outcome"],
            registry=registry,
        )
        self._hedges = Counter(
            "pointsman_hedges",
            "Second engines asked for a first token, by who answered; refused: the budget was spent.",
            ["engine", "outcome"],
            registry=registry,
        )
        self._loads = Counter(
            "pointsman_adapter_loads",
            "Adapters that lora-servers were asked to have loaded: loaded, refused, late, or the server was away.",
            ["engine", "outcome"],
            registry=registry,
        )
        self._evicted = Counter(
            "pointsman_adapter_evicted",
            "Requests that came to an engine when it had just let go of their adapter.",
            ["engine"],
            registry=registry,
        )
        self._told = Counter(
            "pointsman_canary_outcomes",
            "Outcomes of requests to aliases with a canary: sent to a lora-server, refused by it, lost, or full.",
            ["outcome"],
            registry=registry,
        )
        self._lookups = Counter(
            "pointsman_engine_group_lookups",
            "Questions to DNS where a group's engines are: answered or failed.",
            ["group", "outcome"],
            registry=registry,
        )
        self._changes = Counter(
            "pointsman_engine_group_changes",
            "Engines that came to a group or went from it.",
            ["group", "change"],
            registry=registry,
        )
        self._members = Gauge(
            "pointsman_engine_group_members", "Engines of a group that are known.", ["group"], registry=registry
        )
        self._left_out = Gauge(
            "pointsman_engine_group_left_out",
            "Addresses beyond the most that a group may have.",
            ["group"],
            registry=registry,
        )

    def ended(self, request: EngineRequest, outcome: str, seconds: float) -> None:
        """`outcome` is "ok", "cancelled" or the code of an error."""
        self._calls.observe_call(request.operation, request.model, outcome, seconds)
        self._attempts.series(request.engine, outcome).value += 1

    def opened(self, engine: str) -> None:
        self._opened.labels(engine).inc()

    def retried(self, engine: str, outcome: str) -> None:
        """`engine` is the one that failed; `outcome` is "sent" or "refused"."""
        self._retries.labels(engine, outcome).inc()

    def hedged(self, engine: str, outcome: str) -> None:
        """`engine` is the one that was slow; `outcome` is "won", "lost", "failed" or "refused"."""
        self._hedges.labels(engine, outcome).inc()

    def loaded(self, engine: str, outcome: str) -> None:
        """`outcome` is "loaded", "refused", "late" or "away"."""
        self._loads.labels(engine, outcome).inc()

    def evicted(self, engine: str) -> None:
        self._evicted.labels(engine).inc()

    def told(self, requests: int, outcome: str) -> None:
        """`outcome` is "sent", "refused" or "lost"; or "full", where they were never noted."""
        self._told.labels(outcome).inc(requests)

    def looked_up(self, group: str, outcome: str) -> None:
        """`outcome` is "answered" or "failed"."""
        self._lookups.labels(group, outcome).inc()

    def group_changed(self, group: str, change: str) -> None:
        """`change` is "came" or "went"."""
        self._changes.labels(group, change).inc()

    def group_has(self, group: str, members: int, left_out: int) -> None:
        self._members.labels(group).set(members)
        self._left_out.labels(group).set(left_out)

    def group_is_gone(self, group: str) -> None:
        """The configuration names it no more."""
        self._members.remove(group)
        self._left_out.remove(group)


class EngineStates(Collector):
    """How the engines are at the moment somebody looks."""

    def __init__(self, cells: Callable[[], Sequence[Cell]]) -> None:
        """`cells` are those of the generation that serves."""
        self._cells = cells

    def collect(self) -> Iterable[Metric]:
        yield self._family("in_flight", "Answers that an engine is busy with.", lambda cell: cell.in_flight)
        yield self._family("ready", "1 where an engine is up.", lambda cell: cell.engine.ready)
        yield self._family(
            "breaker_open", "1 where an engine is left alone or on trial.", lambda cell: not cell.breaker.closed
        )

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering it looks at no cell."""
        return iter(())

    def _family(self, name: str, told: str, value: Callable[[Cell], float]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"pointsman_engine_{name}", told, labels=["engine"])
        for cell in self._cells():
            family.add_metric([cell.engine.name], float(value(cell)))
        return family


EVERY = 1.0
"""Seconds."""


class Trials(Protocol):
    """Where outcomes are counted."""

    def take(self) -> Sequence[CanaryMetrics]:
        """All that has not been handed over."""
        ...

    def give_back(self, outcomes: Sequence[CanaryMetrics]) -> None:
        """They could not be told."""
        ...


class Reporter:
    """Each count is told at most once: what may have arrived is not sent again, so that a batch can be lost.

    That is what a second has brought, and only where a lora-server goes away, or answers too late, in the middle of a
    call. What has certainly not arrived waits for the next time.
    """

    def __init__(self, trials: Trials, engines: Callable[[], Engines], metrics: EngineMetrics) -> None:
        """`engines` are those of the generation that serves."""
        self._trials = trials
        self._engines = engines
        self._metrics = metrics

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.report()

    async def report(self) -> None:
        """To one lora-server of each model, whichever can be reached; they all count into one registry."""
        outcomes = sorted(self._trials.take(), key=lambda one: one.model)
        for model, of_model in groupby(outcomes, key=lambda one: one.model):
            await self._report(model, list(of_model))

    async def _report(self, model: str, outcomes: list[CanaryMetrics]) -> None:
        for cell in self._engines().cells:
            if cell.engine.model != model or cell.lora_server is None:
                continue
            became = await cell.lora_server.report(outcomes)
            if became != "kept":
                self._metrics.told(sum(one.requests for one in outcomes), became)
                return
        self._trials.give_back(outcomes)
