"""Two rankings made one, and each candidate held against those that are most like it.

* `convex` sums the scores. Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (2023): a sum
  keeps how far apart the scores are, which a fusion by rank throws away.
* `rrf` sums reciprocal ranks. Cormack, Clarke and Buettcher (2009).
* Meaning is measured from the candidates' centre: what all of them have in common tells none of them apart.
* Support: what is like the good candidates is likelier to be good. Diaz, "Regularizing query-based retrieval scores"
  (2007), over the candidates alone.

The constants hold for collections that were not among those they were chosen on: benchmarks/RESULTS.md has the figures.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import FusionMethod, Vectors

Scores = NDArray[np.float64]

CENTRED_SHARE = 0.3  # of the meaning's score; the rest is the cosine as it is

DEFAULT_SPARSE_WEIGHT = 0.4  # where nobody has set one, and both sides order the candidates independently of each other
CORRELATION_WEIGHT = (
    0.25  # so much of the correlation of both sides' scores is added: words that contradict meaning are doubted
)
SPARSE_WEIGHT_RANGE = (0.1, 0.6)  # the least and the greatest that comes of it

RRF_K = 60

MAX_SUPPORTERS = 5  # that support a candidate
CANDIDATES_PER_SUPPORTER = (
    20  # candidates for each of them: in a handful, five would be everything, and pull all scores together
)
SUPPORT_WEIGHT = 0.1  # of the fused score
SPARSE_SUPPORT_WEIGHT = 0.1  # of the words' score, before: who says the same in other words has none of the query's


@dataclass(frozen=True, slots=True)
class FusionParameters:
    dense_weight: float | None = None  # 0 to 1; None: by how far both sides agree
    method: FusionMethod = FusionMethod.CONVEX


@dataclass(frozen=True, slots=True)
class Fused:
    """(candidates,) each; a total is the sum of its parts."""

    dense_weight: float
    dense: Scores
    sparse: Scores
    support: Scores

    @property
    def total(self) -> Scores:
        return self.dense + self.sparse + self.support

    @property
    def score(self) -> Scores:
        """0 to 1, in the order of the totals."""
        return 1.0 / (1.0 + np.exp(-self.total))


def fuse(dense: Scores, sparse: Scores, vectors: Vectors, weighing: FusionParameters) -> Fused:
    """`dense` are cosines, `sparse` BM25, 0 where no word was found; `vectors` are the candidates', of unit length."""
    if weighing.method is FusionMethod.RRF:
        return _fuse_by_rank(dense, sparse, 0.5 if weighing.dense_weight is None else weighing.dense_weight)
    meaning, words = _standardise(dense), _standardise(sparse)
    if weighing.dense_weight in (0.0, 1.0) or len(dense) < 2:  # one side alone is left as it is
        weight = 1.0 if weighing.dense_weight is None else weighing.dense_weight
        return Fused(weight, weight * meaning, (1.0 - weight) * words, np.zeros(len(dense)))
    meaning = _standardise(
        (1.0 - CENTRED_SHARE) * meaning + CENTRED_SHARE * _standardise(_centred_cosines(dense, vectors))
    )
    like = _NearestCandidates(vectors)
    weight = _dense_weight(meaning, words) if weighing.dense_weight is None else weighing.dense_weight
    words = _standardise(words + SPARSE_SUPPORT_WEIGHT * (like.mean(words) - words))
    parts = weight * meaning, (1.0 - weight) * words
    fused = parts[0] + parts[1]
    return Fused(weight, *parts, SUPPORT_WEIGHT * (like.mean(fused) - fused))


class _NearestCandidates:
    """Each candidate's nearest among the others, weighed by their cosines."""

    def __init__(self, vectors: Vectors) -> None:
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        count = min(MAX_SUPPORTERS, max(len(vectors) // CANDIDATES_PER_SUPPORTER, 1))
        self._nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        weights = np.maximum(np.take_along_axis(cosines, self._nearest, axis=1), 1e-6).astype(np.float64)
        self._weights = weights / weights.sum(axis=1, keepdims=True)

    def mean(self, scores: Scores) -> Scores:
        found: Scores = (self._weights * scores[self._nearest]).sum(axis=1)
        return found


def _centred_cosines(dense: Scores, vectors: Vectors) -> Scores:
    """The cosines, times one number, of candidates and query as they are seen from the candidates' centre."""
    centre = vectors.mean(axis=0)
    near, square = (vectors @ centre).astype(np.float64), float(centre @ centre)
    lengths = np.sqrt(np.maximum(1.0 - 2.0 * near + square, 1e-6))
    found: Scores = (dense - dense.mean() - near + square) / lengths
    return found


def _dense_weight(meaning: Scores, words: Scores) -> float:
    """Both standardised."""
    correlation = float(np.mean(meaning * words))
    return 1.0 - float(np.clip(DEFAULT_SPARSE_WEIGHT + CORRELATION_WEIGHT * correlation, *SPARSE_WEIGHT_RANGE))


def _standardise(scores: Scores) -> Scores:
    """To mean 0 and deviation 1; all 0 where they are equal."""
    deviation = scores.std()
    if deviation < 1e-9:
        return np.zeros(len(scores))
    found: Scores = (scores - scores.mean()) / deviation
    return found


def _fuse_by_rank(dense: Scores, sparse: Scores, dense_weight: float) -> Fused:
    found = sparse > 0.0
    return Fused(
        dense_weight,
        dense_weight / (RRF_K + ranks(dense)),
        np.where(found, (1.0 - dense_weight) / (RRF_K + ranks(sparse)), 0.0),
        np.zeros(len(dense)),
    )


def ranks(scores: Scores) -> NDArray[np.int64]:
    """1 for the greatest; equal ones in their order."""
    places = np.empty(len(scores), np.int64)
    places[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return places
