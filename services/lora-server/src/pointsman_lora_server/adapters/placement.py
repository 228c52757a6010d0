"""Computes which engines should hold which versions. From the same data in Redis, all lora-servers compute the same."""

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from hashlib import blake2b
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_lora_server.domain import DesiredState, FleetState, Placement

KEEP_REQUESTED_SECONDS = 60.0
"""How long after a request a version stays on this engine although it is placed elsewhere: the engines there may be
failing."""
MAX_WARM_SECONDS = 60.0
"""How long the engines on which a version is placed may take until all of them hold it."""
POLL_SECONDS = 0.1


class FleetRegistry(Protocol):
    """Interface of the registry as far as placement needs it; `AdapterRegistry` implements it."""

    async def read_fleet(self) -> FleetState: ...
    async def announce_target(self, version: str, seconds: float) -> None: ...


def engines_for(version: str, placement: Placement, engines: Collection[str]) -> frozenset[str]:
    """Returns the engines that should hold the version: as many as `placement.copies` says, or all if that is None.

    They are chosen by rendezvous hashing (Thaler and Ravishankar, 1998): if an engine leaves, only the versions that it
    held move to others, and if one joins, only the versions that it should now hold move to it.
    """
    if placement.copies is None:
        return frozenset(engines)
    ranked = sorted(engines, key=lambda engine: _weight(engine, version), reverse=True)
    return frozenset(ranked[: placement.copies])


def _weight(engine: str, version: str) -> tuple[bytes, str]:
    return blake2b(f"{version}\n{engine}".encode(), digest_size=8).digest(), engine


class PlacementPlanner:
    """Computes what this engine should hold, from the reports of all engines as last read from Redis (`refresh`)."""

    def __init__(self, registry: FleetRegistry, engine: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes this engine's name, unique among the engines of its base model, and a monotonic clock in seconds."""
        self.engine = engine
        self.leaving = False
        """Whether the server is about to shut down; versions are then placed on the other engines only."""
        self._registry = registry
        self._clock = clock
        self._fleet = FleetState()
        self._requested_at: dict[str, float] = {}

    async def refresh(self) -> None:
        """Reads from Redis which engines are up and what they hold; keeps the earlier data if Redis does not answer."""
        with suppress(Unavailable):
            self._fleet = await self._registry.read_fleet()

    def record_request(self, version: str) -> None:
        """Records that a caller requested the version on this engine now, which `releasable` takes into account."""
        now = self._clock()
        self._requested_at = {name: at for name, at in self._requested_at.items() if now - at < KEEP_REQUESTED_SECONDS}
        self._requested_at[version] = now

    def placed_here(self, desired: DesiredState) -> frozenset[str]:
        """Returns the versions that this engine should hold, of those that aliases or canaries point to, or are about
        to be moved to (`DesiredState.upcoming`).
        """
        now = time.time() * 1000
        targets = desired.alias_targets | {version for version, until in desired.upcoming.items() if until > now}
        return frozenset(version for version in targets if self.engine in self._engines_for(version, desired))

    def releasable(self, desired: DesiredState, resident: frozenset[str]) -> frozenset[str]:
        """Returns the resident versions that this engine may unload because other engines hold them instead.

        For each of them, an alias or a canary points to it, its placement has a number of copies, and it is not placed
        on this engine but held by all engines on which it is placed. Leaves out pinned versions and those requested
        here in the last `KEEP_REQUESTED_SECONDS`.
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
        """Announces the version to all lora-servers, and returns when the engines on which it is placed hold it.

        `desired` is called repeatedly and returns the desired state as last read. Returns at once if the placement has
        no number of copies, or 0. Raises Unavailable ("not_warm") after `MAX_WARM_SECONDS`, and as
        `AdapterRegistry.announce_target` does.
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
        """Returns when other engines hold the `resident` versions that are placed by a number of copies, that is, each
        of them is held by all engines on which it is now placed.

        `desired` is as in `wait_until_warm`. Only versions to which an alias or a canary points count. Call it after
        `leaving` was set; it has no time limit.
        """
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
