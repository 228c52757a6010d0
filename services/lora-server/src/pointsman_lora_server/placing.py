"""Which engines hold which versions: decided by every lora-server alike, from what all of them read in Redis."""

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from hashlib import blake2b
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_lora_server.domain import DesiredState, FleetState, Placement

ASKED_FOR = 60.0
"""Seconds that a version stays which somebody had loaded here though it is placed elsewhere: those may be failing."""
PATIENCE = 60.0
"""Seconds until a version must be warm on all engines on which it is placed."""
LOOK = 0.1


class FleetRegistry(Protocol):
    async def fleet(self) -> FleetState: ...
    async def announce(self, version: str, seconds: float) -> None: ...


def engines_for(version: str, placement: Placement, engines: Collection[str]) -> frozenset[str]:
    """The engines that are to hold the version: rendezvous hashing (Thaler and Ravishankar, 1998).

    An engine that goes moves its own versions only, one that comes takes only what becomes its own.
    """
    if placement.copies is None:
        return frozenset(engines)
    ranked = sorted(engines, key=lambda engine: _weight(engine, version), reverse=True)
    return frozenset(ranked[: placement.copies])


def _weight(engine: str, version: str) -> tuple[bytes, str]:
    return blake2b(f"{version}\n{engine}".encode(), digest_size=8).digest(), engine


class PlacementPlanner:
    def __init__(self, registry: FleetRegistry, engine: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`engine`: ours, by the name that no other of this base model has."""
        self.engine = engine
        self.leaves = False
        """Ours is about to go: what is placed on it is placed elsewhere."""
        self._registry = registry
        self._clock = clock
        self._fleet = FleetState()
        self._asked_for: dict[str, float] = {}

    async def look(self) -> None:
        """Who is there, and what they hold. Where Redis is away, as it was."""
        with suppress(Unavailable):
            self._fleet = await self._registry.fleet()

    def asked_for(self, version: str) -> None:
        """Somebody had it loaded here just now."""
        now = self._clock()
        self._asked_for = {name: at for name, at in self._asked_for.items() if now - at < ASKED_FOR}
        self._asked_for[version] = now

    def here(self, desired: DesiredState) -> frozenset[str]:
        """Of what aliases and canaries point to, or soon will, what our engine is to hold."""
        now = time.time() * 1000
        wanted = desired.aimed_at | {version for version, until in desired.coming.items() if until > now}
        return frozenset(version for version in wanted if self.engine in self._engines_of(version, desired))

    def to_let_go(self, desired: DesiredState, resident: frozenset[str]) -> frozenset[str]:
        """What is warm on all engines on which it is placed, and not placed on ours."""
        now, here = self._clock(), self.here(desired) | desired.pins
        asked_for = {name for name, at in self._asked_for.items() if now - at < ASKED_FOR}
        elsewhere = (resident & desired.aimed_at) - here - asked_for
        return frozenset(
            version
            for version in elsewhere
            if desired.placement_of(version).copies and not self._missing(version, desired)
        )

    async def until_warm(self, version: str, desired: Callable[[], DesiredState]) -> None:
        """Returns once all engines on which the version is placed hold it, where it has a number of copies.

        Raises Unavailable ("not_warm") where that takes too long.
        """
        if not desired().placement_of(version).copies:
            return
        await self._registry.announce(version, PATIENCE)
        until = self._clock() + PATIENCE
        while True:
            await self.look()
            missing = self._missing(version, desired())
            if not missing:
                return
            if self._clock() > until:
                raise Unavailable(
                    f"{version} is not warm on {', '.join(sorted(missing))} after {PATIENCE:g} s; the logs of their "
                    "lora-servers say why",
                    code="not_warm",
                    retry_after=5.0,
                )
            await asyncio.sleep(LOOK)

    async def until_others_hold(self, desired: Callable[[], DesiredState], resident: frozenset[str]) -> None:
        """Returns once they hold what they are to hold in our engine's place, or nobody else is there."""
        mine = [version for version in resident & desired().aimed_at if desired().placement_of(version).copies]
        await self.look()
        while any(self._missing(version, desired()) for version in mine):
            await asyncio.sleep(LOOK)
            await self.look()

    def _engines_of(self, version: str, desired: DesiredState) -> frozenset[str]:
        others = self._fleet.holds.keys() - {self.engine}
        return engines_for(version, desired.placement_of(version), others if self.leaves else others | {self.engine})

    def _missing(self, version: str, desired: DesiredState) -> frozenset[str]:
        """The engines that are to hold it, and do not."""
        holds = self._fleet.holds
        return frozenset(
            engine for engine in self._engines_of(version, desired) if version not in holds.get(engine, frozenset())
        )
