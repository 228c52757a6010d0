"""One collection at work: its index in memory, kept in step with its rows on the disk."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from pointsman_servicekit.errors import FailedPrecondition, Internal, NotFound, PointsmanError, Unavailable

from pointsman_retriever.clock import Stopwatch
from pointsman_retriever.domain import (
    ChunkDelta,
    CollectionId,
    CollectionInfo,
    IndexedChunks,
    Passage,
    Quota,
    Relevance,
)
from pointsman_retriever.facts import CollectionSize
from pointsman_retriever.gate import RWLock
from pointsman_retriever.index.contents import CompactedParts, IndexSnapshot
from pointsman_retriever.search import ResolvedQuery, SearchSettings, parse_search_settings, rank
from pointsman_retriever.store import checking, looking
from pointsman_retriever.store.change import Change, Transaction
from pointsman_retriever.store.sqlite import Store

log = logging.getLogger(__name__)

KEPT_SNAPSHOTS = (
    3  # moments: a search that began before a change finds its own, also when another change follows at once
)

MAX_SNAPSHOT_RETRIES = 100  # of a search, to find a moment that goes with what the disk shows

T = TypeVar("T")


SnapshotFactory = Callable[[CollectionInfo], IndexSnapshot]  # empty ones


@dataclass(frozen=True, slots=True)
class SearchResult:
    passages: tuple[Passage, ...]  # best first
    version: int  # of the collection that has them
    relevance: Relevance
    legs: Mapping[str, float]  # seconds


@dataclass(frozen=True, slots=True)
class StepResult(Generic[T]):
    """What became of one caller's step, and the collection right after it."""

    result: T | PointsmanError
    collection: CollectionInfo


class Collection:
    """A search sees the collection before a change or after it, on both sides alike, and never between.

    All methods block. Changes come from one thread, searches from any.
    """

    def __init__(self, store: Store, make_contents: SnapshotFactory) -> None:
        self.store = store
        self.collection = store.collection()
        self.changed_at = time.time()
        self._make_contents = make_contents
        self._moments = {self.collection.version: make_contents(self.collection)}  # by version; replaced as a whole
        self._gate = RWLock()
        self._closed = False
        self.fault = ""  # why the index cannot be searched
        self._since: list[ChunkDelta] | None = None  # while the index is tidied: what has changed meanwhile

    def load(self) -> None:
        """Fills the empty index from the disk, and checks both; raises Internal where the store is damaged."""
        checking.quick_check(self.store)
        self.reload()

    def search(self, question: ResolvedQuery) -> SearchResult:
        """Raises NotFound, FailedPrecondition, Unavailable."""
        clock = Stopwatch()
        with self._gate.looking():
            self._check_searchable(question)
            for _ in range(MAX_SNAPSHOT_RETRIES):
                with self.store.looking() as look:
                    contents = self._moments.get(look.version)
                    if contents is None:
                        continue  # several changes have come between the two lines above
                    clock.lap("wait")
                    ranking = rank(contents, question, self._standard)
                    clock.lap("rank")
                    passages = look.passages(ranking.ranked, question.wishes.neighbours)
                    clock.lap("passages")
                return SearchResult(passages, look.version, ranking.relevance, clock.laps)
        raise Unavailable(
            f"collection {str(self.collection.id)!r} changes too quickly to be searched; come again",
            code="collection_busy",
            retry_after=0.1,
        )

    def change(self, steps: Sequence[Callable[[Change], T]]) -> list[StepResult[T]]:
        """Several callers' steps with one wait for the disk; each is whole or fails alone. On the disk first.

        Raises what the disk says, and then none of the steps was kept.
        """
        if self._closed:
            raise unknown_collection(self.collection.id)
        with self.store.changing() as transaction:
            done: list[StepResult[T]] = []
            for step in steps:
                try:
                    with transaction.step() as change:
                        result = step(change)
                    done.append(StepResult(result, transaction.collection))
                except PointsmanError as error:
                    done.append(StepResult(error, transaction.collection))
            transaction.close()
            if transaction.collection.version == self.collection.version:
                transaction.commit()  # at most a document's source was noted
                return done
            # The next moment is ready before anybody can see its version on the disk: no search waits for it.
            delta = transaction.delta
            self._keep(transaction.collection.version, self._following(delta, transaction))
            self.collection = transaction.commit()
            if self._since is not None:
                self._since.append(delta)
        self.changed_at = time.time()
        self.store.checkpoint()
        return done

    def configure(self, quota: Quota) -> CollectionInfo:
        self._check_closed()
        self.collection = self.store.configure(quota)
        return self.collection

    def configure_search(self, settings: str) -> CollectionInfo:
        """`settings` are a Standard in JSON."""
        self._check_closed()
        self.collection = self.store.set_search(settings)
        return self.collection

    def replace_by(self, swap: Callable[[], Store]) -> None:
        """Puts another store in this one's place while nobody looks: `swap` closes the old one and opens the new."""
        with self._gate.changing():
            try:
                self.store = swap()
                self.collection = self.store.collection()
                self.reload()
            except BaseException as error:
                self.fault = f"it was being replaced: {error}"
                raise

    def migrate(self, swap: Callable[[sqlite3.Connection, CollectionInfo], CollectionInfo | None]) -> bool:
        """Changes all chunks at once, if `swap` does; their index is made before anybody sees either."""
        with self.store.connections.transaction() as writer:
            after = swap(writer, self.collection)
            if after is None:
                return False
            contents = self._filled(after, looking.read_all_chunks(writer))
            with self._gate.changing():
                writer.execute("COMMIT")
                self._put_in_place(after, contents)
        self.changed_at = time.time()
        return True

    def reload(self) -> None:
        """Fills a new index from the disk, while nobody looks; for the thread that writes."""
        self._put_in_place(self.collection, self._filled(self.collection, self.store.entries()))

    def refresh(self) -> None:
        """Fills a new index from the disk, beside the one that serves; for the thread that writes."""
        contents = self._filled(self.collection, self.store.entries())
        with self._gate.changing():
            self._put_in_place(self.collection, contents)

    @property
    def wants_tidying(self) -> bool:
        return self._since is None and self._contents.wants_tidying

    def begin_tidying(self) -> Callable[[], CompactedParts]:
        """What takes long, for any thread; for the thread that writes, as is `end_tidying`."""
        self._since = []
        return self._contents.tidied

    def end_tidying(self, tidied: CompactedParts) -> None:
        """Brings what was tidied to where the shelf is by now, and puts it in the old parts' place."""
        if self._since is None:
            return  # others were put in place meanwhile
        for delta in self._since:
            tidied = tidied.after(delta)
        self._since = None
        self._keep(self.collection.version, self._contents.having(tidied))

    def give_up_tidying(self) -> None:
        self._since = None

    def size(self) -> CollectionSize:
        held = self.collection
        return CollectionSize(
            name=str(held.id),
            documents=held.documents,
            chunks=held.chunks,
            bytes=held.bytes,
            index_vectors=self._contents.vectors.count,
            index_age=time.time() - self.changed_at,
            is_inconsistent=bool(self.fault),
        )

    def checking(self) -> checking.Findings:
        """Reads everything; the store and the index as they are at one moment each."""
        with self._gate.looking():
            self._check_closed()
            differences = self._contents.differences(self.collection)
        return checking.check_all(self.store).joined(differences)

    def close(self) -> None:
        """Waits for those who look; who comes later is told that there is no such collection."""
        with self._gate.changing():
            self._closed = True
            self._contents.close()
            self.store.close()

    @property
    def _contents(self) -> IndexSnapshot:
        return self._moments[self.collection.version]

    @property
    def _standard(self) -> SearchSettings:
        return parse_search_settings(self.collection.search)

    def _keep(self, version: int, contents: IndexSnapshot) -> None:
        others = [moment for moment in self._moments if moment != version][1 - KEPT_SNAPSHOTS :]
        self._moments = {**{moment: self._moments[moment] for moment in others}, version: contents}

    def _following(self, delta: ChunkDelta, transaction: Transaction) -> IndexSnapshot:
        """What memory holds once the transaction is committed."""
        try:
            return self._contents.after(delta)
        except Exception:
            log.exception("the index of %s could not follow a change; making it anew", self.collection.id)
            return self._filled(transaction.collection, transaction.entries())

    def _put_in_place(self, collection: CollectionInfo, contents: IndexSnapshot) -> None:
        list(self._moments.values())[-1].close()
        self.collection, self._moments = collection, {collection.version: contents}
        self.fault, self._since = "", None

    def _filled(self, collection: CollectionInfo, held: Iterable[IndexedChunks]) -> IndexSnapshot:
        """Raises Internal where the vectors are not what the collection's row says."""
        contents = self._make_contents(collection)
        nothing = np.empty(0, np.int64)
        for entries in held:
            contents = contents.after(ChunkDelta(nothing, entries))
        contents = contents.having(contents.tidied())
        if differences := contents.differences(collection):
            raise Internal(
                f"collection {str(collection.id)!r} is damaged: {'; '.join(differences)}; restore its last snapshot",
                code="collection_damaged",
            )
        return contents

    def _check_searchable(self, question: ResolvedQuery) -> None:
        self._check_closed()
        if self.fault:
            raise Unavailable(
                f"collection {str(self.collection.id)!r} cannot be searched: {self.fault}",
                code="collection_inconsistent",
                retry_after=5.0,
            )
        if question.fingerprint != self.collection.fingerprint:  # restored since the query came in
            raise FailedPrecondition(
                f"collection {str(self.collection.id)!r} is of embedding model {self.collection.fingerprint} by now, "
                f"and the query's vector of {question.fingerprint}",
                code="fingerprint_mismatch",
                param="collection",
            )

    def _check_closed(self) -> None:
        if self._closed:
            raise unknown_collection(self.collection.id)


def unknown_collection(collection: CollectionId) -> NotFound:
    return NotFound(
        f"there is no collection {str(collection)!r}; CreateCollection makes one",
        code="unknown_collection",
        param="collection",
    )
