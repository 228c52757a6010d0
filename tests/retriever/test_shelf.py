"""What is held in memory follows the disk: through tidying, and through its own failures."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pointsman_retriever.domain import (
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
from pointsman_retriever.index.contents import IndexSnapshot
from pointsman_retriever.search import ResolvedQuery
from pointsman_retriever.shelf import Collection
from pointsman_retriever.store.looking import read_chunks
from pointsman_retriever.store.sqlite import Store, create_store
from pointsman_retriever.wiring import snapshot_factory


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    create_store(tmp_path, CollectionInfo("notes", "model", 4))
    with closing(Store(CollectionId("default", "notes"), tmp_path, 2)) as store:
        yield store


def write(shelf: Collection, *names: str) -> None:
    """A note for each name; its vector is made of the name's length."""

    def made(name: str) -> EncodedDocument:
        vector = np.eye(4, dtype=np.float32)[[len(name) % 4]]
        text = f"Note {name}."
        return EncodedDocument(Document(name, "", text), (Chunk(text, 0, len(text), ""),), vector, "given")

    shelf.change([lambda change: [change.put(made(name)) for name in names]])


def found(shelf: Collection, text: str = "note") -> set[str]:
    question = ResolvedQuery(text, np.full(4, 0.5, np.float32), "model", None, SearchOptions(top_k=100))
    return {passage.document_id for passage in shelf.search(question).passages}


def test_what_changes_while_the_index_is_tidied_is_in_it_afterwards(store: Store):
    shelf = Collection(store, snapshot_factory())
    write(shelf, "a", "bb", "ccc", "dddd")
    tidied = shelf.begin_tidying()()
    write(shelf, "eeeee", "bb")
    shelf.change([lambda change: change.remove("a")])
    assert not shelf.wants_tidying  # one at a time
    shelf.end_tidying(tidied)
    assert found(shelf) == {"bb", "ccc", "dddd", "eeeee"}
    write(shelf, "ffffff")
    assert found(shelf) == {"bb", "ccc", "dddd", "eeeee", "ffffff"}
    assert shelf.checking().problems == ()


def test_an_index_put_in_place_meanwhile_is_not_replaced_by_a_tidied_old_one(store: Store):
    shelf = Collection(store, snapshot_factory())
    write(shelf, "a", "bb")
    tidied = shelf.begin_tidying()()
    shelf.refresh()
    write(shelf, "ccc")
    shelf.end_tidying(tidied)
    assert found(shelf) == {"a", "bb", "ccc"}
    assert shelf.checking().problems == ()


class FailingOnce:
    """Vectors as they are, whose next moment cannot be made the first time."""

    def __init__(self, vectors, failures: list[int]) -> None:
        self._vectors, self._failures = vectors, failures

    def after(self, removed: Ids, added: Ids, vectors: Vectors) -> "FailingOnce":
        if self._failures and self._vectors.count:
            self._failures.pop()
            raise MemoryError("no room")
        return FailingOnce(self._vectors.after(removed, added, vectors), self._failures)

    def __getattr__(self, name: str):
        return getattr(self._vectors, name)


def test_an_index_that_cannot_follow_a_change_is_made_anew_from_the_disk(store: Store):
    failures: list[int] = []

    def contents(collection: CollectionInfo) -> IndexSnapshot:
        empty = snapshot_factory()(collection)
        return replace(empty, vectors=FailingOnce(empty.vectors, failures))

    shelf = Collection(store, contents)
    write(shelf, "a", "bb")
    failures.append(1)
    write(shelf, "ccc")
    assert failures == []
    assert found(shelf) == {"a", "bb", "ccc"}
    assert shelf.checking().problems == ()


def test_an_index_that_lost_a_vector_is_told_and_repaired(store: Store):
    shelf = Collection(store, snapshot_factory())
    write(shelf, "a", "bb", "ccc")
    version = shelf.collection.version
    moment = shelf._moments[version]
    shelf._moments = {version: moment.after(ChunkDelta(np.array([2], np.int64), _no_entries(store)))}
    problems = shelf.checking().problems
    assert "there are 2 vectors for 3 chunks" in problems
    assert any("checksum" in problem for problem in problems)
    shelf.refresh()
    assert shelf.checking().problems == ()
    assert found(shelf) == {"a", "bb", "ccc"}


def _no_entries(store: Store) -> IndexedChunks:
    with store.connections.reading() as reader:
        return read_chunks(reader, np.empty(0, np.int64), 4)
