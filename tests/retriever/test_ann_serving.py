"""Large collections: an IVF index instead of a full comparison, rebuilt in the background while searches continue."""

import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.collections.collection import Collection
from pointsman_retriever.domain import (
    Chunk,
    CollectionId,
    CollectionInfo,
    Document,
    EncodedDocument,
    Ids,
    SearchOptions,
    Vectors,
)
from pointsman_retriever.index import append_only_array, bm25, faiss_index, metadata_index
from pointsman_retriever.index.faiss_index import FaissIndex, IndexThresholds
from pointsman_retriever.index.snapshot import IndexSnapshot
from pointsman_retriever.index.term_analyzer import TermAnalyzer
from pointsman_retriever.search.ranking import ResolvedQuery
from pointsman_retriever.store import store
from pointsman_retriever.store.store import Store
from threadpoolctl import threadpool_info

from tests.retriever.client import Client

DIMENSIONS = 32
NOTHING = np.empty(0, np.int64)
SMALL = IndexThresholds(max_flat=500, max_exact_filtered=20)


def clustered(count: int, seed: int) -> Vectors:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(60, DIMENSIONS))
    vectors = centres[random.integers(0, 60, count)] + 0.5 * random.normal(size=(count, DIMENSIONS))
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def recall(index: FaissIndex, queries: Vectors) -> float:
    """Returns the recall of the ten nearest compared with an exact search."""
    flat = faiss_index.empty_faiss_index(DIMENSIONS).with_changes(
        NOTHING, index.ids.first(10**9)[index.alive], index.get(alive_ids(index))
    )
    hits = [len(np.intersect1d(index.nearest(query, 10, None), flat.nearest(query, 10, None))) for query in queries]
    return sum(hits) / (10 * len(queries))


def alive_ids(index: FaissIndex) -> np.ndarray:
    return index.ids.first(len(index.alive))[index.alive]


def test_an_index_is_flat_while_small_and_becomes_an_ivf_index() -> None:
    index = faiss_index.empty_faiss_index(DIMENSIONS, SMALL).with_changes(NOTHING, np.arange(1, 501), clustered(500, 1))
    assert not index.needs_compaction
    index = index.with_changes(NOTHING, np.arange(501, 4_001), clustered(3_500, 2))
    assert index.needs_compaction
    ivf = index.compacted()
    assert ivf.ivf is not None
    assert ivf.ivf.probes < ivf.ivf.lists
    assert not ivf.needs_compaction
    assert (ivf.count, ivf.checksum) == (index.count, index.checksum)
    assert recall(ivf, clustered(100, 3)) >= 0.98


def test_large_arrays_are_in_files_that_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_only_array, "MIN_FILE_BYTES", 50_000)
    index = faiss_index.empty_faiss_index(DIMENSIONS, SMALL, folder=tmp_path)
    vectors = clustered(4_000, 1)
    for first in range(0, 4_000, 400):
        added = np.arange(first + 1, first + 401)
        index = index.with_changes(NOTHING, added, vectors[first : first + 400])
    in_memory = faiss_index.empty_faiss_index(DIMENSIONS, SMALL).with_changes(NOTHING, np.arange(1, 4_001), vectors)
    compacted = index.compacted()

    for query in clustered(20, 3):
        assert index.nearest(query, 10, None).tolist() == in_memory.nearest(query, 10, None).tolist()
    assert np.array_equal(compacted.get(np.arange(1, 4_001)), vectors)
    assert _files_in(tmp_path) == 2  # of the index and of its rebuilt copy
    assert list(tmp_path.iterdir()) == []


def _files_in(folder: Path) -> int:
    """Returns the number of files below the folder that are deleted but that this process still has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return len({line.split()[4] for line in lines if str(folder) in line and line.endswith("(deleted)")})


def test_a_large_array_is_in_memory_if_the_disk_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_only_array, "MIN_FILE_BYTES", 50_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        index = faiss_index.empty_faiss_index(DIMENSIONS, SMALL, folder=tmp_path)
        index = index.with_changes(NOTHING, np.arange(1, 4_001), clustered(4_000, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert _files_in(tmp_path) == 0
    assert index.nearest(clustered(4_000, 1)[7], 1, None).tolist() == [8]


def test_recall_stays_high_through_replacements_and_rebuilds() -> None:
    random = np.random.default_rng(4)
    index = (
        faiss_index.empty_faiss_index(DIMENSIONS, SMALL)
        .with_changes(NOTHING, np.arange(1, 3_001), clustered(3_000, 5))
        .compacted()
    )
    rebuilt, last = 0, 3_000
    for turn in range(10):
        gone = np.sort(random.choice(alive_ids(index), 200, replace=False))
        index = index.with_changes(gone, np.arange(last + 1, last + 201), clustered(200, 10 + turn))
        last += 200
        assert not np.isin(index.nearest(clustered(1, turn)[0], 500, None), gone).any()
        if index.needs_compaction:
            index, rebuilt = index.compacted(), rebuilt + 1
        assert recall(index, clustered(40, 50 + turn)) >= 0.97
    assert 0 < rebuilt < 10
    assert index.count == 3_000


def test_compaction_removes_deleted_rows() -> None:
    index = (
        faiss_index.empty_faiss_index(DIMENSIONS, SMALL)
        .with_changes(NOTHING, np.arange(1, 2_001), clustered(2_000, 1))
        .compacted()
    )
    index = index.with_changes(np.arange(1, 1_901), NOTHING, clustered(0, 1))
    assert index.needs_compaction
    index = index.compacted()
    assert len(index.alive) == index.count == 100
    assert index.ivf is None  # small again


# -- searches and changes at the same time


class PausingIndex:
    """A vector index whose changes and compactions block until `go_on` is set."""

    def __init__(self, index: FaissIndex, pauses: "Pauses") -> None:
        self._index, self._pauses = index, pauses

    def with_changes(self, removed: Ids, added: Ids, vectors: Vectors) -> "PausingIndex":
        if self._pauses.changes:
            self._pauses.wait()
        return PausingIndex(self._index.with_changes(removed, added, vectors), self._pauses)

    def compacted(self) -> "PausingIndex":
        self._pauses.wait()
        return PausingIndex(self._index.compacted(), self._pauses)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)


class Pauses:
    def __init__(self) -> None:
        self.changes = False
        self.reached, self.go_on = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.go_on.wait(30)


@pytest.fixture
def pauses() -> Iterator[Pauses]:
    pauses = Pauses()
    yield pauses
    pauses.go_on.set()


@pytest.fixture
def collection(tmp_path: Path, pauses: Pauses) -> Iterator[Collection]:
    store.create_store(tmp_path, CollectionInfo("notes", "model", DIMENSIONS))

    def make_snapshot(_: CollectionInfo) -> IndexSnapshot:
        return IndexSnapshot(
            PausingIndex(faiss_index.empty_faiss_index(DIMENSIONS, SMALL), pauses),
            bm25.empty_word_index(TermAnalyzer()),
            metadata_index.empty_metadata_index(),
        )

    collection = Collection(Store(CollectionId("default", "notes"), tmp_path, 4), make_snapshot)
    collection.load()
    yield collection
    collection.close()


def put(collection: Collection, name: str, vectors: Vectors) -> None:
    text = "\n".join(f"line {number} of {name}" for number in range(len(vectors)))
    lines = text.split("\n")
    starts = np.cumsum([0, *(len(line) + 1 for line in lines)])
    chunks = tuple(
        Chunk(line, int(start), int(start) + len(line), "") for line, start in zip(lines, starts, strict=False)
    )
    (done,) = collection.change([lambda change: change.put(EncodedDocument(Document(name, "", text), chunks, vectors))])
    assert not isinstance(done.result, Exception), done.result


def found(collection: Collection, vector: Vectors, text: str = "line", top_k: int = 5) -> list[str]:
    question = ResolvedQuery(text, vector, "model", None, SearchOptions(top_k=top_k))
    return [passage.document_id for passage in collection.search(question).passages]


def test_a_search_does_not_wait_for_a_change(collection: Collection, pauses: Pauses) -> None:
    vectors = clustered(30, 1)
    put(collection, "first", vectors[:10])
    pauses.changes = True
    writing = threading.Thread(target=put, args=(collection, "second", vectors[10:20]))
    writing.start()
    assert pauses.reached.wait(30)
    assert set(found(collection, vectors[12])) == {"first"}  # answered while the change is suspended
    pauses.go_on.set()
    writing.join()
    assert found(collection, vectors[12], top_k=1) == ["second"]


def test_searches_and_changes_do_not_wait_for_a_rebuild_and_no_change_is_lost(
    collection: Collection, pauses: Pauses
) -> None:
    vectors = clustered(900, 2)
    put(collection, "first", vectors[:800])
    assert collection.needs_compaction
    tidy = collection.begin_compaction()
    made: list[object] = []
    assert not collection.needs_compaction  # one at a time
    rebuilding = threading.Thread(target=lambda: made.append(tidy()))
    rebuilding.start()
    assert pauses.reached.wait(30)
    put(collection, "second", vectors[800:])
    collection.change([lambda change: change.remove("first")])
    assert set(found(collection, vectors[3])) == {"second"}
    pauses.go_on.set()
    rebuilding.join()
    collection.finish_compaction(made[0])
    assert set(found(collection, vectors[3], top_k=100)) == {"second"}
    assert collection.verify().problems == ()


def test_concurrent_readers_see_one_version_each(collection: Collection) -> None:
    """Each edition replaces all chunks of the previous one, so an answer from an inconsistent index would contain two
    editions.
    """
    vectors = clustered(40, 3)
    put(collection, "edition", vectors[:20])
    done, mixed, looked = threading.Event(), [], []

    def look() -> None:
        while not done.is_set():
            question = ResolvedQuery("line", vectors[0], "model", None, SearchOptions(top_k=20))
            answer = collection.search(question)
            looked.append(answer.version)
            if len(answer.passages) != 20:
                mixed.append(answer)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(30):
        put(collection, "edition", vectors[20:] if turn % 2 else vectors[:20])
    done.set()
    for reader in readers:
        reader.join()
    assert not mixed
    assert len(set(looked)) > 3


async def test_a_search_uses_a_single_core(client: Client) -> None:
    await client.upsert(pb.Document(id="cat", text="A cat."))
    assert await client.found("cat") == ["cat"]
    assert faiss.omp_get_max_threads() == 1
    assert {pool["num_threads"] for pool in threadpool_info()} == {1}
