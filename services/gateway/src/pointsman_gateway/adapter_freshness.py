"""What is known now of how much has changed under each adapter version; reading it costs nothing."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman_servicekit.document_sketches import MANIFEST_KEY_PREFIX, Sketch, changed_share, parse_sketch
from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import Path


class FreshnessCache:
    """Implements the router's `Freshness`."""

    def __init__(self) -> None:
        self._shares: Mapping[str, float] = {}

    def changed_share(self, version: str) -> float:
        """Of its topic's documents, since it was trained; 0 where nothing is known."""
        return self._shares.get(version, 0.0)

    def put(self, shares: Mapping[str, float]) -> None:
        """Of all versions that are watched."""
        self._shares = dict(shares)


log = logging.getLogger(__name__)

INTERVAL_S = 15.0
"""Seconds between two looks."""
MAX_MANIFESTS = 256
"""Manifests that are kept in mind; they never change."""

SketchByCollection = Mapping[str, Sketch]
"""By collection."""


class Manifests(Protocol):
    """Knows the versions that a path's adapter means now, and what was noted at their making."""

    def versions_of(self, path: Path) -> Sequence[str]: ...

    async def facts(self, model: str, version: str) -> Mapping[str, str]:
        """Raises PointsmanError."""
        ...


class Collections(Protocol):
    async def sketch(self, collection: str) -> Sketch:
        """As it is now. Raises PointsmanError."""
        ...


@dataclass(frozen=True, slots=True)
class MonitoredPaths:
    """What one generation of the configuration wants looked at."""

    paths: Sequence[Path] = ()
    """With adapters, of tasks that say what is to be done where they are stale."""
    manifests: Manifests | None = None


class FreshnessMonitor:
    def __init__(self, board: FreshnessCache, collections: Collections, period: float = INTERVAL_S) -> None:
        self.watched = MonitoredPaths()
        """Each generation of the configuration puts its own here."""
        self._board = board
        self._collections = collections
        self._period = period
        self._known: dict[str, SketchByCollection] = {}
        self._shares: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled. Nobody's failure ends it: what was known before goes on being known."""
        while True:
            try:
                await self.look()
            except Exception:  # whatever it is, the next look must come
                log.exception("the adapters' freshness cannot be looked at")
            await asyncio.sleep(self._period)

    async def look(self) -> None:
        """Once, at everything."""
        watched, found = self.watched, dict[str, float]()
        if watched.manifests is None:
            return
        for path in watched.paths:
            for version in watched.manifests.versions_of(path):
                found[version] = await self._share(watched.manifests, path.model, version)
        self._tell(found)
        self._shares = found
        self._board.put(found)

    async def _share(self, manifests: Manifests, model: str, version: str) -> float:
        try:
            then = await self._then(manifests, model, version)
            shares = [changed_share(was, await self._collections.sketch(name)) for name, was in then.items()]
        except PointsmanError as error:
            log.info("how fresh %s is cannot be said now: %s", version, error.message)
            return self._shares.get(version, 0.0)
        return max(shares, default=0.0)

    async def _then(self, manifests: Manifests, model: str, version: str) -> SketchByCollection:
        known = self._known.get(version)
        if known is None:
            facts = await manifests.facts(model, version)
            if len(self._known) >= MAX_MANIFESTS:
                self._known.clear()
            known = self._known[version] = {
                name.removeprefix(MANIFEST_KEY_PREFIX): sketch
                for name, text in facts.items()
                if name.startswith(MANIFEST_KEY_PREFIX) and (sketch := _sketch(version, text)) is not None
            }
        return known

    def _tell(self, found: Mapping[str, float]) -> None:
        for version, share in found.items():
            if round(share, 2) != round(self._shares.get(version, 0.0), 2):
                log.info("%.0f %% of the documents have changed since %s was trained", share * 100, version)


def _sketch(version: str, text: str) -> Sketch | None:
    try:
        return parse_sketch(text)
    except ValueError as error:
        log.warning("the manifest of %s: %s", version, error)
        return None
