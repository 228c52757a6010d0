"""A loaded collection: its file on disk and its index snapshots, which are kept consistent with the file."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from pointsman_servicekit.errors import FailedPrecondition, Internal, NotFound, PointsmanError, Unavailable

from pointsman_retriever.concurrency import RWLock
from pointsman_retriever.domain import (
    ChunkDelta,
    CollectionId,
    CollectionInfo,
    IndexedChunks,
    Passage,
    Quota,
    Relevance,
    SearchSettings,
    parse_search_settings,
)
from pointsman_retriever.events import CollectionSize
from pointsman_retriever.index.snapshot import CompactedParts, IndexSnapshot
from pointsman_retriever.search.ranking import ResolvedQuery, Stopwatch, rank
from pointsman_retriever.store import connections, maintenance
from pointsman_retriever.store.store import Store
from pointsman_retriever.store.transaction import Change, Transaction

log = logging.getLogger(__name__)

KEPT_SNAPSHOTS = 3  # a search that began before a change finds its own, even if another change follows at once

MAX_SNAPSHOT_RETRIES = 100  # of a search, to find the snapshot of the version that it reads from disk

T = TypeVar("T")


SnapshotFactory = Callable[[CollectionInfo], IndexSnapshot]  # makes an empty one


@dataclass(frozen=True, slots=True)
class SearchResult:
    passages: tuple[Passage, ...]  # best first
    version: int  # of the collection that was searched
    relevance: Relevance
    timings: Mapping[str, float]  # seconds by phase


@dataclass(frozen=True, slots=True)
class StepResult(Generic[T]):
    """The outcome of one caller's change of a collection.

    `result` is what the change returned, or its error; `info` is the collection's state after the change.
    """

    result: T | PointsmanError
    info: CollectionInfo


class Collection:
    """A loaded collection. A search sees the documents before a change or after it, never half of the change.

    Each version has an immutable index snapshot. A change publishes the next snapshot before its commit makes the new
    version visible, so no search waits for a change.

    All methods block. One thread makes changes, any thread may search. Methods that use the disk raise storage errors
    (`translate_errors`). Searches and changes raise NotFound after `close`.
    """

    def __init__(self, store: Store, make_snapshot: SnapshotFactory) -> None:
        self.store = store
        self.info = store.collection()
        self.changed_at = time.time()
        self._make_snapshot = make_snapshot
        self._snapshots = {self.info.version: make_snapshot(self.info)}  # by version; the dict is replaced, not changed
        self._lock = RWLock()
        self._closed = False
        self.fault = ""  # why the index cannot be searched
        self._changes_since_compaction: list[ChunkDelta] | None = None  # None: no compaction is running

    def load(self) -> None:
        """Builds the index from disk; to be called once, before any other method.

        Raises Internal ("collection_damaged") if the file is damaged or does not match its counts and checksum.
        """
        maintenance.quick_check(self.store)
        self.reload()

    def search(self, query: ResolvedQuery) -> SearchResult:
        """Searches the collection's current version.

        Raises FailedPrecondition ("fingerprint_mismatch") if another model made the collection's vectors, and
        Unavailable if replacing the collection's file has failed ("collection_inconsistent") or if the collection
        changes too quickly ("collection_busy").
        """
        stopwatch = Stopwatch()
        with self._lock.read():
            self._check_searchable(query)
            for _ in range(MAX_SNAPSHOT_RETRIES):
                with self.store.read_transaction() as transaction:
                    snapshot = self._snapshots.get(transaction.version)
                    if snapshot is None:
                        continue  # several changes were committed between the two lines above
                    stopwatch.lap("wait")
                    ranking = rank(snapshot, query, self._search_settings)
                    stopwatch.lap("rank")
                    passages = transaction.passages(ranking.chunks, query.options.neighbours)
                    stopwatch.lap("passages")
                return SearchResult(passages, transaction.version, ranking.relevance, stopwatch.timings)
        raise Unavailable(
            f"collection {str(self.info.id)!r} changes too quickly to be searched; try again",
            code="collection_busy",
            retry_after=0.1,
        )

    def change(self, steps: Sequence[Callable[[Change], T]]) -> list[StepResult[T]]:
        """Makes the changes of several callers in one commit; returns the result of each, in order.

        `steps` are functions, each of which makes the changes of one caller. If a step raises a PointsmanError, nothing
        of this step is applied, its result is the error, and the other steps are applied. If a step raises another
        exception, or the commit fails, this method raises the exception, and no step is applied.
        """
        if self._closed:
            raise unknown_collection(self.info.id)
        with self.store.transaction() as transaction:
            done: list[StepResult[T]] = []
            for step in steps:
                try:
                    with transaction.step() as change:
                        result = step(change)
                    done.append(StepResult(result, transaction.info))
                except PointsmanError as error:
                    done.append(StepResult(error, transaction.info))
            transaction.finish()
            if transaction.info.version == self.info.version:
                transaction.commit()  # no chunk changed; at most the source of a document did
                return done
            # Publish the next snapshot before its version becomes visible on disk: no search has to wait for it.
            delta = transaction.delta
            self._publish(transaction.info.version, self._next_snapshot(delta, transaction))
            self.info = transaction.commit()
            if self._changes_since_compaction is not None:
                self._changes_since_compaction.append(delta)
        self.changed_at = time.time()
        self._checkpoint()
        return done

    def set_quota(self, quota: Quota) -> CollectionInfo:
        self._check_open()
        self.info = self.store.set_quota(quota)
        return self.info

    def set_search_settings(self, settings: str) -> CollectionInfo:
        """Stores search settings, the text that `serialize_search_settings` returns; returns the collection's state."""
        self._check_open()
        self.info = self.store.set_search_settings(settings)
        return self.info

    def replace_store(self, swap: Callable[[], Store]) -> None:
        """Exchanges the collection's store while no search runs; `swap` closes the old store and returns the new one.

        Raises what `swap` raises, and Internal ("collection_damaged") if the new store is damaged. After an error,
        searches raise Unavailable.
        """
        with self._lock.write():
            try:
                self.store = swap()
                self.info = self.store.collection()
                self.reload()
            except BaseException as error:
                self.fault = f"its replacement failed: {error}"
                raise

    def migrate(
        self, store: Store, swap: Callable[[sqlite3.Connection, CollectionInfo], CollectionInfo | None]
    ) -> bool:
        """Calls `swap` to replace all chunks in a transaction, and indexes the new chunks before they become visible.
        Returns whether `swap` replaced the chunks.

        `store` is the store in which the migration began. `swap` gets the transaction's connection and the collection's
        state. It returns the new state, or None if it changed nothing. Raises Unavailable ("collection_closed") if the
        collection's store was replaced since the beginning of the migration, and Internal ("collection_damaged") if the
        new chunks do not match the new state.
        """
        self._check_open()
        with store.connections.transaction() as writer:
            after = swap(writer, self.info)
            if after is None:
                return False
            snapshot = self._build_snapshot(after, connections.read_all_chunks(writer))
            with self._lock.write():
                writer.execute("COMMIT")
                self._install(after, snapshot)
        self.changed_at = time.time()
        return True

    def reload(self) -> None:
        """Builds a new index from disk; to be called in the write thread while no search runs.

        Raises Internal ("collection_damaged") if the chunks do not match the collection's counts and checksum.
        """
        self._install(self.info, self._build_snapshot(self.info, self.store.read_all_chunks()))

    def refresh(self) -> None:
        """Builds a new index from disk while searches still use the old one; to be called in the write thread.

        Raises Internal ("collection_damaged") if the chunks do not match the collection's counts and checksum.
        """
        snapshot = self._build_snapshot(self.info, self.store.read_all_chunks())
        with self._lock.write():
            self._install(self.info, snapshot)

    @property
    def needs_compaction(self) -> bool:
        return self._changes_since_compaction is None and self._snapshot.needs_compaction

    def begin_compaction(self) -> Callable[[], CompactedParts]:
        """Begins a compaction (a rebuild of the indexes without deleted rows); returns a function that rebuilds the
        indexes, which is slow.

        The function may be called in any thread. Pass its result to `finish_compaction`; if the function raises an
        error, call `abort_compaction`. `begin_compaction`, `finish_compaction` and `abort_compaction` must be called in
        the write thread.
        """
        self._changes_since_compaction = []
        return self._snapshot.compacted

    def finish_compaction(self, compacted: CompactedParts) -> None:
        """Puts the rebuilt indexes into use, after applying to them the changes made since `begin_compaction`.

        Does nothing if the whole index was replaced since then, for example by `refresh`.
        """
        if self._changes_since_compaction is None:
            return  # the whole index was replaced meanwhile
        for delta in self._changes_since_compaction:
            compacted = compacted.with_changes(delta)
        self._changes_since_compaction = None
        self._publish(self.info.version, self._snapshot.with_parts(compacted))

    def abort_compaction(self) -> None:
        self._changes_since_compaction = None

    def size(self) -> CollectionSize:
        info = self.info
        return CollectionSize(
            name=str(info.id),
            documents=info.documents,
            chunks=info.chunks,
            bytes=info.bytes,
            index_vectors=self._snapshot.vectors.count,
            index_age=time.time() - self.changed_at,
            is_inconsistent=bool(self.fault),
        )

    def verify(self) -> maintenance.Findings:
        """Checks all rows of the file (`check_all`), and the indexes against the counts and checksum; returns the
        problems.

        File and indexes may be read at different versions of the collection, since each is compared with its own
        counts.
        """
        with self._lock.read():
            self._check_open()
            differences = self._snapshot.differences(self.info)
        return maintenance.check_all(self.store).with_problems(differences)

    def close(self) -> None:
        """Waits for running searches, and closes index and store; later searches and changes raise NotFound."""
        with self._lock.write():
            self._closed = True
            self._snapshot.close()
            self.store.close()

    @property
    def _snapshot(self) -> IndexSnapshot:
        return self._snapshots[self.info.version]

    @property
    def _search_settings(self) -> SearchSettings:
        return parse_search_settings(self.info.search_settings)

    def _checkpoint(self) -> None:
        """Copies a long write-ahead log into the file; if that fails, logs why, and the next change tries again.

        The changes in the log are on disk since their commits, so their callers need not know.
        """
        try:
            self.store.checkpoint()
        except (PointsmanError, OSError) as error:
            log.error("cannot copy the write-ahead log of collection %s into its file: %s", self.info.id, error)

    def _publish(self, version: int, snapshot: IndexSnapshot) -> None:
        """Adds or replaces the index snapshot of a version, and keeps only the last KEPT_SNAPSHOTS."""
        others = [other for other in self._snapshots if other != version][1 - KEPT_SNAPSHOTS :]
        self._snapshots = {**{other: self._snapshots[other] for other in others}, version: snapshot}

    def _next_snapshot(self, delta: ChunkDelta, transaction: Transaction) -> IndexSnapshot:
        """Returns the index snapshot of the version that the transaction will commit.

        If the change cannot be applied to the index, logs why and builds a new index from the transaction's chunks.
        """
        try:
            return self._snapshot.with_changes(delta)
        except Exception:
            log.exception("cannot apply a change to the index of collection %s; rebuilding it", self.info.id)
            return self._build_snapshot(transaction.info, transaction.read_all_chunks())

    def _install(self, info: CollectionInfo, snapshot: IndexSnapshot) -> None:
        """Makes an index snapshot the only one of the collection, and closes the index used so far."""
        list(self._snapshots.values())[-1].close()
        self.info, self._snapshots = info, {info.version: snapshot}
        self.fault, self._changes_since_compaction = "", None

    def _build_snapshot(self, info: CollectionInfo, batches: Iterable[IndexedChunks]) -> IndexSnapshot:
        """Builds an index from batches of chunks.

        Raises Internal ("collection_damaged") if the chunks do not match the counts and checksum in `info`.
        """
        snapshot = self._make_snapshot(info)
        no_ids = np.empty(0, np.int64)
        for chunks in batches:
            snapshot = snapshot.with_changes(ChunkDelta(no_ids, chunks))
        snapshot = snapshot.with_parts(snapshot.compacted())
        if differences := snapshot.differences(info):
            raise Internal(
                f"collection {str(info.id)!r} is damaged: {'; '.join(differences)}; restore its last snapshot",
                code="collection_damaged",
            )
        return snapshot

    def _check_searchable(self, query: ResolvedQuery) -> None:
        self._check_open()
        if self.fault:
            raise Unavailable(
                f"collection {str(self.info.id)!r} cannot be searched: {self.fault}",
                code="collection_inconsistent",
                retry_after=5.0,
            )
        if query.fingerprint != self.info.fingerprint:  # the collection was restored after the query arrived
            raise FailedPrecondition(
                f"collection {str(self.info.id)!r} now uses embedding model {self.info.fingerprint}, and the query's "
                f"vector was made by {query.fingerprint}",
                code="fingerprint_mismatch",
                param="collection",
            )

    def _check_open(self) -> None:
        if self._closed:
            raise unknown_collection(self.info.id)


def unknown_collection(collection: CollectionId) -> NotFound:
    return NotFound(
        f"there is no collection {str(collection)!r}; `pointsman ingest` or CreateCollection makes it",
        code="unknown_collection",
        param="collection",
    )
