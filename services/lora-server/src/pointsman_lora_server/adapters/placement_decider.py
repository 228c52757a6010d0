"""Decides the plan of placement by demand. Each lora-server reports its engine's use; one of them, which has a lease in
Redis, computes the plan (`next_plan`) and stores it for all.
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
"""Seconds between two plans, and between two reports of an engine."""
LEASE_SECONDS = 3 * PLAN_SECONDS
"""Seconds after which another lora-server decides if the one that did has stopped. Reports expire after this time too.
"""
GONE_SECONDS = 2 * PLAN_SECONDS
"""How long an engine of the plan must be without a report until its versions are planned elsewhere. After Redis was
away, all reports have expired, and the engines report again one after the other.
"""
MOVE_SECONDS = 6 * PLAN_SECONDS
"""How long a planned copy counts as held although its engine has not loaded it yet. If slots are scarce, copies that
are not held are given up.
"""
LEASE = "placement"


class PlanRegistry(Protocol):
    """The part of the registry's interface that the decider needs; `AdapterRegistry` implements it."""

    async def report_demand(self, report: EngineReport, seconds: float) -> None: ...
    async def read_demand(self) -> list[EngineReport]: ...
    async def read_plan(self, known: StoredPlan) -> StoredPlan: ...
    async def write_plan(self, before: StoredPlan, engines: Mapping[str, Sequence[str]]) -> StoredPlan | None: ...
    async def acquire_lease(self, key: str, owner: str, seconds: float) -> bool: ...


class TokenCounters(Protocol):
    """The part of `VllmClient`'s interface that the decider needs."""

    async def count_tokens(self) -> Mapping[str, float]: ...


@dataclass(frozen=True, slots=True)
class DeciderOptions:
    """The settings of a `PlacementDecider`."""

    engine: str
    """The engine's name in reports and plans, unique among those of the base model."""
    owner: str
    """The process's name as the owner of the lease."""
    moves_per_minute: float
    tokens_per_second: float | None = None
    """What the engine can generate; None takes the highest rate that it has shown."""


class PlacementDecider:
    """Measures the engine's use, and decides the plan while it has the lease; `run_once` is called again and again."""

    def __init__(
        self,
        registry: PlanRegistry,
        engine: TokenCounters,
        slots: Callable[[], int],
        metrics: LoraServerMetrics,
        options: DeciderOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes `slots`, which returns how many versions the engine can hold, and a monotonic clock in seconds."""
        self._registry, self._engine, self._slots, self._metrics = registry, engine, slots, metrics
        self._options, self._clock = options, clock
        self._meter = DemandMeter()
        self._budget = MoveBudget(options.moves_per_minute)
        self._plan = StoredPlan()
        self._missing: dict[str, float] = {}
        """Engine of the plan without a report -> when that was first noticed."""
        self._moved_at: dict[tuple[str, str], float] = {}
        """Engine and version of each copy that is being loaded -> when that was planned."""

    async def run_once(self, desired: DesiredState, state: EngineState) -> None:
        """Reports the engine's use, and replaces the plan if this process has the lease.

        Does nothing if no adapter is placed by demand. Raises Unavailable if Redis or the engine does not answer.
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
        """Returns whether an engine of the plan has no report, and may still be up (see `GONE_SECONDS`)."""
        now, known = self._clock(), {report.engine for report in reports}
        missing = {engine for engines in self._plan.engines.values() for engine in engines} - known
        self._missing = {engine: self._missing.get(engine, now) for engine in missing}
        return any(now - since < GONE_SECONDS for since in self._missing.values())

    def _with_moves(self, reports: Sequence[EngineReport]) -> list[EngineReport]:
        """Returns the reports as if their engines already held the copies that were planned in the last `MOVE_SECONDS`.
        Those that an engine has reported since are left to its reports.
        """
        held = {(report.engine, version) for report in reports for version in report.holds}
        since = self._clock() - MOVE_SECONDS
        self._moved_at = {move: at for move, at in self._moved_at.items() if at > since and move not in held}
        coming: dict[str, set[str]] = {}
        for engine, version in self._moved_at:
            coming.setdefault(engine, set()).add(version)
        return [replace(each, holds=each.holds | coming.get(each.engine, frozenset())) for each in reports]


def versions_by_demand(desired: DesiredState) -> frozenset[str]:
    """Returns the READY versions that are placed by demand, and to which an alias or a canary points or is about to.

    Pinned versions are left out, because they are on every engine.
    """
    targets = desired.alias_targets | _announced(desired)
    return frozenset(
        version
        for version in targets - desired.pins
        if desired.placement_of(version).by_demand and is_ready(version, desired)
    )


def kept_versions(desired: DesiredState, versions: Collection[str]) -> frozenset[str]:
    """Returns those of `versions` that lose no copy: canaries, and versions to which an alias is about to be moved."""
    canaries = {alias.canary.version for alias in desired.aliases if alias.canary}
    return frozenset(versions) & (canaries | _announced(desired))


def _announced(desired: DesiredState) -> frozenset[str]:
    now = time.time() * 1000
    return frozenset(version for version, until in desired.upcoming.items() if until > now)
