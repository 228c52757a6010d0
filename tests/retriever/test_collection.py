"""The index in memory agrees with the disk: after compactions, and after failures of the index itself.

A collection that was deleted or replaced rejects changes that began before.
"""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pointsman_retriever.bootstrap import snapshot_factory
from pointsman_retriever.collections.collection import Collection
from pointsman_retriever.collections.writer import Compactor, GroupCommitWriter
from pointsman_retriever.concurrency import make_thread_pools
from pointsman_retriever.domain import (
    UNLIMITED,
    Chunk,
    ChunkDelta,
    CollectionId,
    CollectionInfo,
    Document,
    EncodedDocument,
    Ids,
    IndexedChunks,
    SearchOptions,
    Vectors,
)
from pointsman_retriever.index.faiss_index import FaissStore
from pointsman_retriever.index.snapshot import IndexSnapshot
from pointsman_retriever.index.vector_stores import VectorIndex
from pointsman_retriever.search.ranking import ResolvedQuery
from pointsman_retriever.store.connections import ROWS_PER_BATCH, read_chunks
from pointsman_retriever.store.maintenance import begin_migration, swap_if_complete
from pointsman_retriever.store.store import Store, create_store
from pointsman_servicekit.errors import NotFound, Unavailable


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    create_store(tmp_path, CollectionInfo("notes", "model", 4))
    with closing(Store(CollectionId("default", "notes"), tmp_path, 2)) as store:
        yield store


def write(collection: Collection, *names: str) -> None:
    """Writes a note for each name; its vector depends on the length of the name."""

    def made(name: str) -> EncodedDocument:
        vector = np.eye(4, dtype=np.float32)[[len(name) % 4]]
        text = f"Note {name}."
        return EncodedDocument(Document(name, "", text), (Chunk(text, 0, len(text), ""),), vector, "given")

    collection.change([lambda change: [change.put(made(name)) for name in names]])


def found(collection: Collection, text: str = "note") -> set[str]:
    question = ResolvedQuery(text, np.full(4, 0.5, np.float32), "model", None, SearchOptions(top_k=100))
    return {passage.document_id for passage in collection.search(question).passages}


def test_changes_made_during_a_compaction_are_kept(store: Store) -> None:
    collection = Collection(store, snapshot_factory(FaissStore()))
    write(collection, "a", "bb", "ccc", "dddd")
    compacted = collection.begin_compaction()()
    write(collection, "eeeee", "bb")
    collection.change([lambda change: change.remove("a")])
    assert not collection.needs_compaction  # one at a time
    collection.finish_compaction(compacted)
    assert found(collection) == {"bb", "ccc", "dddd", "eeeee"}
    write(collection, "ffffff")
    assert found(collection) == {"bb", "ccc", "dddd", "eeeee", "ffffff"}
    assert collection.verify().problems == ()


def test_a_compaction_that_was_overtaken_by_a_rebuild_is_discarded(store: Store) -> None:
    collection = Collection(store, snapshot_factory(FaissStore()))
    write(collection, "a", "bb")
    compacted = collection.begin_compaction()()
    collection.refresh()
    write(collection, "ccc")
    collection.finish_compaction(compacted)
    assert found(collection) == {"a", "bb", "ccc"}
    assert collection.verify().problems == ()


class FailingOnce:
    """A vector index whose `with_changes` fails once."""

    def __init__(self, vectors: VectorIndex, failures: list[int]) -> None:
        self._vectors, self._failures = vectors, failures

    def with_changes(self, removed: Ids, added: Ids, vectors: Vectors) -> "FailingOnce":
        if self._failures and self._vectors.count:
            self._failures.pop()
            raise MemoryError("no room")
        return FailingOnce(self._vectors.with_changes(removed, added, vectors), self._failures)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vectors, name)


def test_an_index_that_cannot_apply_a_change_is_rebuilt_from_disk(store: Store) -> None:
    failures: list[int] = []

    def snapshot(collection: CollectionInfo) -> IndexSnapshot:
        empty = snapshot_factory(FaissStore())(collection)
        return replace(empty, vectors=FailingOnce(empty.vectors, failures))

    collection = Collection(store, snapshot)
    write(collection, "a", "bb")
    failures.append(1)
    write(collection, "ccc")
    assert failures == []
    assert found(collection) == {"a", "bb", "ccc"}
    assert collection.verify().problems == ()


class FailingCompaction:
    """A vector index that always needs a compaction, which raises `error`."""

    needs_compaction = True

    def __init__(self, vectors: VectorIndex, error: Exception) -> None:
        self._vectors, self._error = vectors, error

    def with_changes(self, removed: Ids, added: Ids, vectors: Vectors) -> "FailingCompaction":
        return FailingCompaction(self._vectors.with_changes(removed, added, vectors), self._error)

    def compacted(self) -> VectorIndex:
        raise self._error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vectors, name)


@pytest.mark.parametrize(
    "error", [MemoryError("no room"), Unavailable("the vector store is down", code="vector_store_down")], ids=repr
)
async def test_a_failed_compaction_can_be_tried_again(store: Store, error: Exception) -> None:
    def snapshot(collection: CollectionInfo) -> IndexSnapshot:
        empty = snapshot_factory(FaissStore())(collection)
        return replace(empty, vectors=FailingCompaction(empty.vectors, error))

    collection = Collection(store, snapshot)
    write(collection, "a")
    with closing(make_thread_pools(1, 1)) as pools:
        Compactor(pools).compact_if_needed(GroupCommitWriter(collection, pools.write))
        (compaction,) = asyncio.all_tasks() - {asyncio.current_task()}
        await compaction
    assert collection.needs_compaction


def test_a_lost_vector_is_reported_and_repaired(store: Store) -> None:
    collection = Collection(store, snapshot_factory(FaissStore()))
    write(collection, "a", "bb", "ccc")
    version = collection.info.version
    snapshot = collection._snapshots[version]
    collection._snapshots = {version: snapshot.with_changes(ChunkDelta(np.array([2], np.int64), _no_entries(store)))}
    problems = collection.verify().problems
    assert "there are 2 vectors for 3 chunks" in problems
    assert any("checksum" in problem for problem in problems)
    collection.refresh()
    assert collection.verify().problems == ()
    assert found(collection) == {"a", "bb", "ccc"}


def test_all_batches_of_chunks_are_of_one_version(store: Store) -> None:
    def put(name: str, chunks: int) -> None:
        document = Document(name, "", name, {"room": "shed"})
        vectors = np.ones((chunks, 4), np.float32)
        encoded = EncodedDocument(document, (Chunk(name, 0, 4, ""),) * chunks, vectors, "given")
        with store.transaction() as transaction:
            with transaction.step() as change:
                change.put(encoded)
            transaction.commit()

    put("long", ROWS_PER_BATCH)
    put("last", 1)
    batches = store.read_all_chunks()
    first = next(batches)
    with store.transaction() as transaction:
        with transaction.step() as change:
            assert change.remove("last")
        transaction.commit()
    (rest,) = batches
    assert (len(first.ids), rest.texts, rest.metadata) == (ROWS_PER_BATCH, ("last",), ({"room": "shed"},))


def test_a_closed_store_refuses_changes_as_it_refuses_reads(store: Store) -> None:
    store.close()
    for call in (store.collection, lambda: store.set_quota(UNLIMITED), lambda: begin_migration(store, "next", 8)):
        with pytest.raises(Unavailable) as raised:
            call()
        assert raised.value.code == "collection_closed"


def test_a_migration_ends_when_its_collection_is_replaced(store: Store, tmp_path: Path) -> None:
    collection = Collection(store, snapshot_factory(FaissStore()))
    begin_migration(store, "next", 4)
    (tmp_path / "other").mkdir()
    create_store(tmp_path / "other", CollectionInfo("notes", "model", 4))
    with closing(Store(store.id, tmp_path / "other", 2)) as other:

        def swap() -> Store:
            store.close()
            return other

        collection.replace_store(swap)
        with pytest.raises(Unavailable) as raised:
            collection.migrate(store, swap_if_complete)
        assert raised.value.code == "collection_closed"
        assert collection.info.fingerprint == "model"


def test_a_migration_ends_when_its_collection_is_deleted(store: Store) -> None:
    collection = Collection(store, snapshot_factory(FaissStore()))
    begin_migration(store, "next", 4)
    collection.close()
    with pytest.raises(NotFound):
        collection.migrate(store, swap_if_complete)


def _no_entries(store: Store) -> IndexedChunks:
    with store.connections.reader() as reader:
        return read_chunks(reader, np.empty(0, np.int64), 4)
