"""What every index must do, whatever it is made of: FAISS in each of its shapes, and Milvus."""

from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
from pointsman_retriever import digests
from pointsman_retriever.domain import CollectionInfo, Ids, Vectors
from pointsman_retriever.index import dense
from pointsman_retriever.index.contents import VectorIndex
from pointsman_retriever.index.dense import IndexThresholds

DIMENSIONS = 16
NOTHING = np.empty(0, np.int64)

Make = Callable[[], VectorIndex]


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory):
    """Milvus Lite, where its package is installed."""
    module = pytest.importorskip("pointsman_retriever.index.milvus", exc_type=ImportError)
    held = module.Milvus(str(tmp_path_factory.mktemp("milvus") / "lite.db"), "", "conformance")
    yield held
    held.close()


@pytest.fixture(params=["flat", "sealed", "mirrored", "milvus"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    small = IndexThresholds(flat=20, gathered=3, tail=0.5)
    made: list[VectorIndex] = []

    def make() -> VectorIndex:
        if request.param == "milvus":
            collection = CollectionInfo("notes", "model", DIMENSIONS)
            made.append(request.getfixturevalue("milvus").empty(collection))
            return made[-1]
        mirror = faiss.clone_index if request.param == "mirrored" else None  # stands for a GPU's copy
        return dense.empty_faiss_index(DIMENSIONS, IndexThresholds() if request.param == "flat" else small, mirror)

    yield make
    for index in made:
        index.close()


def some_vectors(count: int, seed: int = 1) -> Vectors:
    """Around a few centres, as texts are."""
    random, centres = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(8, DIMENSIONS))
    vectors = centres[random.integers(0, 8, count)] + 0.4 * random.normal(size=(count, DIMENSIONS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def ids(*numbers: int) -> Ids:
    return np.array(numbers, np.int64)


def tidied(index: VectorIndex) -> VectorIndex:
    return index.tidied() if index.wants_tidying else index


def exact(held: dict[int, Vectors], query: Vectors, count: int) -> list[int]:
    return sorted(held, key=lambda chunk: -float(held[chunk] @ query))[:count]


def test_an_empty_index_finds_nothing(make: Make):
    assert make().nearest(some_vectors(1)[0], 5, None).tolist() == []
    assert (make().count, make().checksum) == (0, 0)


def test_the_nearest_come_first_and_no_more_than_there_are(make: Make):
    vectors = some_vectors(5)
    index = make().after(NOTHING, ids(3, 5, 8, 13, 21), vectors)
    held = dict(zip([3, 5, 8, 13, 21], vectors, strict=True))
    query = some_vectors(1, seed=2)[0]
    assert index.nearest(query, 3, None).tolist() == exact(held, query, 3)
    assert index.nearest(query, 100, None).tolist() == exact(held, query, 5)


def test_what_is_removed_never_comes_back_and_what_is_added_is_found_at_once(make: Make):
    random, index, held, last = np.random.default_rng(7), make(), {}, 0
    for turn in range(8):
        gone = [chunk for chunk in held if random.random() < 0.3]
        vectors = some_vectors(12, seed=turn)
        added = list(range(last + 1, last + 13))
        index = tidied(index.after(ids(*gone), ids(*added), vectors))
        held = {chunk: vector for chunk, vector in held.items() if chunk not in gone}
        held.update(zip(added, vectors, strict=True))
        last += 12
        for chunk in added[:3]:
            assert index.nearest(held[chunk], 1, None).tolist() == [chunk]
        everything = index.nearest(vectors[0], len(held) + 50, None).tolist()
        assert sorted(everything) == sorted(held)
        assert index.count == len(held)
        assert index.checksum == digests.checksum_vectors(
            ids(*sorted(held)), np.stack([held[one] for one in sorted(held)])
        )


def test_ids_that_are_not_there_are_removed_without_effect(make: Make):
    index = make().after(NOTHING, ids(1, 2), some_vectors(2))
    assert index.after(ids(2, 99), NOTHING, some_vectors(0)).count == 1
    assert index.after(ids(7, 99), NOTHING, some_vectors(0)).checksum == index.checksum


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_a_restriction_is_kept_exactly_at_any_selectivity(make: Make, share: float):
    vectors = some_vectors(400)
    index = tidied(make().after(NOTHING, np.arange(1, 401), vectors))
    allowed = np.sort(np.random.default_rng(3).permutation(np.arange(1, 401))[: int(400 * share)])
    held = {int(chunk): vectors[chunk - 1] for chunk in allowed}
    for query in some_vectors(5, seed=4):
        found = index.nearest(query, 10, allowed).tolist()
        assert len(found) == min(10, len(allowed))
        assert set(found) <= set(held)
        assert len(set(found) & set(exact(held, query, 10))) >= 0.9 * len(found)
    assert index.nearest(vectors[0], 10, NOTHING).tolist() == []
    assert index.nearest(vectors[0], 10, ids(1_000, 2_000)).tolist() == []


def test_vectors_are_given_back_in_the_order_asked(make: Make):
    vectors = some_vectors(30)
    index = tidied(make().after(NOTHING, np.arange(1, 31), vectors)).after(ids(4), ids(40), some_vectors(1, seed=9))
    assert np.allclose(
        index.of(ids(30, 2, 40)), np.stack([vectors[29], vectors[1], some_vectors(1, seed=9)[0]]), atol=1e-6
    )
    assert index.of(NOTHING).shape == (0, DIMENSIONS)


def test_a_change_that_came_to_nothing_leaves_no_trace(make: Make):
    vectors = some_vectors(6)
    before = make().after(NOTHING, ids(1, 2, 3), vectors[:3])
    before.after(ids(1), ids(4, 5), vectors[3:5])  # and its commit fails: the ids are given again
    assert sorted(before.nearest(vectors[3], 9, None).tolist()) == [1, 2, 3]
    following = before.after(ids(2), ids(4), vectors[5:])
    assert sorted(following.nearest(vectors[3], 9, None).tolist()) == [1, 3, 4]
    assert following.checksum == digests.checksum_vectors(ids(1, 3, 4), vectors[[0, 2, 5]])
    assert np.allclose(following.of(ids(4)), vectors[5:], atol=1e-6)


def test_who_searches_a_moment_does_not_see_the_next_one(make: Make):
    vectors = some_vectors(6)
    before = make().after(NOTHING, ids(1, 2, 3), vectors[:3])
    after = before.after(ids(2), ids(4, 5, 6), vectors[3:])
    assert sorted(before.nearest(vectors[1], 9, None).tolist()) == [1, 2, 3]
    assert sorted(after.nearest(vectors[1], 9, None).tolist()) == [1, 3, 4, 5, 6]


@pytest.mark.gpu
@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="no GPU, or FAISS without one")
def test_a_gpu_finds_what_the_processor_finds():
    vectors = some_vectors(2_000)
    small = IndexThresholds(flat=20, gathered=3)
    index = dense.empty_faiss_index(DIMENSIONS, small, faiss.index_cpu_to_all_gpus).after(
        NOTHING, np.arange(1, 2_001), vectors
    )
    plain = dense.empty_faiss_index(DIMENSIONS, small).after(NOTHING, np.arange(1, 2_001), vectors)
    index, plain = index.tidied().after(ids(5), NOTHING, some_vectors(0)), plain.after(ids(5), NOTHING, some_vectors(0))
    for query in some_vectors(20, seed=4):
        found, true = index.nearest(query, 10, None).tolist(), plain.nearest(query, 10, None).tolist()
        assert 5 not in found
        assert len(set(found) & set(true)) >= 9


def test_milvus_keeps_to_its_own_prefix(tmp_path: Path):
    module = pytest.importorskip("pointsman_retriever.index.milvus", exc_type=ImportError)
    uri = str(tmp_path / "lite.db")
    ours = module.Milvus(uri, "", "ours").empty(CollectionInfo("notes", "model", DIMENSIONS))
    theirs = module.Milvus(uri, "", "theirs")
    kept = theirs.empty(CollectionInfo("notes", "model", DIMENSIONS)).after(NOTHING, ids(1), some_vectors(1))
    module.Milvus(uri, "", "ours")  # a second start drops what the first one left
    assert kept.nearest(some_vectors(1)[0], 1, None).tolist() == [1]
    assert ours.name not in theirs._client.list_collections()
    theirs.close()
