"""Measures which fraction of the documents that an adapter version was trained on has changed since.

An adapter's manifest has a `Sketch` (a small sample of hashes of the documents) of each collection at the time of the
training; it is compared with the present one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman_servicekit.document_sketch import MANIFEST_KEY_PREFIX, Sketch, changed_share, parse_sketch
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.process import Schedule, run_periodically

from pointsman_gateway.domain import Path

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 15.0
MAX_MANIFESTS = 256
"""Manifests that are cached; they never change."""

SketchByCollection = Mapping[str, Sketch]


class FreshnessCache:
    """The fraction of changed documents by adapter version; implements the router's `Freshness`."""

    def __init__(self) -> None:
        self._shares: Mapping[str, float] = {}

    def changed_share(self, version: str) -> float:
        """Returns the fraction of changed documents for an adapter version, 0 to 1; 0 if it was not measured."""
        return self._shares.get(version, 0.0)

    def put(self, shares: Mapping[str, float]) -> None:
        """Replaces the fractions of changed documents (0 to 1) of all adapter versions."""
        self._shares = dict(shares)


class Manifests(Protocol):
    """Reads adapter manifests from a lora-server."""

    def versions_of(self, path: Path) -> Sequence[str]:
        """Returns the versions that requests on the path may use now: those of its adapter's alias, canary included."""
        ...

    async def facts(self, model: str, version: str) -> Mapping[str, str]:
        """Returns the facts in the manifest of an adapter version; raises PointsmanError."""
        ...


class Collections(Protocol):
    async def sketch(self, collection: str) -> Sketch:
        """Returns a sample of the hashes of a collection's present documents; raises PointsmanError."""
        ...


@dataclass(frozen=True, slots=True)
class MonitoredPaths:
    paths: Sequence[Path] = ()
    """Paths with adapters, of tasks with a `stale` section."""
    manifests: Manifests | None = None


class FreshnessMonitor:
    def __init__(self, cache: FreshnessCache, collections: Collections, interval: float = INTERVAL_SECONDS) -> None:
        """Measures every `interval` seconds, and stores the fractions of changed documents in `cache`."""
        self.monitored = MonitoredPaths()
        """Replaced with each configuration."""
        self._cache = cache
        self._collections = collections
        self._interval = interval
        self._sketches: dict[str, SketchByCollection] = {}
        self._shares: dict[str, float] = {}

    async def run(self) -> None:
        """Measures at an interval until cancelled; a version that cannot be measured keeps its previous fraction."""
        schedule = Schedule(self._interval, run_at_start=True)
        await run_periodically(self.measure, schedule, "measure the freshness of adapters")

    async def measure(self) -> None:
        """Measures once the fraction of changed documents of each monitored version, that of its worst collection, and
        replaces the cache's content by the results. A version that cannot be measured keeps its previous fraction.
        """
        monitored, found = self.monitored, dict[str, float]()
        if monitored.manifests is None:
            return
        for path in monitored.paths:
            for version in monitored.manifests.versions_of(path):
                found[version] = await self._share(monitored.manifests, path.model, version)
        self._log_changes(found)
        self._shares = found
        self._cache.put(found)

    async def _share(self, manifests: Manifests, model: str, version: str) -> float:
        try:
            before = await self._sketches_of(manifests, model, version)
            shares = [changed_share(was, await self._collections.sketch(name)) for name, was in before.items()]
        except PointsmanError as error:
            log.info("the freshness of %s cannot be measured now: %s", version, error.message)
            return self._shares.get(version, 0.0)
        return max(shares, default=0.0)

    async def _sketches_of(self, manifests: Manifests, model: str, version: str) -> SketchByCollection:
        sketches = self._sketches.get(version)
        if sketches is None:
            facts = await manifests.facts(model, version)
            if len(self._sketches) >= MAX_MANIFESTS:
                self._sketches.clear()
            sketches = self._sketches[version] = {
                name.removeprefix(MANIFEST_KEY_PREFIX): sketch
                for name, text in facts.items()
                if name.startswith(MANIFEST_KEY_PREFIX) and (sketch := _parse(version, text)) is not None
            }
        return sketches

    def _log_changes(self, found: Mapping[str, float]) -> None:
        for version, share in found.items():
            if round(share, 2) != round(self._shares.get(version, 0.0), 2):
                log.info("%.0f %% of the documents have changed since the training of %s", share * 100, version)


def _parse(version: str, text: str) -> Sketch | None:
    try:
        return parse_sketch(text)
    except ValueError as error:
        log.warning("the manifest of %s has an invalid sketch: %s", version, error)
        return None
