"""Index parts that are rebuilt in the background catch up with changes, and concurrent searches are not affected."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pointsman_retriever.collections.collection import Collection
from pointsman_retriever.domain import (
    Chunk,
    ChunkDelta,
    CollectionId,
    CollectionInfo,
    Document,
    EncodedDocument,
    IndexedChunks,
    SearchOptions,
    Vectors,
)
from pointsman_retriever.filters import Eq
from pointsman_retriever.index import bm25, faiss_index, metadata_index
from pointsman_retriever.index.faiss_index import IndexThresholds
from pointsman_retriever.index.metadata_index import Column
from pointsman_retriever.index.snapshot import IndexSnapshot
from pointsman_retriever.index.term_analyzer import TermAnalyzer
from pointsman_retriever.search.ranking import ResolvedQuery
from pointsman_retriever.store.store import Store, create_store

DIMENSIONS = 8
NOTHING = np.empty(0, np.int64)
SMALL = IndexThresholds(max_flat=200, max_exact_filtered=5)


def unit_vectors(count: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSIONS))
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def delta(added: range, removed: range = range(0), **metadata: str) -> ChunkDelta:
    ids = np.array(added, np.int64)
    texts = tuple(f"note {chunk} of {chunk % 7}" for chunk in added)
    entries = tuple({"parity": "odd" if chunk % 2 else "even"} | metadata for chunk in added)
    return ChunkDelta(
        np.array(removed, np.int64), IndexedChunks(ids, ids * 10, texts, entries, unit_vectors(len(ids), added.start))
    )


def empty_snapshot(thresholds: IndexThresholds) -> IndexSnapshot:
    return IndexSnapshot(
        faiss_index.empty_faiss_index(DIMENSIONS, thresholds),
        bm25.empty_word_index(TermAnalyzer()),
        metadata_index.empty_metadata_index(),
    )


def answers(snapshot: IndexSnapshot) -> list[object]:
    """Returns a snapshot's answers to some queries."""
    odd, tagged = (snapshot.metadata.matching(Eq(*entry)) for entry in (("parity", "odd"), ("tag", "new")))
    words = snapshot.words.score("note of 3")
    best = words.best(30, None)
    nearest = snapshot.vectors.nearest(unit_vectors(1, 99)[0], 30, odd)
    parts = (
        odd,
        tagged,
        snapshot.metadata.documents_of(odd),
        best,
        words.scores_of(best),
        snapshot.vectors.get(odd),
        nearest,
    )
    return [part.tolist() for part in parts]


@pytest.mark.parametrize(
    ("thresholds", "rows", "removed", "rebuilt"),
    [
        (SMALL, 600, 0, {"vectors"}),
        (IndexThresholds(), 10_000, 4_500, {"words"}),
        (IndexThresholds(), 6_000, 4_900, {"words", "metadata"}),
        (SMALL, 6_000, 4_900, {"vectors", "words", "metadata"}),
    ],
    ids=["vectors", "words", "words and metadata", "all"],
)
def test_changes_to_compacted_parts_do_not_affect_the_snapshots_being_searched(
    thresholds: IndexThresholds, rows: int, removed: int, rebuilt: set[str]
) -> None:
    snapshot = (
        empty_snapshot(thresholds)
        .with_changes(delta(range(1, rows + 1)))
        .with_changes(delta(range(0), range(1, removed + 1)))
    )
    compacted = snapshot.compacted()
    first, last = removed + 1, rows
    meanwhile = [
        delta(range(last + 1, last + 6)),
        delta(range(last + 6, last + 8), range(first, first + 3), tag="new"),
        delta(range(0), range(last + 2, last + 4)),
        delta(range(last + 8, last + 40), range(last + 6, last + 7)),
    ]
    snapshots = [snapshot]
    for change in meanwhile:
        snapshots.append(snapshots[-1].with_changes(change))
    before = [answers(one) for one in snapshots]
    for change in meanwhile:
        compacted = compacted.with_changes(change)
        assert [answers(one) for one in snapshots] == before
    assert {part for part in ("vectors", "words", "metadata") if getattr(compacted, part) is not None} == rebuilt
    now = snapshots[-1].with_parts(compacted)
    assert answers(now)[:-1] == before[-1][:-1]  # in an IVF index the nearest may be others
    following = delta(range(last + 40, last + 50), range(last + 8, last + 9), tag="new")
    assert answers(now.with_changes(following))[:-1] == answers(snapshots[-1].with_changes(following))[:-1]
    chunks, checksum = snapshots[-1].metadata.count, snapshots[-1].vectors.checksum
    assert now.differences(CollectionInfo("notes", "model", DIMENSIONS, chunks=chunks, checksum=checksum)) == []


class WatchedColumn(Column):
    """Calls a function when its rows are read."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self._then = then

    def rows(self, count: int) -> NDArray[np.int32]:
        self._then()
        return super().rows(count)


def test_a_metadata_key_added_during_compaction_does_not_disturb_it() -> None:
    last = metadata_index.empty_metadata_index()

    def write_a_new_key() -> None:
        last.with_changes(NOTHING, np.array([3]), np.array([3]), [{"new": "x"}])

    last.columns["old"] = WatchedColumn(write_a_new_key)
    last = last.with_changes(NOTHING, np.array([1, 2]), np.array([1, 2]), [{"old": "x"}, {"old": "y"}])
    compacted = last.compacted()
    assert compacted.matching(Eq("old", "y")).tolist() == [2]
    assert compacted.matching(Eq("new", "x")).tolist() == []


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    create_store(tmp_path, CollectionInfo("notes", "model", DIMENSIONS))
    store = Store(CollectionId("default", "notes"), tmp_path, 4)
    with closing(Collection(store, lambda _: empty_snapshot(SMALL))) as collection:
        yield collection


def write(collection: Collection, *names: str) -> None:
    def encoded(name: str) -> EncodedDocument:
        text = f"note {name}"
        document, chunks = Document(name, "", text, {"kept": "yes"}), (Chunk(text, 0, len(text), ""),)
        return EncodedDocument(document, chunks, unit_vectors(1, len(name)), "given")

    collection.change([lambda change: [change.put(encoded(name)) for name in names]])


def test_searches_always_find_written_documents_while_a_compacted_index_is_published(collection: Collection) -> None:
    write(collection, *(f"old{number}" for number in range(600)))
    compacted = collection.begin_compaction()()
    for number in range(80):
        write(collection, f"new{number}")
    write(collection, "last")
    done = threading.Event()
    wrong: list[object] = []
    results: list[object] = []

    def search_repeatedly() -> None:
        question = ResolvedQuery(
            "last", unit_vectors(1, len("last"))[0], "model", Eq("kept", "yes"), SearchOptions(top_k=5)
        )
        while not done.is_set() and not wrong:
            try:
                found = [passage.document_id for passage in collection.search(question).passages]
                results.append(found)
                if "last" not in found:
                    wrong.append(found)
            except Exception as error:
                wrong.append(error)

    readers = [threading.Thread(target=search_repeatedly) for _ in range(2)]
    for reader in readers:
        reader.start()
    while not results and not wrong:
        done.wait(0.001)
    collection.finish_compaction(compacted)
    before = len(results)
    while len(results) == before and not wrong:
        done.wait(0.001)
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert collection.verify().problems == ()
