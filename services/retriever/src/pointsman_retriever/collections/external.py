"""Searches a collection in an external store: by meaning if the collection has vectors, by words if the store can."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, PointsmanError, Unavailable

from pointsman_retriever.collections.collection import SearchResult
from pointsman_retriever.domain import (
    EXTERNAL,
    CollectionId,
    CollectionInfo,
    Explanation,
    Passage,
    Relevance,
    SearchSettings,
)
from pointsman_retriever.external.stores import ExternalFields, ExternalStore, Hit, Layout
from pointsman_retriever.index.term_analyzer import TermAnalyzer
from pointsman_retriever.search.fusion import RRF_K
from pointsman_retriever.search.ranking import CANDIDATES_PER_SIDE, ResolvedQuery, Stopwatch

log = logging.getLogger(__name__)

RECHECK_SECONDS = 60.0
"""An ExternalCollection reads the store's layout (dimensions, number of documents) again if it is older than this."""
RETRY_SECONDS = 1.0
"""Minimum `retry_after`, in seconds, of the error that a search raises after its external store has failed."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    hit: Hit
    dense_rank: int = 0
    dense: float = 0.0
    sparse_rank: int = 0
    sparse: float = 0.0


class ExternalCollection:
    """A read-only collection in a store of the user's, such as Qdrant or Elasticsearch.

    The results by meaning and by words are combined by reciprocal rank fusion. All methods block, and may be called
    from any thread.
    """

    def __init__(
        self,
        collection_id: CollectionId,
        fields: ExternalFields,
        connect: Callable[[], ExternalStore],
        fingerprint: str,
    ) -> None:
        """Takes `connect`, which opens the store at the first search, and the names of the passages' `fields` in it.

        `fingerprint` identifies the model that embeds queries.
        """
        self._id, self._fields, self._connect, self._fingerprint = collection_id, fields, connect, fingerprint
        self._store: ExternalStore | None = None
        self._layout = Layout(0, has_words=False)
        self._checked = -RECHECK_SECONDS
        self._problem = "it has not been searched yet"
        self._paused_until = 0.0
        self._lock = threading.Lock()
        self._analyzer = TermAnalyzer()

    @property
    def info(self) -> CollectionInfo:
        layout = self._layout
        return CollectionInfo(
            self._id.name,
            self._fingerprint,
            layout.dimensions,
            layout.documents,
            layout.documents,
            tenant=self._id.tenant,
            store=EXTERNAL,
        )

    @property
    def problem(self) -> str:
        """Returns why the last search failed, or that there was no search yet; empty if the last search succeeded.

        A search that is refused because it has a filter does not change this.
        """
        return self._problem

    def search(self, query: ResolvedQuery) -> SearchResult:
        """Searches the external store; ignores the query's fusion method, diversity and neighbours.

        Leaves out hits without an id, a finite score or a text. The result's version is 0. Raises InvalidArgument
        ("filter_not_supported") if the query has a filter, FailedPrecondition if the store lacks the collection, a
        field, or both vectors and a ranking by words ("store_mismatch"), or has vectors of other dimensions
        ("wrong_dimensions"), and Unavailable ("store_unavailable") if the store fails. After the store has failed,
        searches raise Unavailable at once, for as long as the failed search took.
        """
        if query.filter is not None:
            raise InvalidArgument(
                f"collection '{self._id}' is read from an external store, where no filter is supported; leave it out",
                code="filter_not_supported",
                param="where",
            )
        stopwatch, started = Stopwatch(), time.monotonic()
        try:
            store, layout = self._checked_store()
            self._check_dimensions(layout, len(query.vector))
            weight = _dense_weight(query.options.dense_weight, layout)
            dense = self._usable(store.by_meaning(query.vector, CANDIDATES_PER_SIDE)) if weight > 0 else []
            sparse = self._usable(store.by_words(query.text, CANDIDATES_PER_SIDE)) if weight < 1 else []
        except PointsmanError as error:
            self._problem = error.message
            raise
        except Exception as error:  # whatever a client library raises
            raise self._pause(error, time.monotonic() - started) from error
        self._paused_until, self._problem = 0.0, ""
        stopwatch.lap("rank")
        best = self._fused(dense, sparse, weight)
        relevance = self._relevance(query.text, best)
        passages = tuple(self._passage(one, weight) for one in best)
        kept = _limited(passages, query.options.per_document)[: query.options.top_k]
        stopwatch.lap("passages")
        return SearchResult(kept, 0, relevance, stopwatch.timings)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def _pause(self, error: Exception, seconds: float) -> Unavailable:
        """Makes searches fail at once for the next `seconds`, so that not all of them wait for a store that hangs.

        `seconds` is how long the search took that has failed with `error`. Returns the error to raise.
        """
        with self._lock:
            self._checked, self._paused_until = -RECHECK_SECONDS, time.monotonic() + seconds
            self._problem = f"{type(error).__name__}: {error}"[:500]
        return self._unavailable(seconds)

    def _unavailable(self, seconds: float) -> Unavailable:
        return Unavailable(
            f"the store of collection '{self._id}' failed: {self._problem}",
            code="store_unavailable",
            retry_after=max(seconds, RETRY_SECONDS),
        )

    def _checked_store(self) -> tuple[ExternalStore, Layout]:
        with self._lock:
            paused = self._paused_until - time.monotonic()
            if paused > 0:
                raise self._unavailable(paused)
            if self._store is None:
                self._store = self._connect()
            if time.monotonic() - self._checked >= RECHECK_SECONDS:
                self._layout = self._read_layout(self._store)
                self._checked = time.monotonic()
            return self._store, self._layout

    def _read_layout(self, store: ExternalStore) -> Layout:
        try:
            return store.read_layout()
        except LookupError as error:
            message = f"collection '{self._id}': {error.args[0] if error.args else error}"
            raise FailedPrecondition(message, code="store_mismatch", param="collections") from error

    def _check_dimensions(self, layout: Layout, dimensions: int) -> None:
        if layout.dimensions and layout.dimensions != dimensions:
            raise FailedPrecondition(
                f"the vectors of collection '{self._id}' have {layout.dimensions} dimensions, and the embedding model "
                f"{self._fingerprint!r} makes {dimensions}; run the retriever with the model that made them",
                code="wrong_dimensions",
                param="collections",
            )
        if not layout.dimensions and not layout.has_words:
            raise FailedPrecondition(
                f"collection '{self._id}' has neither vectors nor a ranking by words, and so cannot be searched",
                code="store_mismatch",
            )

    def _usable(self, hits: Sequence[Hit]) -> list[Hit]:
        """Returns the hits that have an id, a finite score and a text; logs a warning if others are left out."""
        usable = [hit for hit in hits if self._is_usable(hit)]
        if len(usable) < len(hits):
            log.warning(
                "collection '%s': %d of %d hits of its store have no id, no score or no text and are left out",
                self._id,
                len(hits) - len(usable),
                len(hits),
            )
        return usable

    def _is_usable(self, hit: Hit) -> bool:
        try:
            return bool(hit.id) and isfinite(hit.score) and bool(self._text_of(hit))
        except (TypeError, AttributeError):  # null instead of a number or of an object
            return False

    def _text_of(self, hit: Hit) -> str:
        return _to_text(hit.fields.get(self._fields.text))

    def _fused(self, dense: Sequence[Hit], sparse: Sequence[Hit], weight: float) -> list[_Candidate]:
        found = {hit.id: _Candidate(hit, rank, hit.score) for rank, hit in enumerate(dense, 1)}
        for rank, hit in enumerate(sparse, 1):
            other = found.get(hit.id, _Candidate(hit))
            found[hit.id] = _Candidate(other.hit, other.dense_rank, other.dense, rank, hit.score)
        return sorted(found.values(), key=lambda one: -sum(_parts(one, weight)))

    def _relevance(self, text: str, found: Sequence[_Candidate]) -> Relevance:
        """Decides whether the passages are relevant to the query `text`: the best cosine similarity, or the largest
        share of the query's words in one passage, must reach the default thresholds of `SearchSettings`.

        All words count alike, since the store does not say how rare they are.
        """
        best_dense = max((one.dense for one in found), default=0.0)
        terms = self._analyzer.query_terms(text).keys()
        texts = [self._text_of(one.hit) for one in found if one.sparse_rank]
        shares = [len(terms & self._analyzer.document_terms(text).keys()) / len(terms) for text in texts if terms]
        coverage, thresholds = max(shares, default=0.0), SearchSettings()
        relevant = best_dense >= thresholds.least_dense or coverage >= thresholds.least_coverage
        return Relevance(relevant and bool(found), best_dense, coverage)

    def _passage(self, one: _Candidate, weight: float) -> Passage:
        fields, hit = self._fields, one.hit
        text = self._text_of(hit)
        title = _to_text(hit.fields.get(fields.title)) if fields.title else ""
        source = hit.fields.get(fields.source) if fields.source else None
        dense_part, sparse_part = _parts(one, weight)
        return Passage(
            document_id=_to_text(source) or _to_text(hit.id),
            title=title,
            text=text,
            start=0,
            end=len(text),
            metadata={name: _to_text(hit.fields[name]) for name in fields.metadata if hit.fields.get(name) is not None},
            score=min(dense_part + sparse_part, 1.0),
            dense_score=one.dense,
            sparse_score=one.sparse,
            explanation=Explanation(one.dense_rank, one.sparse_rank, weight, dense_part, sparse_part, 0.0),
        )


def _dense_weight(wanted: float | None, layout: Layout) -> float:
    """Returns the weight of the ranking by meaning, 0 to 1.

    It is 1 if the store does not rank by words, 0 if it has no vectors, and else `wanted`, or 0.5 if that is None.
    """
    if not layout.has_words:
        return 1.0
    if not layout.dimensions:
        return 0.0
    return 0.5 if wanted is None else wanted


def _parts(one: _Candidate, weight: float) -> tuple[float, float]:
    """Returns a passage's score by meaning and its score by words; a score is 0 if its ranking lacks the passage.

    `weight`, 0 to 1, multiplies the score by meaning, and 1 - `weight` the score by words. The first passage of both
    rankings has the sum 1.
    """
    dense = weight * (RRF_K + 1) / (RRF_K + one.dense_rank) if one.dense_rank else 0.0
    sparse = (1 - weight) * (RRF_K + 1) / (RRF_K + one.sparse_rank) if one.sparse_rank else 0.0
    return dense, sparse


def _limited(passages: Sequence[Passage], per_document: int) -> tuple[Passage, ...]:
    """Keeps at most `per_document` passages of each document; 0 keeps all."""
    counts: dict[str, int] = {}
    kept = []
    for passage in passages:
        counts[passage.document_id] = counts.get(passage.document_id, 0) + 1
        if not per_document or counts[passage.document_id] <= per_document:
            kept.append(passage)
    return tuple(kept)


ExternalCollections = Mapping[CollectionId, ExternalCollection]


def read_only(collection_id: CollectionId) -> FailedPrecondition:
    return FailedPrecondition(
        f"collection '{collection_id}' is read from an external store; this retriever does not write to it",
        code="read_only_collection",
        param="collection",
    )


def _to_text(value: Any) -> str:
    """Returns a value as a text that can be encoded in UTF-8; empty for None."""
    return "" if value is None else str(value).encode(errors="replace").decode()
