"""Computes which engines should hold which adapter versions. All lora-servers read the same data from Redis, so all
compute the same result.

Versions placed by demand belong on the engines that the plan in Redis names (see `placement_decider`).
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_lora_server.adapters.rendezvous import ranked_engines
from pointsman_lora_server.domain import DesiredState, FleetState, Placement, StoredPlan

KEEP_REQUESTED_SECONDS = 60.0
"""How long after a request for a version this engine keeps the version although it is placed on other engines only. The
request came here, so the other engines may be failing."""
MAX_WARM_SECONDS = 60.0
"""How long to wait, in seconds, until all engines on which a version is placed have loaded it; see
`wait_until_warm`."""
POLL_SECONDS = 0.1
REPORT_AGAIN_SECONDS = 10.0
"""How long after an outage of Redis engines that were up before the outage count as up without a report. All reports
have expired by then, and the engines report again one after the other. If an engine counted the missing ones as down,
it would load all their versions."""


class FleetRegistry(Protocol):
    """The methods of the registry in Redis that placement needs; `AdapterRegistry` implements them."""

    async def read_fleet(self) -> FleetState: ...
    async def read_plan(self, known: StoredPlan) -> StoredPlan: ...
    async def announce_target(self, version: str, seconds: float) -> None: ...


def engines_for(version: str, placement: Placement, engines: Collection[str]) -> frozenset[str]:
    """Returns the engines out of `engines` that should hold the version: as many as `placement.copies` says, or all if
    that is None.

    They are chosen by rendezvous hashing (see `rendezvous`).
    """
    if placement.copies is None:
        return frozenset(engines)
    return frozenset(ranked_engines(version, engines)[: placement.copies])


def planned_engines(
    version: str, plan: Mapping[str, Sequence[str]], engines: Collection[str], is_announced: bool
) -> frozenset[str]:
    """Returns the engines out of `engines` that should hold a version placed by demand: those that `plan` (version ->
    engines) names. If all of these have gone, returns the version's first engine by rendezvous hashing.

    If the plan does not place the version, returns no engines, unless `is_announced`: an alias is about to be moved to
    the version. It is then placed on the engines of the adapter's other versions, or on its first engine by rendezvous
    hashing.
    """
    planned = plan.get(version, ())
    if not planned and is_announced:
        prefix = version.partition("@")[0] + "@"
        planned = [engine for other, names in plan.items() if other.startswith(prefix) for engine in names]
    elif not planned:
        return frozenset()
    return frozenset(planned).intersection(engines) or frozenset(ranked_engines(version, engines)[:1])


class PlacementPlanner:
    """Decides which adapter versions this engine should hold, from the reports of all engines in Redis that `refresh`
    has read.
    """

    def __init__(self, registry: FleetRegistry, engine: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`engine` is this engine's name, unique among the engines of its base model. `clock` returns monotonic
        seconds.
        """
        self.engine = engine
        self.leaving = False
        """Whether this server is about to shut down; if so, versions are placed on the other engines only."""
        self._registry = registry
        self._clock = clock
        self._fleet = FleetState()
        self._was_away, self._complete_at = False, 0.0
        self._plan = StoredPlan()
        self._requested_at: dict[str, float] = {}

    async def refresh(self) -> None:
        """Reads from Redis which engines are up, which versions each holds, and the plan of placement by demand. If
        Redis does not answer, the data of the last read stays in use.
        """
        try:
            fleet = await self._registry.read_fleet()
        except Unavailable:
            self._was_away = True
            return
        if self._was_away:
            self._was_away, self._complete_at = False, self._clock() + REPORT_AGAIN_SECONDS
        before = self._fleet.holds if self._clock() < self._complete_at else {}
        self._fleet = FleetState({**before, **fleet.holds})
        with suppress(Unavailable):
            self._plan = await self._registry.read_plan(self._plan)

    def record_request(self, version: str) -> None:
        """Records that a caller requests the version on this engine now. The engine then keeps the version for
        `KEEP_REQUESTED_SECONDS` (see `releasable`).
        """
        now = self._clock()
        self._requested_at = {name: at for name, at in self._requested_at.items() if now - at < KEEP_REQUESTED_SECONDS}
        self._requested_at[version] = now

    def placed_here(self, desired: DesiredState) -> frozenset[str]:
        """Returns the adapter versions that are placed on this engine.

        Only versions are included to which an alias or a canary points, or to which an alias is about to be moved
        (`DesiredState.upcoming`).
        """
        now = time.time() * 1000
        targets = desired.alias_targets | {version for version, until in desired.upcoming.items() if until > now}
        return frozenset(version for version in targets if self.engine in self._engines_for(version, desired))

    def releasable(self, desired: DesiredState, resident: frozenset[str]) -> frozenset[str]:
        """Returns the `resident` versions that this engine may unload because other engines hold them instead.

        An alias or a canary points to each of these versions. Each is placed by a number of copies, but not on this
        engine, and all engines on which it is placed hold it. Pinned versions, and versions requested here in the last
        `KEEP_REQUESTED_SECONDS`, are left out. Versions placed by demand are left out too: an extra copy costs nothing
        until its slot is needed, and is evicted first then.
        """
        now, needed_here = self._clock(), self.placed_here(desired) | desired.pins
        requested = {name for name, at in self._requested_at.items() if now - at < KEEP_REQUESTED_SECONDS}
        elsewhere = (resident & desired.alias_targets) - needed_here - requested
        return frozenset(
            version
            for version in elsewhere
            if desired.placement_of(version).copies and not self._missing(version, desired)
        )

    async def wait_until_warm(self, version: str, desired: Callable[[], DesiredState]) -> None:
        """Announces to all lora-servers that an alias is about to be moved to the version, and returns when all engines
        on which the version is placed hold it.

        `desired` is a function that returns the desired state as last read; it is called repeatedly. Returns at once if
        the version's adapter is not placed by demand or by a number of copies above 0. Raises Unavailable ("not_warm")
        after `MAX_WARM_SECONDS`, Unavailable if Redis does not answer, NotFound if the version is not registered, and
        FailedPrecondition ("not_ready") if it is not READY.
        """
        if not desired().placement_of(version).is_counted:
            return
        await self._registry.announce_target(version, MAX_WARM_SECONDS)
        deadline = self._clock() + MAX_WARM_SECONDS
        while True:
            await self.refresh()
            # The announcement counts although the desired state may not have been read again since.
            missing = self._missing(version, desired(), is_announced=True)
            if not missing:
                return
            if self._clock() > deadline:
                raise Unavailable(
                    f"{version} is not warm on {', '.join(sorted(missing))} after {MAX_WARM_SECONDS:g} s; the logs of "
                    "their lora-servers say why",
                    code="not_warm",
                    retry_after=5.0,
                )
            await asyncio.sleep(POLL_SECONDS)

    async def wait_until_handed_over(self, desired: Callable[[], DesiredState], resident: frozenset[str]) -> None:
        """Returns when the other engines hold the `resident` versions of this engine that are placed by demand or by a
        number of copies.

        Each version must be held by all engines on which it is now placed. Versions to which no alias or canary points
        are ignored. `desired` is a function that returns the desired state as last read; it is called repeatedly. Set
        `leaving` before the call; there is no time limit.
        """
        versions = [v for v in resident & desired().alias_targets if desired().placement_of(v).is_counted]
        await self.refresh()
        while any(self._missing(version, desired()) for version in versions):
            await asyncio.sleep(POLL_SECONDS)
            await self.refresh()

    def _engines_for(self, version: str, desired: DesiredState, is_announced: bool = False) -> frozenset[str]:
        placement, others = desired.placement_of(version), self._fleet.holds.keys() - {self.engine}
        engines = others if self.leaving else others | {self.engine}
        if placement.by_demand:
            is_announced = is_announced or desired.upcoming.get(version, 0) > time.time() * 1000
            return planned_engines(version, self._plan.engines, engines, is_announced)
        return engines_for(version, placement, engines)

    def _missing(self, version: str, desired: DesiredState, is_announced: bool = False) -> frozenset[str]:
        """Returns the engines that should hold the version but do not."""
        holds, engines = self._fleet.holds, self._engines_for(version, desired, is_announced)
        return frozenset(engine for engine in engines if version not in holds.get(engine, frozenset()))
