"""Combines the dense scores (by meaning) and the sparse scores (by words) of a search's candidates into one score.

* `convex` scales both kinds of scores to mean 0 and standard deviation 1, and adds them with weights. Bruch, Gai and
  Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (2023): a sum keeps the distances between scores, which
  a fusion by rank loses.
* `rrf` adds reciprocal ranks, with weights. Cormack, Clarke and Buettcher (2009).

In `convex`, unless one kind has all the weight or there is only one candidate, there are two further parts:

* A part of the dense score is computed after the candidates' centroid is subtracted from all vectors, because what all
  candidates have in common does not distinguish them.
* Support: a candidate similar to good candidates is more likely to be good. Diaz, "Regularizing query-based retrieval
  scores" (2007), here over the candidates only.

The constants were chosen on other collections than those they were tested on: see benchmarks/RESULTS.md.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import FusionMethod, Vectors

Scores = NDArray[np.float64]

CENTRED_SHARE = 0.3  # of the dense score; the rest is the plain cosine

DEFAULT_SPARSE_WEIGHT = 0.4  # if nobody sets a weight and the two sides are uncorrelated
CORRELATION_WEIGHT = 0.25  # times the correlation of both sides is added: words that contradict the meaning count less
SPARSE_WEIGHT_RANGE = (0.1, 0.6)  # limits of the result

RRF_K = 60

MAX_SUPPORTERS = 5  # similar candidates that support a candidate
CANDIDATES_PER_SUPPORTER = 20  # with few candidates, five supporters would be all others and make all scores alike
SUPPORT_WEIGHT = 0.1  # of the fused score
SPARSE_SUPPORT_WEIGHT = 0.1  # of the sparse score, before fusion: a passage may say the same in other words


@dataclass(frozen=True, slots=True)
class FusionParameters:
    dense_weight: float | None = None  # 0 to 1; None: chosen by the agreement of both sides
    method: FusionMethod = FusionMethod.CONVEX


@dataclass(frozen=True, slots=True)
class FusedScores:
    """The parts of the candidates' fused scores: similarity of meaning (`dense`), common words (`sparse`), and
    similarity to other good candidates (`support`).

    Each part is an array (candidates,) that is already weighted; a candidate's total is the sum of its parts.
    `dense_weight` is the weight of meaning, 0 to 1.
    """

    dense_weight: float
    dense: Scores
    sparse: Scores
    support: Scores

    @property
    def total(self) -> Scores:
        return self.dense + self.sparse + self.support

    @property
    def score(self) -> Scores:
        """Returns the sum of each candidate's parts, mapped to 0 to 1 by the logistic function; used with the method
        CONVEX.
        """
        return 1.0 / (1.0 + np.exp(-self.total))


def fuse(dense: Scores, sparse: Scores, vectors: Vectors, parameters: FusionParameters) -> FusedScores:
    """Combines the dense scores (cosines) and the sparse scores (BM25) of the candidates, both (candidates,).

    A sparse score is 0 if the candidate has no word of the query. `vectors` are the candidates' unit vectors,
    (candidates, dimensions). If `parameters` has no dense weight, CONVEX chooses it by how well both scores correlate,
    and takes 1 for a single candidate; RRF takes 0.5.
    """
    if parameters.method is FusionMethod.RRF:
        return _fuse_by_rank(dense, sparse, 0.5 if parameters.dense_weight is None else parameters.dense_weight)
    meaning, words = _standardise(dense), _standardise(sparse)
    if parameters.dense_weight in (0.0, 1.0) or len(dense) < 2:  # a single side is used as it is
        weight = 1.0 if parameters.dense_weight is None else parameters.dense_weight
        return FusedScores(weight, weight * meaning, (1.0 - weight) * words, np.zeros(len(dense)))
    centred = _standardise(_centred_cosines(dense, vectors))
    meaning = _standardise((1.0 - CENTRED_SHARE) * meaning + CENTRED_SHARE * centred)
    similar = _SimilarCandidates(vectors)
    weight = _dense_weight(meaning, words) if parameters.dense_weight is None else parameters.dense_weight
    words = _standardise(words + SPARSE_SUPPORT_WEIGHT * (similar.mean(words) - words))
    parts = weight * meaning, (1.0 - weight) * words
    fused = parts[0] + parts[1]
    return FusedScores(weight, *parts, SUPPORT_WEIGHT * (similar.mean(fused) - fused))


class _SimilarCandidates:
    """For each candidate, the most similar other candidates, weighted by their cosine to it."""

    def __init__(self, vectors: Vectors) -> None:
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        count = min(MAX_SUPPORTERS, max(len(vectors) // CANDIDATES_PER_SUPPORTER, 1))
        self._nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        weights = np.maximum(np.take_along_axis(cosines, self._nearest, axis=1), 1e-6).astype(np.float64)
        self._weights = weights / weights.sum(axis=1, keepdims=True)

    def mean(self, scores: Scores) -> Scores:
        """Returns (candidates,): for each candidate the weighted mean score of the candidates similar to it."""
        found: Scores = (self._weights * scores[self._nearest]).sum(axis=1)
        return found


def _centred_cosines(dense: Scores, vectors: Vectors) -> Scores:
    """Returns the cosines, up to a common factor, after subtraction of the candidates' centroid.

    The centroid is subtracted from the candidates' vectors and from the query's.
    """
    centre = vectors.mean(axis=0)
    near, square = (vectors @ centre).astype(np.float64), float(centre @ centre)
    lengths = np.sqrt(np.maximum(1.0 - 2.0 * near + square, 1e-6))
    found: Scores = (dense - dense.mean() - near + square) / lengths
    return found


def _dense_weight(meaning: Scores, words: Scores) -> float:
    """Returns the weight of the dense scores, by the correlation of both scores, which must be standardised.

    The less they agree, the less the sparse scores weigh, within `SPARSE_WEIGHT_RANGE`.
    """
    correlation = float(np.mean(meaning * words))
    sparse_weight = np.clip(DEFAULT_SPARSE_WEIGHT + CORRELATION_WEIGHT * correlation, *SPARSE_WEIGHT_RANGE)
    return 1.0 - float(sparse_weight)


def _standardise(scores: Scores) -> Scores:
    """Scales scores to mean 0 and standard deviation 1; returns zeros if all are equal."""
    deviation = scores.std()
    if deviation < 1e-9:
        return np.zeros(len(scores))
    found: Scores = (scores - scores.mean()) / deviation
    return found


def _fuse_by_rank(dense: Scores, sparse: Scores, dense_weight: float) -> FusedScores:
    found = sparse > 0.0
    return FusedScores(
        dense_weight,
        dense_weight / (RRF_K + ranks(dense)),
        np.where(found, (1.0 - dense_weight) / (RRF_K + ranks(sparse)), 0.0),
        np.zeros(len(dense)),
    )


def ranks(scores: Scores) -> NDArray[np.int64]:
    """Returns the rank of each score, 1 for the greatest. Equal scores are ranked in their order."""
    places = np.empty(len(scores), np.int64)
    places[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return places
