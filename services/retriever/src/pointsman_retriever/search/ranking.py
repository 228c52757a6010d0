"""Ranks the chunks of one collection: finds candidates by meaning and by words, fuses scores, diversifies and cuts."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pointsman_retriever.domain import (
    Explanation,
    FusionMethod,
    Ids,
    RankedChunk,
    Relevance,
    SearchOptions,
    SearchSettings,
    Vectors,
)
from pointsman_retriever.filters import Filter
from pointsman_retriever.index.snapshot import IndexSnapshot
from pointsman_retriever.search.fusion import RRF_K, FusedScores, FusionParameters, Scores, fuse, ranks

CANDIDATES_PER_SIDE = 100  # equal to the greatest top_k

_RRF_SCALE = 1.0 + RRF_K  # gives a score of 1 to a chunk that is first on both sides


@dataclass(frozen=True, slots=True)
class ResolvedQuery:
    """A search query, checked against the limits.

    `vector` is the embedding of its text, of length 1, and `fingerprint` identifies the model that made the vector.
    """

    text: str
    vector: Vectors
    fingerprint: str  # of the model that made the vector
    filter: Filter | None
    options: SearchOptions


@dataclass(frozen=True, slots=True)
class Ranking:
    chunks: tuple[RankedChunk, ...]  # best first
    relevance: Relevance


EMPTY_RANKING = Ranking((), Relevance(False, 0.0, 0.0))


class Stopwatch:
    """Measures the seconds of each phase of a search; the first phase begins when the stopwatch is created."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}  # seconds by phase
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Ends the phase `phase` of the search: records the time since the end of the phase before as its duration."""
        now = time.perf_counter()
        self.timings[phase] = now - self._last
        self._last = now


@dataclass(frozen=True, slots=True)
class ScoredCandidates:
    """The chunks among which a search chooses its results, as parallel arrays (candidates, ...) of ids, vectors and
    scores.
    """

    ids: Ids
    vectors: Vectors
    dense: Scores  # cosines
    sparse: Scores  # BM25
    coverage: Scores  # see Relevance


def rank(snapshot: IndexSnapshot, query: ResolvedQuery, settings: SearchSettings) -> Ranking:
    """Returns the best chunks of an index snapshot for a query, and whether they are relevant. There are at most as
    many as the query's `top_k`.

    `settings` are the search settings of the collection. The function blocks its thread.
    """
    parameters = resolve_fusion(query.options, settings)
    candidates = _find_candidates(snapshot, query, parameters)
    return rank_candidates(candidates, query.options, parameters, settings, snapshot.metadata.documents_of)


def rank_candidates(
    candidates: ScoredCandidates,
    options: SearchOptions,
    parameters: FusionParameters,
    settings: SearchSettings,
    documents_of: Callable[[Ids], Ids],
) -> Ranking:
    """Orders the candidates of a search, and returns at most `options.top_k` of them.

    `documents_of` returns the row number of the document of each chunk id. `parameters` come from `resolve_fusion`.
    """
    if not len(candidates.ids):
        return EMPTY_RANKING
    fused = fuse(candidates.dense, candidates.sparse, candidates.vectors, parameters)
    score = fused.score if parameters.method is FusionMethod.CONVEX else fused.total * _RRF_SCALE
    order = np.lexsort((candidates.ids, -score))
    if options.diversity:
        order = _diversify(order, score, candidates.vectors, options)
    if options.per_document:
        order = _limit_per_document(order, documents_of(candidates.ids), options.per_document)
    chunks = _to_ranked_chunks(order[: options.top_k], candidates, fused, score)
    return Ranking(chunks, _judge_relevance(candidates, settings))


def resolve_fusion(options: SearchOptions, settings: SearchSettings) -> FusionParameters:
    """Returns the fusion method and the weight of the dense scores for a query. Values that the query does not set are
    taken from the collection's settings.

    If the query sets a method, the collection's weight is ignored, since it was chosen for the collection's method.
    """
    if options.method is not None:
        return FusionParameters(options.dense_weight, options.method)
    weight = settings.dense_weight if options.dense_weight is None else options.dense_weight
    return FusionParameters(weight, settings.method)


def _find_candidates(snapshot: IndexSnapshot, query: ResolvedQuery, parameters: FusionParameters) -> ScoredCandidates:
    among = None if query.filter is None else snapshot.metadata.matching(query.filter)
    words = snapshot.words.score(query.text)
    by_meaning = by_words = np.empty(0, np.int64)
    if parameters.dense_weight != 0.0:
        by_meaning = snapshot.vectors.nearest(query.vector, CANDIDATES_PER_SIDE, among)
    if parameters.dense_weight != 1.0:
        by_words = words.best(CANDIDATES_PER_SIDE, among)
    ids = np.union1d(by_meaning, by_words)
    vectors = snapshot.vectors.get(ids)
    return ScoredCandidates(
        ids=ids,
        vectors=vectors,
        dense=cosines(vectors, query.vector),
        sparse=words.scores_of(ids),
        coverage=words.coverage(ids),
    )


def cosines(vectors: Vectors, vector: Vectors) -> Scores:
    """Returns the cosine of each of the unit `vectors` (candidates, dimensions) to a unit vector."""
    found: Scores = np.clip(vectors @ vector, -1.0, 1.0).astype(np.float64)
    return found


def _diversify(order: Ids, score: Scores, vectors: Vectors, options: SearchOptions) -> Ids:
    """Moves candidates to the front by maximal marginal relevance (Carbonell and Goldstein, 1998).

    The front has `top_k` candidates, or twice as many if there is a limit for each document, chosen one by one among
    all candidates. The remaining candidates follow in the order of `order`.
    """
    count = min(len(order), options.top_k * max(1, 2 * bool(options.per_document)))
    remaining, chosen = order.tolist(), [int(order[0])]
    remaining.pop(0)
    max_cosine = vectors @ vectors[chosen[0]]
    while remaining and len(chosen) < count:
        gain = (1.0 - options.diversity) * score[remaining] - options.diversity * max_cosine[remaining]
        chosen.append(remaining.pop(int(np.argmax(gain))))
        max_cosine = np.maximum(max_cosine, vectors @ vectors[chosen[-1]])
    return np.array(chosen + remaining, np.int64)


def _limit_per_document(order: Ids, documents: Ids, limit: int) -> Ids:
    """Keeps the first `limit` candidates of each document, in their order; `documents` is each candidate's document."""
    seen: Counter[int] = Counter()
    kept = []
    for place in order.tolist():
        seen[int(documents[place])] += 1
        if seen[int(documents[place])] <= limit:
            kept.append(place)
    return np.array(kept, np.int64)


def _to_ranked_chunks(
    order: Ids, candidates: ScoredCandidates, fused: FusedScores, score: Scores
) -> tuple[RankedChunk, ...]:
    dense_ranks, sparse_ranks = ranks(candidates.dense), ranks(candidates.sparse)
    return tuple(
        RankedChunk(
            chunk=int(candidates.ids[place]),
            score=float(np.clip(score[place], 0.0, 1.0)),
            dense=float(candidates.dense[place]),
            sparse=float(candidates.sparse[place]),
            explanation=Explanation(
                dense_rank=int(dense_ranks[place]),
                sparse_rank=int(sparse_ranks[place]) if candidates.sparse[place] > 0.0 else 0,
                dense_weight=fused.dense_weight,
                dense_part=float(fused.dense[place]),
                sparse_part=float(fused.sparse[place]),
                support_part=float(fused.support[place]),
            ),
        )
        for place in order.tolist()
    )


def _judge_relevance(candidates: ScoredCandidates, settings: SearchSettings) -> Relevance:
    dense, coverage = float(candidates.dense.max()), float(candidates.coverage.max())
    return Relevance(dense >= settings.least_dense or coverage >= settings.least_coverage, dense, coverage)
