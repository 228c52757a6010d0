"""The contract of VectorIndex, tested with FAISS in each of its shapes, Milvus, and the example in
docs/extending.md."""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import faiss
import numpy as np
import pytest
from pointsman_retriever import digests
from pointsman_retriever.domain import CollectionInfo, Ids, Vectors
from pointsman_retriever.index import faiss_index
from pointsman_retriever.index.faiss_index import IndexThresholds
from pointsman_retriever.index.ivf_index import Gpu, first_gpu
from pointsman_retriever.index.vector_stores import VectorIndex, VectorStore, VectorStoreOptions

from tests.extension_examples import install

DIMENSIONS = 16
NOTHING = np.empty(0, np.int64)

Make = Callable[[], VectorIndex]


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorStore]:
    """Milvus Lite; skips the test if its package is not installed."""
    module = pytest.importorskip("pointsman_retriever.index.milvus", exc_type=ImportError)
    stored = module.MilvusStore(
        VectorStoreOptions(str(tmp_path_factory.mktemp("milvus") / "lite.db"), "", "conformance")
    )
    yield stored
    stored.close()


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VectorStore:
    """The vector store of docs/extending.md."""
    install(tmp_path, monkeypatch)
    store: VectorStore = import_module("pointsman_examples.vector_store").NumpyStore(VectorStoreOptions())
    return store


@pytest.fixture(params=["flat", "ivf", "gpu", "milvus", "example"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    small = IndexThresholds(max_flat=20, max_exact_filtered=3, max_unindexed_share=0.5)
    made: list[VectorIndex] = []

    def make() -> VectorIndex:
        if request.param in ("milvus", "example"):
            collection = CollectionInfo("notes", "model", DIMENSIONS)
            made.append(request.getfixturevalue(request.param).empty_index(collection))
            return made[-1]
        gpu = Gpu(faiss.clone_index) if request.param == "gpu" else None  # a copy stands in for the one on a GPU
        return faiss_index.empty_faiss_index(DIMENSIONS, IndexThresholds() if request.param == "flat" else small, gpu)

    yield make
    for index in made:
        index.close()


def some_vectors(count: int, seed: int = 1) -> Vectors:
    """Returns unit vectors around a few centres, similar to embeddings of texts."""
    random, centres = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(8, DIMENSIONS))
    vectors = centres[random.integers(0, 8, count)] + 0.4 * random.normal(size=(count, DIMENSIONS))
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def ids(*numbers: int) -> Ids:
    return np.array(numbers, np.int64)


def compacted(index: VectorIndex) -> VectorIndex:
    return index.compacted() if index.needs_compaction else index


def exact(stored: dict[int, Vectors], query: Vectors, count: int) -> list[int]:
    return sorted(stored, key=lambda chunk: -float(stored[chunk] @ query))[:count]


def test_an_empty_index_finds_nothing(make: Make) -> None:
    assert make().nearest(some_vectors(1)[0], 5, None).tolist() == []
    assert (make().count, make().checksum) == (0, 0)


def test_the_nearest_come_first(make: Make) -> None:
    vectors = some_vectors(5)
    index = make().with_changes(NOTHING, ids(3, 5, 8, 13, 21), vectors)
    stored = dict(zip([3, 5, 8, 13, 21], vectors, strict=True))
    query = some_vectors(1, seed=2)[0]
    assert index.nearest(query, 3, None).tolist() == exact(stored, query, 3)
    assert index.nearest(query, 100, None).tolist() == exact(stored, query, 5)


def test_removed_vectors_never_return_and_added_ones_are_found_at_once(make: Make) -> None:
    random, index, last = np.random.default_rng(7), make(), 0
    stored: dict[int, Vectors] = {}
    for turn in range(8):
        gone = [chunk for chunk in stored if random.random() < 0.3]
        vectors = some_vectors(12, seed=turn)
        added = list(range(last + 1, last + 13))
        index = compacted(index.with_changes(ids(*gone), ids(*added), vectors))
        stored = {chunk: vector for chunk, vector in stored.items() if chunk not in gone}
        stored.update(zip(added, vectors, strict=True))
        last += 12
        for chunk in added[:3]:
            assert index.nearest(stored[chunk], 1, None).tolist() == [chunk]
        everything = index.nearest(vectors[0], len(stored) + 50, None).tolist()
        assert sorted(everything) == sorted(stored)
        assert index.count == len(stored)
        assert index.checksum == digests.checksum_vectors(
            ids(*sorted(stored)), np.stack([stored[one] for one in sorted(stored)])
        )


def test_removing_unknown_ids_has_no_effect(make: Make) -> None:
    index = make().with_changes(NOTHING, ids(1, 2), some_vectors(2))
    assert index.with_changes(ids(2, 99), NOTHING, some_vectors(0)).count == 1
    assert index.with_changes(ids(7, 99), NOTHING, some_vectors(0)).checksum == index.checksum


def test_an_unknown_id_is_not_mistaken_for_the_next_stored_one(make: Make) -> None:
    vectors = some_vectors(3)
    index = make().with_changes(NOTHING, ids(7, 9, 10), vectors).with_changes(ids(5, 7, 8), NOTHING, vectors[:0])
    assert index.count == 2
    assert index.checksum == digests.checksum_vectors(ids(9, 10), vectors[1:])
    assert index.nearest(vectors[1], 3, None).tolist()[0] == 9


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_a_filter_is_exact_at_any_selectivity(make: Make, share: float) -> None:
    vectors = some_vectors(400)
    index = compacted(make().with_changes(NOTHING, np.arange(1, 401), vectors))
    allowed = np.sort(np.random.default_rng(3).permutation(np.arange(1, 401))[: int(400 * share)])
    stored = {int(chunk): vectors[chunk - 1] for chunk in allowed}
    for query in some_vectors(5, seed=4):
        found = index.nearest(query, 10, allowed).tolist()
        assert len(found) == min(10, len(allowed))
        assert set(found) <= set(stored)
        assert len(set(found) & set(exact(stored, query, 10))) >= 0.9 * len(found)
    assert index.nearest(vectors[0], 10, NOTHING).tolist() == []
    assert index.nearest(vectors[0], 10, ids(1_000, 2_000)).tolist() == []


def test_get_returns_vectors_in_the_order_of_the_ids(make: Make) -> None:
    vectors = some_vectors(30)
    index = compacted(make().with_changes(NOTHING, np.arange(1, 31), vectors)).with_changes(
        ids(4), ids(40), some_vectors(1, seed=9)
    )
    assert np.allclose(
        index.get(ids(30, 2, 40)), np.stack([vectors[29], vectors[1], some_vectors(1, seed=9)[0]]), atol=1e-6
    )
    assert index.get(NOTHING).shape == (0, DIMENSIONS)


def test_a_change_that_is_not_committed_leaves_no_trace(make: Make) -> None:
    vectors = some_vectors(6)
    before = make().with_changes(NOTHING, ids(1, 2, 3), vectors[:3])
    before.with_changes(ids(1), ids(4, 5), vectors[3:5])  # its commit fails: the ids are used again
    assert sorted(before.nearest(vectors[3], 9, None).tolist()) == [1, 2, 3]
    following = before.with_changes(ids(2), ids(4), vectors[5:])
    assert sorted(following.nearest(vectors[3], 9, None).tolist()) == [1, 3, 4]
    assert following.checksum == digests.checksum_vectors(ids(1, 3, 4), vectors[[0, 2, 5]])
    assert np.allclose(following.get(ids(4)), vectors[5:], atol=1e-6)


def test_a_snapshot_does_not_show_later_changes(make: Make) -> None:
    vectors = some_vectors(6)
    before = make().with_changes(NOTHING, ids(1, 2, 3), vectors[:3])
    after = before.with_changes(ids(2), ids(4, 5, 6), vectors[3:])
    assert sorted(before.nearest(vectors[1], 9, None).tolist()) == [1, 2, 3]
    assert sorted(after.nearest(vectors[1], 9, None).tolist()) == [1, 3, 4, 5, 6]


def test_searches_that_a_gpu_cannot_answer_are_counted_and_answered_by_the_cpu() -> None:
    searches: list[str] = []
    small = IndexThresholds(max_flat=20, max_exact_filtered=3)
    stored = faiss_index.empty_faiss_index(DIMENSIONS, small, Gpu(faiss.clone_index, searches.append)).with_changes(
        NOTHING, np.arange(1, 5_001), some_vectors(5_000)
    )
    index, query = stored.compacted(), some_vectors(1, seed=4)[0]
    for count, among in ((5, None), (5, np.arange(1, 4_000)), (5, ids(10, 20, 30, 40, 50, 60)), (1_000, None)):
        allowed = np.arange(1, 5_001) if among is None else among
        found = index.nearest(query, count, among)
        assert len(set(found.tolist()) & set(allowed.tolist())) == count
    assert searches == ["gpu", "gpu", "cpu", "cpu"]


@pytest.mark.gpu
@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="no GPU, or FAISS without one")
def test_a_gpu_finds_what_the_cpu_finds() -> None:
    vectors = some_vectors(2_000)
    small = IndexThresholds(max_flat=20, max_exact_filtered=3)
    index = faiss_index.empty_faiss_index(DIMENSIONS, small, first_gpu()).with_changes(
        NOTHING, np.arange(1, 2_001), vectors
    )
    plain = faiss_index.empty_faiss_index(DIMENSIONS, small).with_changes(NOTHING, np.arange(1, 2_001), vectors)
    index, plain = (
        index.compacted().with_changes(ids(5), NOTHING, some_vectors(0)),
        plain.with_changes(ids(5), NOTHING, some_vectors(0)),
    )
    for query in some_vectors(20, seed=4):
        found, true = index.nearest(query, 10, None).tolist(), plain.nearest(query, 10, None).tolist()
        assert 5 not in found
        assert len(set(found) & set(true)) >= 9


def test_a_milvus_store_drops_only_collections_with_its_prefix(tmp_path: Path) -> None:
    module = pytest.importorskip("pointsman_retriever.index.milvus", exc_type=ImportError)
    uri = str(tmp_path / "lite.db")
    ours = module.MilvusStore(VectorStoreOptions(uri, "", "ours")).empty_index(
        CollectionInfo("notes", "model", DIMENSIONS)
    )
    theirs = module.MilvusStore(VectorStoreOptions(uri, "", "theirs"))
    kept = theirs.empty_index(CollectionInfo("notes", "model", DIMENSIONS)).with_changes(
        NOTHING, ids(1), some_vectors(1)
    )
    module.MilvusStore(VectorStoreOptions(uri, "", "ours"))  # a second start drops the collections of the first
    assert kept.nearest(some_vectors(1)[0], 1, None).tolist() == [1]
    assert ours.name not in theirs._client.list_collections()
    theirs.close()
