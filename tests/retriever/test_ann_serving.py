"""Large collections: lists instead of a full comparison, made anew in the background, while searches go on."""

import threading

import faiss
import numpy as np
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.domain import (
    Chunk,
    CollectionId,
    CollectionInfo,
    Document,
    EncodedDocument,
    SearchOptions,
    Vectors,
)
from pointsman_retriever.index import bm25, columns, dense
from pointsman_retriever.index.contents import IndexSnapshot
from pointsman_retriever.index.dense import FaissIndex, IndexThresholds
from pointsman_retriever.index.terms import TermAnalyzer
from pointsman_retriever.search import ResolvedQuery
from pointsman_retriever.shelf import Collection
from pointsman_retriever.store import sqlite
from pointsman_retriever.store.sqlite import Store
from threadpoolctl import threadpool_info

DIMENSIONS = 32
NOTHING = np.empty(0, np.int64)
SMALL = IndexThresholds(flat=500, gathered=20)


def clustered(count: int, seed: int) -> Vectors:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(60, DIMENSIONS))
    vectors = centres[random.integers(0, 60, count)] + 0.5 * random.normal(size=(count, DIMENSIONS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def recall(index: FaissIndex, queries: Vectors) -> float:
    """Of the ten nearest, against a comparison with every vector."""
    flat = dense.empty_faiss_index(DIMENSIONS).after(
        NOTHING, index.ids.first(10**9)[index.alive], index.of(alive_ids(index))
    )
    hits = [len(np.intersect1d(index.nearest(query, 10, None), flat.nearest(query, 10, None))) for query in queries]
    return sum(hits) / (10 * len(queries))


def alive_ids(index: FaissIndex) -> np.ndarray:
    return index.ids.first(len(index.alive))[index.alive]


def test_an_index_is_flat_while_small_and_in_lists_from_then_on():
    index = dense.empty_faiss_index(DIMENSIONS, SMALL).after(NOTHING, np.arange(1, 501), clustered(500, 1))
    assert not index.wants_tidying
    index = index.after(NOTHING, np.arange(501, 4_001), clustered(3_500, 2))
    assert index.wants_tidying
    sealed = index.tidied()
    assert sealed.sealed is not None
    assert sealed.sealed.visited < sealed.sealed.lists
    assert not sealed.wants_tidying
    assert (sealed.count, sealed.checksum) == (index.count, index.checksum)
    assert recall(sealed, clustered(100, 3)) >= 0.98


def test_recall_stays_where_it_was_through_replacements_and_rebuilds():
    random = np.random.default_rng(4)
    index = dense.empty_faiss_index(DIMENSIONS, SMALL).after(NOTHING, np.arange(1, 3_001), clustered(3_000, 5)).tidied()
    rebuilt, last = 0, 3_000
    for turn in range(10):
        gone = np.sort(random.choice(alive_ids(index), 200, replace=False))
        index = index.after(gone, np.arange(last + 1, last + 201), clustered(200, 10 + turn))
        last += 200
        assert not np.isin(index.nearest(clustered(1, turn)[0], 500, None), gone).any()
        if index.wants_tidying:
            index, rebuilt = index.tidied(), rebuilt + 1
        assert recall(index, clustered(40, 50 + turn)) >= 0.97
    assert 0 < rebuilt < 10
    assert index.count == 3_000


def test_deleted_rows_are_not_carried_along_for_ever():
    index = dense.empty_faiss_index(DIMENSIONS, SMALL).after(NOTHING, np.arange(1, 2_001), clustered(2_000, 1)).tidied()
    index = index.after(np.arange(1, 1_901), NOTHING, clustered(0, 1))
    assert index.wants_tidying
    index = index.tidied()
    assert len(index.alive) == index.count == 100
    assert index.sealed is None  # small again


# -- a shelf: searches and changes at the same time


class PausingIndex:
    """An index whose changes and rebuilds wait, each until it is let go on."""

    def __init__(self, index: FaissIndex, pauses: "Pauses") -> None:
        self._index, self._pauses = index, pauses

    def after(self, removed, added, vectors):
        if self._pauses.changes:
            self._pauses.wait()
        return PausingIndex(self._index.after(removed, added, vectors), self._pauses)

    def tidied(self):
        self._pauses.wait()
        return PausingIndex(self._index.tidied(), self._pauses)

    def __getattr__(self, name):
        return getattr(self._index, name)


class Pauses:
    def __init__(self) -> None:
        self.changes = False
        self.reached, self.go_on = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.go_on.wait(30)


@pytest.fixture
def pauses():
    pauses = Pauses()
    yield pauses
    pauses.go_on.set()


@pytest.fixture
def shelf(tmp_path, pauses):
    collection = CollectionId("default", "notes")
    sqlite.create_store(tmp_path, CollectionInfo("notes", "model", DIMENSIONS))

    def contents(_: CollectionInfo) -> IndexSnapshot:
        return IndexSnapshot(
            PausingIndex(dense.empty_faiss_index(DIMENSIONS, SMALL), pauses),
            bm25.empty_word_index(TermAnalyzer()),
            columns.empty_metadata_index(),
        )

    shelf = Collection(Store(collection, tmp_path, 4), contents)
    shelf.load()
    yield shelf
    shelf.close()


def put(shelf: Collection, name: str, vectors: Vectors) -> None:
    text = "\n".join(f"line {number} of {name}" for number in range(len(vectors)))
    lines = text.split("\n")
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)])
    chunks = tuple(
        Chunk(line, int(start), int(start) + len(line), "") for line, start in zip(lines, starts, strict=False)
    )
    (done,) = shelf.change([lambda change: change.put(EncodedDocument(Document(name, "", text), chunks, vectors))])
    assert not isinstance(done.result, Exception), done.result


def found(shelf: Collection, vector: Vectors, text: str = "line", top_k: int = 5) -> list[str]:
    question = ResolvedQuery(text, vector, "model", None, SearchOptions(top_k=top_k))
    return [passage.document_id for passage in shelf.search(question).passages]


def test_a_search_does_not_wait_for_a_change(shelf, pauses):
    vectors = clustered(30, 1)
    put(shelf, "first", vectors[:10])
    pauses.changes = True
    writing = threading.Thread(target=put, args=(shelf, "second", vectors[10:20]))
    writing.start()
    assert pauses.reached.wait(30)
    assert set(found(shelf, vectors[12])) == {"first"}  # answered while the change is held up
    pauses.go_on.set()
    writing.join()
    assert found(shelf, vectors[12], top_k=1) == ["second"]


def test_a_search_and_a_change_do_not_wait_for_a_rebuild_and_nothing_of_the_change_is_lost(shelf, pauses):
    vectors = clustered(900, 2)
    put(shelf, "first", vectors[:800])
    assert shelf.wants_tidying
    tidy, made = shelf.begin_tidying(), []
    assert not shelf.wants_tidying  # one at a time
    rebuilding = threading.Thread(target=lambda: made.append(tidy()))
    rebuilding.start()
    assert pauses.reached.wait(30)
    put(shelf, "second", vectors[800:])
    shelf.change([lambda change: change.remove("first")])
    assert set(found(shelf, vectors[3])) == {"second"}
    pauses.go_on.set()
    rebuilding.join()
    shelf.end_tidying(made[0])
    assert set(found(shelf, vectors[3], top_k=100)) == {"second"}
    assert shelf.checking().problems == ()


def test_many_readers_and_a_writer_see_whole_moments(shelf):
    """Each edition replaces all chunks of the one before: a mixed answer would be two editions."""
    vectors = clustered(40, 3)
    put(shelf, "edition", vectors[:20])
    done, mixed, looked = threading.Event(), [], []

    def look() -> None:
        while not done.is_set():
            question = ResolvedQuery("line", vectors[0], "model", None, SearchOptions(top_k=20))
            answer = shelf.search(question)
            looked.append(answer.version)
            if len(answer.passages) != 20:
                mixed.append(answer)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(30):
        put(shelf, "edition", vectors[20:] if turn % 2 else vectors[:20])
    done.set()
    for reader in readers:
        reader.join()
    assert not mixed
    assert len(set(looked)) > 3


async def test_a_search_takes_no_other_core(client):
    await client.upsert(pb.Document(id="cat", text="A cat."))
    assert await client.found("cat") == ["cat"]
    assert faiss.omp_get_max_threads() == 1
    assert {pool["num_threads"] for pool in threadpool_info()} == {1}
