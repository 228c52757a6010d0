"""Measures how many documents have changed since an adapter version was trained on them.

The manifest of an adapter version has a `Sketch` (a small sample of hashes) of each collection of documents, made at
training. It is compared with a sketch of the collection's present documents.
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
"""Maximum number of adapter versions whose sketches are cached. If there are more, the cache is emptied first."""

SketchByCollection = Mapping[str, Sketch]


class FreshnessCache:
    """Stores, for each adapter version, the fraction of its documents that have changed since it was trained on them.

    Implements the router's `Freshness`.
    """

    def __init__(self) -> None:
        self._shares: Mapping[str, float] = {}

    def changed_share(self, version: str) -> float:
        """Returns the fraction of documents that changed since the version's training, 0 to 1; 0 if not measured."""
        return self._shares.get(version, 0.0)

    def put(self, shares: Mapping[str, float]) -> None:
        """Replaces all stored values by `shares`: adapter version -> fraction of changed documents, 0 to 1."""
        self._shares = dict(shares)


class Manifests(Protocol):
    """Interface to the adapter versions in use, and to what was stored with each at its training; `Engines` implements
    it.
    """

    def versions_of(self, path: Path) -> Sequence[str]:
        """Returns the adapter versions that requests on the path may use now, the stable one and perhaps a canary.

        Empty if the path has no adapter.
        """
        ...

    async def facts(self, model: str, version: str) -> Mapping[str, str]:
        """Returns the manifest of an adapter version (what was stored with it at its training): name -> text.

        Entries whose names begin with `MANIFEST_KEY_PREFIX` are sketches of collections. Raises the PointsmanError that
        the lora-server of `model` reports, or Unavailable if none can be reached.
        """
        ...


class Collections(Protocol):
    """Interface to the retriever's collections of documents, to see whether they have changed; `RetrieverClient` has
    it.
    """

    async def sketch(self, collection: str) -> Sketch:
        """Returns a small sample of the hashes of the collection's present documents.

        Raises the PointsmanError that the retriever reports, or Unavailable if it cannot be reached.
        """
        ...


@dataclass(frozen=True, slots=True)
class MonitoredPaths:
    paths: Sequence[Path] = ()
    """The paths in the policies of tasks with a `stale` section; those without an adapter are skipped."""
    manifests: Manifests | None = None


class FreshnessMonitor:
    def __init__(self, cache: FreshnessCache, collections: Collections, interval: float = INTERVAL_SECONDS) -> None:
        """Takes the `interval` in seconds between measurements, whose results are stored in `cache`."""
        self.monitored = MonitoredPaths()
        """Replaced by the bootstrap code with each configuration. Without `manifests`, nothing is measured."""
        self._cache = cache
        self._collections = collections
        self._interval = interval
        self._sketches: dict[str, SketchByCollection] = {}
        self._shares: dict[str, float] = {}

    async def run(self) -> None:
        """Calls `measure` at once and then every `interval` seconds, until cancelled."""
        schedule = Schedule(self._interval, run_at_start=True)
        await run_periodically(self.measure, schedule, "measure the freshness of adapters")

    async def measure(self) -> None:
        """Measures for each adapter version of the `monitored` paths how many documents have changed, and stores the
        results.

        The result is the largest fraction of changed documents among the version's collections: 0 to 1, and 0 if its
        manifest has no valid sketch. If the lora-server or the retriever fails, the version keeps its previous result,
        at first 0. Nothing is measured while `monitored.manifests` is None.
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
