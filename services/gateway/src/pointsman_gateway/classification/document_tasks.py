"""Recognizes questions on the documents of tasks, by sketches of the document collections.

A sketch is a sample of the vectors in a collection. Sketches are fetched from the retriever in the background, and no
request waits for them. While the retriever does not answer, the last sketches stay in use; before the first ones have
arrived, requests are classified by the tasks' examples alone.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from pointsman_servicekit.errors import FailedPrecondition, NotFound, PointsmanError
from pointsman_servicekit.process import Schedule, run_periodically

from pointsman_gateway.domain import Path, Scope
from pointsman_gateway.domain.request import UNRESTRICTED
from pointsman_gateway.domain.vector_sketch import VectorSketch

if TYPE_CHECKING:  # not imported by a gateway without tasks, for the sake of its memory
    from pointsman_gateway.classification.document_signals import DocumentSignals
    from pointsman_gateway.classification.model import ClassifierModel

log = logging.getLogger(__name__)

Sketches = Mapping[str, VectorSketch]
"""The sketch of each collection, by the collection's name."""


class SketchSource(Protocol):
    """Interface to the retriever's collections of documents; `RetrieverClient` implements it."""

    async def vector_sketch(self, collection: str, known_checksum: str) -> VectorSketch | None:
        """Returns the current sketch of a collection (a sample of its vectors); None if its checksum is
        `known_checksum`.

        Raises the PointsmanError that the retriever reports, or Unavailable if the retriever cannot be reached.
        """
        ...


class DocumentTasks:
    """The tasks of one configuration whose paths search documents, with the latest sketches of these documents.

    A sketch is a sample of a collection's vectors. Texts are compared with it to recognize requests about documents.
    """

    def __init__(self, paths: Mapping[str, Sequence[Path]], model: "ClassifierModel", fingerprint: str) -> None:
        """Takes the paths that search documents, by task, and the classifier's `model` and encoder's `fingerprint`."""
        searches: dict[str, list[tuple[str, Path]]] = {}
        for task, searching in paths.items():
            for path in searching:
                for collection in path.collections:
                    searches.setdefault(collection, []).append((task, path))
        self._searches = searches
        self._model, self._fingerprint = model, fingerprint
        self.sketches: Sketches = {}
        """The sketches that `use` received last."""
        self.signals: DocumentSignals | None = None
        """The comparison of texts with the documents; `use` replaces it. None while no sketch helps to recognize a
        task.
        """

    @property
    def collections(self) -> Sequence[str]:
        return sorted(self._searches)

    def use(self, sketches: Sketches) -> None:
        """Replaces the sketches (samples of document vectors, by collection). Takes up to a second of CPU time.

        Ignores sketches of collections that no task searches, and sketches whose vectors come from another embedding
        model.
        """
        from pointsman_gateway.classification.document_signals import fit_signals

        used = []
        for name, sketch in sorted(sketches.items()):
            if name in self._searches and sketch.fingerprint != self._fingerprint:
                log.warning("collection '%s' does not help the classifier: it has another embedding model", name)
            elif name in self._searches:
                used.append(sketch)
        searchers = {name: {task for task, _ in searches} for name, searches in self._searches.items()}
        self.sketches, self.signals = sketches, fit_signals(used, searchers, self._model)

    def may_use(self, scope: Scope) -> bool:
        """Returns whether an API key with this scope may search every collection of the tasks.

        Sketches are used only for such keys. A decision shows how similar a text is to the documents, and a key must
        not learn this about documents that it may not read.
        """
        return scope is UNRESTRICTED or all(
            any(scope.denial_reason(task, path) is None for task, path in searches)
            for searches in self._searches.values()
        )


class SketchMonitor:
    """Keeps the sketches of the active configuration's document collections up to date.

    A sketch is a sample of the vectors of a collection, fetched from the retriever.
    """

    def __init__(self, source: SketchSource, interval: float) -> None:
        """Takes the `source` of the sketches, and the `interval` in seconds between checks of the collections."""
        self.watched: DocumentTasks | None = None
        """The tasks whose collections are watched; None for no collection. The bootstrap code sets it with each
        configuration.
        """
        self.sketches: Sketches = {}
        """The latest sketch of each collection. `refresh` replaces the mapping if a collection has changed."""
        self._source = source
        self._interval = interval
        self._failures: dict[str, str] = {}

    async def run(self) -> None:
        """Calls `refresh` at once and then every `interval` seconds, until cancelled."""
        await run_periodically(self.refresh, Schedule(self._interval, run_at_start=True), "fetch document sketches")

    async def refresh(self) -> None:
        """Fetches the sketches of collections that have changed, and passes all sketches to `watched.use`.

        If the retriever fails, a collection keeps its earlier sketch. A collection has no sketch any more if the
        retriever does not know it, or keeps it in an external store, of which it makes no sketches.
        """
        watched = self.watched
        if watched is None:
            return
        found = {name: sketch for name in watched.collections if (sketch := await self._fetch(name)) is not None}
        if found != self.sketches:
            self.sketches = found
        if watched is self.watched and watched.sketches is not self.sketches:
            await asyncio.to_thread(watched.use, self.sketches)

    async def _fetch(self, collection: str) -> VectorSketch | None:
        known = self.sketches.get(collection)
        try:
            fetched = await self._source.vector_sketch(collection, known.checksum if known else "")
        except PointsmanError as error:
            self._log_failure(collection, error.message)
            return None if isinstance(error, NotFound | FailedPrecondition) else known
        self._failures.pop(collection, None)
        return fetched or known

    def _log_failure(self, collection: str, message: str) -> None:
        if self._failures.get(collection) != message:
            self._failures[collection] = message
            log.info("there is no new sketch of collection '%s': %s", collection, message)
