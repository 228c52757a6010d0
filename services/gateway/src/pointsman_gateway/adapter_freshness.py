"""Measures which fraction of the documents has changed since an adapter version was trained on them.

At training, a sample of hashes (`Sketch`) of each collection of documents is stored in the manifest of the adapter
version. This module compares it with a sketch of the collection's present documents.
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
"""Maximum number of adapter versions whose sketches are cached. Before another version is added, the cache is
emptied."""

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
    """Interface through which the monitor gets the adapter versions in use, and the facts that were stored with each
    version at its training. `Engines` implements it.
    """

    def versions_of(self, path: Path) -> Sequence[str]:
        """Returns the adapter versions that may answer requests on the path now: the stable version and, if there is
        one, the canary (a new version on trial).

        Empty if the path has no adapter.
        """
        ...

    async def facts(self, model: str, version: str) -> Mapping[str, str]:
        """Returns the manifest of an adapter version: the facts that were stored with the version at its training, as
        name -> text.

        Entries whose names begin with `MANIFEST_KEY_PREFIX` are sketches of collections. Raises the PointsmanError that
        the lora-server of `model` reports, or Unavailable if no lora-server of the model can be reached.
        """
        ...


class Collections(Protocol):
    """Interface through which the monitor samples the retriever's collections of documents. `RetrieverClient`
    implements it.
    """

    async def sketch(self, collection: str) -> Sketch:
        """Returns a small sample of the hashes of the collection's present documents.

        Raises the PointsmanError that the retriever reports, or Unavailable if the retriever cannot be reached.
        """
        ...


@dataclass(frozen=True, slots=True)
class MonitoredPaths:
    paths: Sequence[Path] = ()
    """The paths in the policies of all tasks that have a `stale` section. Paths without an adapter are not measured."""
    manifests: Manifests | None = None


class FreshnessMonitor:
    def __init__(self, cache: FreshnessCache, collections: Collections, interval: float = INTERVAL_SECONDS) -> None:
        """Takes the `cache` in which the results are stored, and the `interval` in seconds between measurements."""
        self.monitored = MonitoredPaths()
        """What to measure. The bootstrap code sets it for each configuration. If its `manifests` is None, nothing is
        measured."""
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
        """Measures for each adapter version of the `monitored` paths which fraction of its documents has changed, and
        stores the results.

        The result is 0 to 1: the largest fraction among the version's collections, or 0 if the version's manifest has
        no valid sketch. If the lora-server or the retriever fails, the version keeps its previous result, at first 0.
        Nothing is measured while `monitored.manifests` is None.
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
