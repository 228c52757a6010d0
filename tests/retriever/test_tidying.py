"""Parts of an index that are made anew catch up with what has changed, and nobody who searches meanwhile notices."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
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
from pointsman_retriever.index import bm25, columns, dense
from pointsman_retriever.index.columns import Column
from pointsman_retriever.index.contents import IndexSnapshot
from pointsman_retriever.index.dense import IndexThresholds
from pointsman_retriever.index.terms import TermAnalyzer
from pointsman_retriever.search import ResolvedQuery
from pointsman_retriever.shelf import Collection
from pointsman_retriever.store.sqlite import Store, create_store

DIMENSIONS = 8
NOTHING = np.empty(0, np.int64)
SMALL = IndexThresholds(flat=200, gathered=5)


def unit_vectors(count: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSIONS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def delta(added: range, removed: range = range(0), **metadata: str) -> ChunkDelta:
    ids = np.array(added, np.int64)
    texts = tuple(f"note {chunk} of {chunk % 7}" for chunk in added)
    entries = tuple({"parity": "odd" if chunk % 2 else "even"} | metadata for chunk in added)
    return ChunkDelta(
        np.array(removed, np.int64), IndexedChunks(ids, ids * 10, texts, entries, unit_vectors(len(ids), added.start))
    )


def empty_contents(scale: IndexThresholds) -> IndexSnapshot:
    return IndexSnapshot(
        dense.empty_faiss_index(DIMENSIONS, scale),
        bm25.empty_word_index(TermAnalyzer()),
        columns.empty_metadata_index(),
    )


def told(contents: IndexSnapshot) -> list[object]:
    """What a moment answers."""
    odd, tagged = (contents.columns.matching(Eq(*entry)) for entry in (("parity", "odd"), ("tag", "new")))
    words = contents.words.scored("note of 3")
    best = words.best(30, None)
    nearest = contents.vectors.nearest(unit_vectors(1, 99)[0], 30, odd)
    parts = (odd, tagged, contents.columns.documents_of(odd), best, words.of(best), contents.vectors.of(odd), nearest)
    return [part.tolist() for part in parts]


@pytest.mark.parametrize(
    ("scale", "rows", "removed", "anew"),
    [
        (SMALL, 600, 0, {"vectors"}),
        (IndexThresholds(), 10_000, 4_500, {"words"}),
        (IndexThresholds(), 6_000, 4_900, {"words", "columns"}),
        (SMALL, 6_000, 4_900, {"vectors", "words", "columns"}),
    ],
    ids=["vectors", "words", "words and columns", "all"],
)
def test_what_tidied_parts_catch_up_with_changes_no_moment_that_is_searched(
    scale: IndexThresholds, rows: int, removed: int, anew: set[str]
):
    moment = empty_contents(scale).after(delta(range(1, rows + 1))).after(delta(range(0), range(1, removed + 1)))
    tidied = moment.tidied()
    first, last = removed + 1, rows
    meanwhile = [
        delta(range(last + 1, last + 6)),
        delta(range(last + 6, last + 8), range(first, first + 3), tag="new"),
        delta(range(0), range(last + 2, last + 4)),
        delta(range(last + 8, last + 40), range(last + 6, last + 7)),
    ]
    moments = [moment]
    for change in meanwhile:
        moments.append(moments[-1].after(change))
    before = [told(one) for one in moments]
    for change in meanwhile:
        tidied = tidied.after(change)
        assert [told(one) for one in moments] == before
    assert {part for part in ("vectors", "words", "columns") if getattr(tidied, part) is not None} == anew
    now = moments[-1].having(tidied)
    assert told(now)[:-1] == before[-1][:-1]  # the nearest may be others, in lists
    following = delta(range(last + 40, last + 50), range(last + 8, last + 9), tag="new")
    assert told(now.after(following))[:-1] == told(moments[-1].after(following))[:-1]
    chunks, checksum = moments[-1].columns.count, moments[-1].vectors.checksum
    assert now.differences(CollectionInfo("notes", "model", DIMENSIONS, chunks=chunks, checksum=checksum)) == []


class WatchedColumn(Column):
    """Calls back when its rows are read."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self._then = then

    def rows(self, count: int) -> NDArray[np.int32]:
        self._then()
        return super().rows(count)


def test_a_new_key_of_metadata_does_not_keep_columns_from_being_tidied():
    last = columns.empty_metadata_index()

    def write_a_new_key() -> None:
        last.after(NOTHING, np.array([3]), np.array([3]), [{"new": "x"}])

    last.columns["old"] = WatchedColumn(write_a_new_key)
    last = last.after(NOTHING, np.array([1, 2]), np.array([1, 2]), [{"old": "x"}, {"old": "y"}])
    tidied = last.tidied()
    assert tidied.matching(Eq("old", "y")).tolist() == [2]
    assert tidied.matching(Eq("new", "x")).tolist() == []


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Collection]:
    create_store(tmp_path, CollectionInfo("notes", "model", DIMENSIONS))
    store = Store(CollectionId("default", "notes"), tmp_path, 4)
    with closing(Collection(store, lambda _: empty_contents(SMALL))) as shelf:
        yield shelf


def write(shelf: Collection, *names: str) -> None:
    def made(name: str) -> EncodedDocument:
        text = f"note {name}"
        document, chunks = Document(name, "", text, {"kept": "yes"}), (Chunk(text, 0, len(text), ""),)
        return EncodedDocument(document, chunks, unit_vectors(1, len(name)), "given")

    shelf.change([lambda change: [change.put(made(name)) for name in names]])


def test_searches_find_what_was_written_all_the_while_that_a_tidied_index_takes_its_place(shelf: Collection):
    write(shelf, *(f"old{number}" for number in range(600)))
    tidied = shelf.begin_tidying()()
    for number in range(80):
        write(shelf, f"new{number}")
    write(shelf, "last")
    done, wrong, looked = threading.Event(), [], []

    def look() -> None:
        question = ResolvedQuery(
            "last", unit_vectors(1, len("last"))[0], "model", Eq("kept", "yes"), SearchOptions(top_k=5)
        )
        while not done.is_set() and not wrong:
            try:
                found = [passage.document_id for passage in shelf.search(question).passages]
                looked.append(found)
                if "last" not in found:
                    wrong.append(found)
            except Exception as error:
                wrong.append(error)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    while not looked and not wrong:
        done.wait(0.001)
    shelf.end_tidying(tidied)
    before = len(looked)
    while len(looked) == before and not wrong:
        done.wait(0.001)
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert shelf.checking().problems == ()
