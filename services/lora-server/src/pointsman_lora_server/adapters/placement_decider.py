"""Decides on which engines adapter versions are placed by demand. Each lora-server reports how much its engine's
versions are used. The lora-server that holds a lease in Redis computes the plan (`next_plan`) and stores it for all.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pointsman_lora_server.adapters.demand import DemandMeter, MoveBudget
from pointsman_lora_server.adapters.demand_plan import Plan, next_plan
from pointsman_lora_server.domain import DesiredState, EngineReport, EngineState, EngineStatus, StoredPlan, is_ready
from pointsman_lora_server.metrics import LoraServerMetrics

log = logging.getLogger(__name__)

PLAN_SECONDS = 5.0
"""Seconds between two computations of the plan, and between two reports of an engine."""
LEASE_SECONDS = 3 * PLAN_SECONDS
"""Seconds after which the lease of a lora-server that has stopped expires, so that another one computes the plan. An
engine's report expires after this time too."""
GONE_SECONDS = 2 * PLAN_SECONDS
"""How long an engine in the plan must be without a report before its versions are planned on other engines. After an
outage of Redis, all reports have expired, and the engines report again one after the other."""
MOVE_SECONDS = 6 * PLAN_SECONDS
"""How long a newly planned copy counts as held although the engine has not loaded it yet. If slots are scarce, the plan
drops copies that are not held."""
LEASE = "placement"


class PlanRegistry(Protocol):
    """The methods of the registry in Redis that the decider needs; `AdapterRegistry` implements them."""

    async def report_demand(self, report: EngineReport, seconds: float) -> None: ...
    async def read_demand(self) -> list[EngineReport]: ...
    async def read_plan(self, known: StoredPlan) -> StoredPlan: ...
    async def write_plan(self, before: StoredPlan, engines: Mapping[str, Sequence[str]]) -> StoredPlan | None: ...
    async def acquire_lease(self, key: str, owner: str, seconds: float) -> bool: ...


class TokenCounters(Protocol):
    """Interface of an engine's client that returns the number of generated tokens by model; `VllmClient` implements
    it.
    """

    async def count_tokens(self) -> Mapping[str, float]: ...


@dataclass(frozen=True, slots=True)
class DeciderOptions:
    """The settings of a `PlacementDecider`."""

    engine: str
    """The engine's name in reports and plans, unique among the engines of its base model."""
    owner: str
    """The name under which this process holds the lease in Redis; no other process may use it."""
    moves_per_minute: float
    tokens_per_second: float | None = None
    """The largest number of tokens per second that the engine can generate; None uses the highest rate that it has
    shown."""


class PlacementDecider:
    """Measures how much the engine's adapter versions are used, and computes the placement plan for all engines while
    this process holds the lease in Redis. `run_once` is called every `PLAN_SECONDS`.
    """

    def __init__(
        self,
        registry: PlanRegistry,
        engine: TokenCounters,
        slots: Callable[[], int],
        metrics: LoraServerMetrics,
        options: DeciderOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`slots` is a function that returns how many versions the engine can hold. `clock` returns monotonic
        seconds.
        """
        self._registry, self._engine, self._slots, self._metrics = registry, engine, slots, metrics
        self._options, self._clock = options, clock
        self._meter = DemandMeter()
        self._budget = MoveBudget(options.moves_per_minute)
        self._plan = StoredPlan()
        self._missing: dict[str, float] = {}
        """Engine in the plan that has no report -> the time at which this was first noticed."""
        self._moved_at: dict[tuple[str, str], float] = {}
        """(engine, version) of each copy that is being loaded -> the time at which the copy was planned."""

    async def run_once(self, desired: DesiredState, state: EngineState) -> None:
        """Reports to Redis how much this engine's versions are used. If this process holds the lease, it also computes
        the next plan and stores it.

        Does nothing if no version is placed by demand. Raises Unavailable if Redis or the engine does not answer.
        """
        versions = versions_by_demand(desired)
        if not versions:
            self._metrics.set_placed_copies({}, 0)
            return
        if state.status is EngineStatus.READY:
            await self._report(desired, state, versions)
        if not await self._registry.acquire_lease(LEASE, self._options.owner, LEASE_SECONDS):
            self._metrics.set_placed_copies({}, 0)
            self._missing.clear()
            return
        await self._decide(desired, versions)

    async def _report(self, desired: DesiredState, state: EngineState, versions: Collection[str]) -> None:
        self._meter.record(await self._engine.count_tokens(), self._clock())
        reserved = {v for v in desired.alias_targets | desired.pins if v not in versions} & state.resident
        report = EngineReport(
            self._options.engine,
            self._slots(),
            len(reserved | desired.pins),
            self._options.tokens_per_second or max(1.0, self._meter.peak),
            state.resident | state.loading,
            {version: rate for version, rate in self._meter.rates.items() if "@" in version},
        )
        await self._registry.report_demand(report, LEASE_SECONDS)

    async def _decide(self, desired: DesiredState, versions: Collection[str]) -> None:
        self._plan = await self._registry.read_plan(self._plan)
        reports = await self._registry.read_demand()
        if self._is_incomplete(reports):
            return
        before = Plan({version: engines for version, engines in self._plan.engines.items() if engines})
        plan = next_plan(
            before,
            self._with_moves(reports),
            versions,
            self._budget.left(self._clock()),
            kept=kept_versions(desired, versions),
        )
        engines = {version: plan.engines.get(version, ()) for version in versions}
        if engines != self._plan.engines:
            written = await self._registry.write_plan(self._plan, engines)
            if written is None:
                return  # another process has the lease by now
            self._plan = written
            self._budget.spend(len(plan.moves))
            self._moved_at |= {(move.engine, move.version): self._clock() for move in plan.moves}
            for move in plan.moves:
                log.info("%s is to be loaded on %s: %s", move.version, move.engine, move.reason.value)
                self._metrics.count_placement_move(move.reason.value)
        unplaced = sum(not names for names in engines.values())
        self._metrics.set_placed_copies({version: len(names) for version, names in engines.items()}, unplaced)

    def _is_incomplete(self, reports: Sequence[EngineReport]) -> bool:
        """Returns whether an engine in the plan has no report but may still be up (see `GONE_SECONDS`)."""
        now, known = self._clock(), {report.engine for report in reports}
        missing = {engine for engines in self._plan.engines.values() for engine in engines} - known
        self._missing = {engine: self._missing.get(engine, now) for engine in missing}
        return any(now - since < GONE_SECONDS for since in self._missing.values())

    def _with_moves(self, reports: Sequence[EngineReport]) -> list[EngineReport]:
        """Returns the reports, changed as if the engines already held the copies that were planned for them in the last
        `MOVE_SECONDS`. Once an engine has reported a copy, only its reports count for this copy.
        """
        held = {(report.engine, version) for report in reports for version in report.holds}
        since = self._clock() - MOVE_SECONDS
        self._moved_at = {move: at for move, at in self._moved_at.items() if at > since and move not in held}
        coming: dict[str, set[str]] = {}
        for engine, version in self._moved_at:
            coming.setdefault(engine, set()).add(version)
        return [replace(each, holds=each.holds | coming.get(each.engine, frozenset())) for each in reports]


def versions_by_demand(desired: DesiredState) -> frozenset[str]:
    """Returns the READY versions that are placed by demand, and to which an alias or a canary points or an alias is
    about to be moved.

    Pinned versions are left out, because every engine holds them.
    """
    targets = desired.alias_targets | _announced(desired)
    return frozenset(
        version
        for version in targets - desired.pins
        if desired.placement_of(version).by_demand and is_ready(version, desired)
    )


def kept_versions(desired: DesiredState, versions: Collection[str]) -> frozenset[str]:
    """Returns those of `versions` that must not lose a copy: canaries, and versions to which an alias is about to be
    moved.
    """
    canaries = {alias.canary.version for alias in desired.aliases if alias.canary}
    return frozenset(versions) & (canaries | _announced(desired))


def _announced(desired: DesiredState) -> frozenset[str]:
    now = time.time() * 1000
    return frozenset(version for version, until in desired.upcoming.items() if until > now)
