"""Decides which engines hold which versions. Every lora-server computes the same result from the same data in Redis."""

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from hashlib import blake2b
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_lora_server.domain import DesiredState, FleetState, Placement

KEEP_REQUESTED_SECONDS = 60.0
"""How long a version that was requested here stays although it is placed elsewhere: the other engines may be
failing."""
MAX_WARM_SECONDS = 60.0
"""How long the engines on which a version is placed may take until all of them hold it."""
POLL_SECONDS = 0.1


class FleetRegistry(Protocol):
    """The part of the registry that placement uses."""

    async def read_fleet(self) -> FleetState: ...
    async def announce_target(self, version: str, seconds: float) -> None: ...


def engines_for(version: str, placement: Placement, engines: Collection[str]) -> frozenset[str]:
    """Returns the engines that should hold the version, by rendezvous hashing (Thaler and Ravishankar, 1998).

    These are all of them if the placement has no number of copies. If an engine leaves, only its versions move; an
    engine that joins takes only the versions that now belong to it.
    """
    if placement.copies is None:
        return frozenset(engines)
    ranked = sorted(engines, key=lambda engine: _weight(engine, version), reverse=True)
    return frozenset(ranked[: placement.copies])


def _weight(engine: str, version: str) -> tuple[bytes, str]:
    return blake2b(f"{version}\n{engine}".encode(), digest_size=8).digest(), engine


class PlacementPlanner:
    """Decides what this engine should hold, from the state of all engines as last read from Redis."""

    def __init__(self, registry: FleetRegistry, engine: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes in `engine` the name of this engine, unique among the engines of the base model."""
        self.engine = engine
        self.leaving = False
        """Set before shutdown: the versions of this engine are then placed on other engines."""
        self._registry = registry
        self._clock = clock
        self._fleet = FleetState()
        self._requested_at: dict[str, float] = {}

    async def refresh(self) -> None:
        """Reads from Redis which engines are up and what they hold; without Redis, the last known state is kept."""
        with suppress(Unavailable):
            self._fleet = await self._registry.read_fleet()

    def record_request(self, version: str) -> None:
        """Records that a caller had the version loaded on this engine."""
        now = self._clock()
        self._requested_at = {name: at for name, at in self._requested_at.items() if now - at < KEEP_REQUESTED_SECONDS}
        self._requested_at[version] = now

    def placed_here(self, desired: DesiredState) -> frozenset[str]:
        """Returns the versions that this engine should hold, of those that aliases point to or soon will."""
        now = time.time() * 1000
        targets = desired.alias_targets | {version for version, until in desired.upcoming.items() if until > now}
        return frozenset(version for version in targets if self.engine in self._engines_for(version, desired))

    def releasable(self, desired: DesiredState, resident: frozenset[str]) -> frozenset[str]:
        """Returns the resident versions that are placed on other engines, all of which hold them already.

        Leaves out pinned versions and those requested here in the last `KEEP_REQUESTED_SECONDS`.
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
        """Returns when all engines on which the version is placed hold it; at once if no number of copies is set.

        Raises Unavailable ("not_warm") after `MAX_WARM_SECONDS`, and as `AdapterRegistry.announce_target` does.
        """
        if not desired().placement_of(version).copies:
            return
        await self._registry.announce_target(version, MAX_WARM_SECONDS)
        deadline = self._clock() + MAX_WARM_SECONDS
        while True:
            await self.refresh()
            missing = self._missing(version, desired())
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
        """Returns when the other engines hold what this engine leaves to them, or there is none; has no time limit."""
        versions = [version for version in resident & desired().alias_targets if desired().placement_of(version).copies]
        await self.refresh()
        while any(self._missing(version, desired()) for version in versions):
            await asyncio.sleep(POLL_SECONDS)
            await self.refresh()

    def _engines_for(self, version: str, desired: DesiredState) -> frozenset[str]:
        others = self._fleet.holds.keys() - {self.engine}
        return engines_for(version, desired.placement_of(version), others if self.leaving else others | {self.engine})

    def _missing(self, version: str, desired: DesiredState) -> frozenset[str]:
        """Returns the engines that should hold the version and do not."""
        holds = self._fleet.holds
        return frozenset(
            engine for engine in self._engines_for(version, desired) if version not in holds.get(engine, frozenset())
        )
