"""Collections in the store that several retrievers share. The store itself searches and changes them, so this process
keeps no index of them.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TypeVar

import numpy as np
from pointsman_servicekit.document_sketch import Sketch, sketch_of
from pointsman_servicekit.errors import FailedPrecondition, NotFound, PointsmanError

from pointsman_retriever import digests
from pointsman_retriever.collections.collection import SearchResult, StepResult
from pointsman_retriever.domain import (
    CollectionId,
    CollectionInfo,
    Document,
    EncodedDocument,
    Quota,
    Vectors,
    parse_search_settings,
)
from pointsman_retriever.events import CollectionSize
from pointsman_retriever.index.bm25 import IDF_EXPONENT, K1, inverse_frequencies, saturations
from pointsman_retriever.index.term_analyzer import TermAnalyzer
from pointsman_retriever.search.ranking import (
    CANDIDATES_PER_SIDE,
    ResolvedQuery,
    ScoredCandidates,
    Stopwatch,
    cosines,
    rank_candidates,
    resolve_fusion,
)
from pointsman_retriever.shared.changes import ChangeStep, PendingChange, to_record
from pointsman_retriever.shared.fail_fast import FailFastStore
from pointsman_retriever.shared.stores import CandidateQuery, Candidates, SharedStore
from pointsman_retriever.store.maintenance import MAX_PROBLEMS, Findings
from pointsman_retriever.store.vector_sketch import VectorSketch, sample_size, sketch_vectors

DOCUMENTS_PER_READ = 200

T = TypeVar("T")
OpenStore = Callable[[], SharedStore]


class SharedDocuments:
    """Reads the documents of one collection in the shared store.

    It has the same methods as `Store`, which reads a collection on disk.
    """

    def __init__(self, collection_id: CollectionId, open_store: OpenStore) -> None:
        self._id = collection_id
        self._open = open_store

    def find_unchanged(self, documents: Sequence[Document], recipes: Sequence[str], source: str) -> set[str]:
        with self._open().reading(self._id) as reader:
            stored = reader.find([document.id for document in documents])
        unchanged = set()
        for document, recipe in zip(documents, recipes, strict=True):
            record = stored.get(document.id)
            digest = digests.hash_document(document.title, document.text, document.metadata)
            if record and (record.digest, record.recipe, record.source) == (digest, recipe, source):
                unchanged.add(document.id)
        return unchanged

    def known_vectors(self, document_id: str) -> Mapping[str, Vectors]:
        with self._open().reading(self._id) as reader:
            stored = reader.document(document_id)
        if stored is None:
            return {}
        return {chunk.embedded_text: vector for chunk, vector in zip(stored.chunks, stored.vectors, strict=True)}

    def ids_of_source(self, source: str) -> list[str]:
        with self._open().reading(self._id) as reader:
            return reader.ids_of_source(source)

    def sketch(self) -> tuple[int, Sketch]:
        with self._open().reading(self._id) as reader:
            return reader.info.version, sketch_of(reader.document_digests())

    def vector_sketch(self, known_checksum: str) -> VectorSketch | None:
        """Returns a sample of the collection's vectors, or None if the checksum of the collection's vectors equals
        `known_checksum`.

        A checksum is 16 hexadecimal digits. A caller passes the checksum of a sample that it already has.
        """
        with self._open().reading(self._id) as reader:
            if f"{reader.info.checksum:016x}" == known_checksum:
                return None
            return sketch_vectors(reader.info, reader.sample_vectors(sample_size(reader.info.dimensions)))


class SharedCollection:
    """A collection in the store that several retrievers share. It has the same methods as Collection, and raises the
    errors of SharedStore.

    `info` is the state that this process has last read; searches and changes use the present state in the store.
    """

    fault = ""

    def __init__(self, info: CollectionInfo, open_store: OpenStore, analyzer: TermAnalyzer) -> None:
        self.info = info
        self.store = SharedDocuments(info.id, open_store)
        self._open = open_store
        self._analyzer = analyzer
        self._changed_at = time.time()

    def search(self, query: ResolvedQuery) -> SearchResult:
        """Searches the version of the collection that is in the shared store now.

        Raises FailedPrecondition ("fingerprint_mismatch") if another embedding model made the collection's vectors, and
        the errors of the shared store.
        """
        stopwatch = Stopwatch()
        with self._open().reading(self.info.id) as reader:
            self._learn(reader.info)
            stopwatch.lap("wait")
            _check_fingerprint(reader.info, query)
            settings = parse_search_settings(reader.info.search_settings)
            parameters = resolve_fusion(query.options, settings)
            terms = self._analyzer.query_terms(query.text)
            found = reader.candidates(
                CandidateQuery(
                    vector=None if parameters.dense_weight == 0.0 else query.vector,
                    terms=terms,
                    by_words=parameters.dense_weight != 1.0,
                    filter=query.filter,
                    count=CANDIDATES_PER_SIDE,
                )
            )
            scored = _score(found, list(terms.values()), query.vector, reader.info.chunks)
            ranking = rank_candidates(scored, query.options, parameters, settings, lambda _: found.documents)
            stopwatch.lap("rank")
            passages = reader.passages(ranking.chunks, query.options.neighbours)
            stopwatch.lap("passages")
        return SearchResult(passages, reader.info.version, ranking.relevance, stopwatch.timings)

    def change(
        self, steps: Sequence[Callable[[ChangeStep], T]], prepared: Sequence[EncodedDocument] = ()
    ) -> list[StepResult[T]]:
        """Makes the changes of several callers in one transaction; returns the result or the PointsmanError of each, in
        order.

        `steps` are functions, each of which makes the changes of one caller. If a step raises a PointsmanError, nothing
        of this step is applied, and the other steps are. `prepared` are the documents that the steps may add: the store
        may write parts of them before it locks the collection. Raises the errors of the shared store.
        """
        done: list[StepResult[T]] = []
        with self._open().changing(self.info.id, prepared) as change:
            pending = PendingChange(change)
            for apply in steps:
                step = pending.step()
                try:
                    result = apply(step)
                    pending.accept(step)
                    done.append(StepResult(result, pending.info))
                except PointsmanError as error:
                    done.append(StepResult(error, pending.info))
            after = pending.finish()
        self._learn(after)
        return [StepResult(one.result, after) for one in done]

    def set_quota(self, quota: Quota) -> CollectionInfo:
        self._learn(self._open().configure(self.info.id, quota=quota))
        return self.info

    def set_search_settings(self, settings: str) -> CollectionInfo:
        self._learn(self._open().configure(self.info.id, search_settings=settings))
        return self.info

    def size(self) -> CollectionSize:
        info = self.info
        age = time.time() - self._changed_at
        return CollectionSize(str(info.id), info.documents, info.chunks, info.bytes, info.chunks, age, False)

    def verify(self) -> Findings:
        """Reads all documents of the collection. Returns each contradiction between the documents, their records, and
        the collection's counts and checksum.
        """
        counts = dict.fromkeys(("documents", "chunks", "bytes", "checksum"), 0)
        problems: list[str] = []
        with self._open().reading(self.info.id) as reader:
            after = ""
            while records := reader.records(after, DOCUMENTS_PER_READ):
                documents = {one.document.id: one for one in reader.documents(after, DOCUMENTS_PER_READ)}
                for document_id, record in records:
                    counts["documents"] += 1
                    counts["chunks"] += record.chunks
                    counts["bytes"] += record.bytes
                    counts["checksum"] ^= record.checksum
                    document = documents.get(document_id)
                    if document is None or to_record(document) != record:
                        problems.append(f"document {document_id!r} or its chunks do not match its record")
                after = records[-1][0]
            info = reader.info
        for what, actual in counts.items():
            if actual != getattr(info, what):
                problems.append(f"the recorded {what} is {getattr(info, what)}, and the documents give {actual}")
        return Findings(info, tuple(problems[:MAX_PROBLEMS]))

    def _learn(self, info: CollectionInfo) -> None:
        if info.version != self.info.version:
            self._changed_at = time.time()
        self.info = info


class SharedCollections:
    """The collections of the shared store that this process has read. Methods block; any thread may call them."""

    def __init__(self, connect: OpenStore) -> None:
        """Takes the function `connect`, which opens the store. It is called at the first use of the store; if it fails,
        it is called again at the next use.
        """
        self._store = FailFastStore(connect)
        self._lock = threading.Lock()
        self._reads = count(1)
        self._latest_read = 0  # the number of the one to which `known` belongs
        self._analyzer = TermAnalyzer()
        self.problem = ""
        self.known: Mapping[CollectionId, SharedCollection] = {}  # replaced, never changed in place

    def open(self) -> SharedStore:
        """Returns the store, which connects at its first call."""
        return self._store

    def refresh(self) -> None:
        """Reads the list of collections and their states from the store. Raises Unavailable ("store_unavailable") if
        the store fails.
        """
        read = next(self._reads)
        try:
            infos = self.open().collections()
        except PointsmanError as error:
            self.problem = error.message
            raise
        self.problem = ""
        with self._lock:
            if read < self._latest_read:  # a read that began later has ended before, and has all that this one has
                return
            self._latest_read = read
            known = {}
            for info in infos:
                one = known[info.id] = self.known.get(info.id) or SharedCollection(info, self.open, self._analyzer)
                one._learn(info)
            self.known = known

    def create(self, info: CollectionInfo) -> CollectionInfo:
        """Creates a collection in the shared store; returns its state.

        If another retriever has just created a collection with this id, returns the state of that collection.
        """
        self.open().create(info)
        self.refresh()
        found = self.known.get(info.id)
        if found is None:
            raise NotFound(
                f"collection {str(info.id)!r} was deleted at once by another retriever", code="unknown_collection"
            )
        return found.info

    def drop(self, collection_id: CollectionId) -> bool:
        """Deletes a collection of the shared store; returns whether there was one."""
        dropped = self.open().drop(collection_id)
        self.refresh()
        return dropped

    def close(self) -> None:
        self._store.close()


def _check_fingerprint(info: CollectionInfo, query: ResolvedQuery) -> None:
    if query.fingerprint != info.fingerprint:
        raise FailedPrecondition(
            f"collection {str(info.id)!r} now uses embedding model {info.fingerprint}, and the query's vector was made "
            f"by {query.fingerprint}",
            code="fingerprint_mismatch",
            param="collection",
        )


def _score(found: Candidates, repeats: Sequence[int], vector: Vectors, chunks: int) -> ScoredCandidates:
    """Computes the scores of `found`: cosines, BM25, and the share of the query's words that each chunk contains.

    `repeats` is how often the query has each term, `vector` the query's vector, and `chunks` the number of chunks of
    the collection. The formulas are those of `WordIndex.score`.
    """
    idf = inverse_frequencies(chunks, found.frequencies)
    share = np.array(repeats, np.float64) * idf
    weight = np.array(repeats, np.float64) * idf**IDF_EXPONENT * (K1 + 1.0)
    saturation = saturations(found.lengths, found.words, chunks)[:, None]
    counts = found.counts.astype(np.float64)
    total = float(share.sum())
    return ScoredCandidates(
        ids=found.ids,
        vectors=found.vectors,
        dense=cosines(found.vectors, vector),
        sparse=(counts / (counts + saturation)) @ weight,
        coverage=((counts > 0) @ share) / total if total else np.zeros(len(found.ids)),
    )
