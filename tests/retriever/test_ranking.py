"""The parts of a ranking, each by itself."""

import faiss
import numpy as np
import pytest
from pointsman_retriever.index.dense import FaissIndex
from pointsman_retriever.index.fusion import fuse
from pointsman_retriever.index.words import MAX_WORDS, to_match


def test_the_fused_score_is_the_weighed_sum_of_both_sides_brought_to_0_to_1():
    ranked = fuse({1: 0.9, 2: 0.5, 3: 0.1}, {2: 8.0, 3: 4.0}, dense_weight=0.6, count=3)
    assert [one.chunk for one in ranked] == [2, 1, 3]
    assert [one.score for one in ranked] == pytest.approx([0.6 * 0.5 + 0.4, 0.6, 0.4 * 0.5])
    assert [(one.dense, one.sparse) for one in ranked] == [(0.5, 8.0), (0.9, 0.0), (0.1, 4.0)]


def test_equal_scores_on_a_side_do_not_move_the_other():
    assert [one.chunk for one in fuse({1: 0.2, 2: 0.4}, {}, 0.6, 2)] == [2, 1]
    assert [one.chunk for one in fuse({1: 0.3, 2: 0.3}, {1: 1.0, 2: 2.0}, 0.6, 2)] == [2, 1]
    assert fuse({}, {}, 0.6, 4) == []


def test_equal_chunks_come_in_a_fixed_order():
    assert [one.chunk for one in fuse({9: 0.5, 3: 0.5, 7: 0.5}, {}, 0.6, 2)] == [3, 7]


def test_a_match_is_made_of_quoted_words_each_once_and_not_too_many():
    assert to_match('Lost "umbrella" umbrella OR (hat*)') == '"lost" OR "umbrella" OR "hat"'
    assert to_match("How do I get there?") == '"get"'
    assert to_match("who?") == '"who"'
    assert to_match("?! __") is None
    assert to_match(" ".join(f"w{n}" for n in range(500))).count(" OR ") == MAX_WORDS - 1


@pytest.mark.parametrize("mirror", [None, faiss.clone_index], ids=["in place", "mirrored"])
def test_an_index_follows_its_changes(mirror):
    index, axes = FaissIndex(4, mirror), np.eye(4, dtype=np.float32)
    ids = np.array([10, 20, 30, 40], np.int64)

    def nearest(count: int = 2, among: list[int] | None = None) -> list[int]:
        query = np.array([0.9, 0.7, 0.5, 0.3], np.float32)
        return index.nearest(query, count, None if among is None else np.array(among, np.int64)).tolist()

    assert nearest() == []
    index.put(ids, axes)
    assert nearest() == [10, 20]
    assert nearest(9) == [10, 20, 30, 40]
    assert nearest(2, among=[40, 30, 20]) == [20, 30]
    assert nearest(2, among=[]) == []
    index.remove(np.array([10, 99], np.int64))
    assert nearest() == [20, 30]
    index.put(np.array([50], np.int64), axes[:1])
    assert nearest() == [50, 20]
    assert index.similarities(axes[0], np.array([20, 50], np.int64)).tolist() == [0.0, 1.0]
