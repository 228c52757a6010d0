"""Fusion of the dense and the sparse ranking."""

import numpy as np
import pytest
from pointsman_retriever.domain import FusionMethod
from pointsman_retriever.search.fusion import SUPPORT_WEIGHT, FusionParameters, fuse, ranks

APART = np.eye(6, dtype=np.float32)  # vectors without any similarity


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def test_the_parts_add_up_to_the_total_and_scores_range_from_0_to_1() -> None:
    fused = fuse(scores(0.9, 0.5, 0.1), scores(0.0, 8.0, 4.0), APART[:3], FusionParameters())
    assert fused.total == pytest.approx(fused.dense + fused.sparse + fused.support)
    assert fused.score == pytest.approx(1.0 / (1.0 + np.exp(-fused.total)))


def test_the_weight_shifts_the_order_from_words_to_meaning() -> None:
    dense, sparse = scores(0.9, 0.5, 0.1), scores(1.0, 2.0, 9.0)
    first = [
        int(np.argmax(fuse(dense, sparse, APART[:3], FusionParameters(weight)).score))
        for weight in (0.0, 0.1, 0.9, 1.0)
    ]
    assert first == [2, 2, 0, 0]


def test_a_single_side_keeps_its_order() -> None:
    alike = np.ones((3, 4), np.float32) / 2.0
    dense = fuse(scores(0.1, 0.9, 0.5), scores(9.0, 0.0, 0.0), alike, FusionParameters(1.0))
    assert np.argsort(-dense.score).tolist() == [1, 2, 0]
    assert not dense.support.any()
    assert not dense.sparse.any()


def test_words_count_less_if_they_contradict_the_meaning() -> None:
    dense = scores(0.9, 0.7, 0.5, 0.3, 0.1)
    agreeing = fuse(dense, scores(9.0, 7.0, 5.0, 3.0, 1.0), APART[:5], FusionParameters()).dense_weight
    contradicting = fuse(dense, scores(1.0, 3.0, 5.0, 7.0, 9.0), APART[:5], FusionParameters()).dense_weight
    assert agreeing < contradicting
    assert 0.4 <= agreeing < contradicting <= 0.9


def test_what_all_candidates_share_does_not_affect_the_order() -> None:
    """Two candidates are equally near to the query: one only in the component that all candidates share, the other only
    in its own.
    """
    vectors = np.array([[0.9, 0.1, 0.0], [0.7, 0.4, 0.0], *[[0.9, 0.0, 0.1 * n] for n in range(8)]], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[0] + vectors[1]
    dense = (vectors @ (query / np.linalg.norm(query))).astype(np.float64)
    assert dense[0] == pytest.approx(dense[1])
    fused = fuse(dense, np.zeros(len(dense)), vectors, FusionParameters(0.9))
    assert fused.dense[1] > fused.dense[0]


def test_candidates_similar_to_good_ones_gain_support() -> None:
    """The last two candidates have equal scores; one of them is similar to the best."""
    dense, sparse = scores(0.9, 0.8, 0.2, 0.1, 0.4, 0.4), scores(5.0, 4.0, 0.5, 0.0, 1.0, 1.0)
    vectors = APART.copy()
    vectors[4] = 0.8 * APART[0] + 0.6 * APART[4]
    vectors[5] = 0.8 * APART[3] + 0.6 * APART[5]
    fused = fuse(dense, sparse, vectors, FusionParameters())
    assert fused.support[4] > fused.support[5]
    assert fused.score[4] > fused.score[5]


def test_among_few_candidates_only_the_most_similar_supports() -> None:
    """The last candidate is the most similar to the best; it is also slightly similar to all others, which score
    badly.
    """
    dense, sparse = scores(0.9, 0.1, 0.1, 0.1, 0.1, 0.5), scores(5.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    vectors = APART.copy()
    vectors[5] = [0.8, 0.3, 0.3, 0.3, 0.3, 0.0]
    fused = fuse(dense, sparse, vectors, FusionParameters())
    own = fused.dense + fused.sparse
    assert fused.support[5] == pytest.approx(SUPPORT_WEIGHT * (own[0] - own[5]))


def test_equal_scores_on_one_side_do_not_affect_the_order() -> None:
    nothing = fuse(scores(0.2, 0.4), scores(0.0, 0.0), APART[:2], FusionParameters(0.5))
    assert nothing.score[1] > nothing.score[0]
    words = fuse(scores(0.3, 0.3), scores(1.0, 2.0), APART[:2], FusionParameters(0.5))
    assert words.score[1] > words.score[0]


@pytest.mark.parametrize("method", list(FusionMethod))
@pytest.mark.parametrize("weight", [None, 0.0, 0.5, 1.0])
def test_a_single_candidate_has_a_score(method: FusionMethod, weight: float | None) -> None:
    fused = fuse(scores(0.3), scores(2.0), APART[:1], FusionParameters(weight, method))
    assert np.isfinite(fused.total).all()


def test_rrf_depends_on_ranks_only() -> None:
    fused = fuse(scores(0.9, 0.2, 0.1), scores(1.0, 100.0, 0.0), APART[:3], FusionParameters(0.5, FusionMethod.RRF))
    assert fused.total == pytest.approx([0.5 / 61 + 0.5 / 62, 0.5 / 62 + 0.5 / 61, 0.5 / 63])
    assert not fused.support.any()


def test_equal_scores_keep_their_order() -> None:
    assert ranks(scores(0.5, 0.9, 0.5)).tolist() == [2, 1, 3]
