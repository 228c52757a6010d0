"""A search: candidates from both sides, fused, thinned out, and cut to what was asked for."""

import json
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from pointsman_retriever.domain import Explanation, FusionMethod, Ids, RankedChunk, Relevance, SearchOptions, Vectors
from pointsman_retriever.filters import Filter
from pointsman_retriever.fusion import RRF_K, Fused, FusionParameters, Scores, fuse, ranks
from pointsman_retriever.index.contents import IndexSnapshot

CANDIDATES_PER_SIDE = 100  # candidates from each side; as many as the greatest top_k

_RRF_SCALE = 1.0 + RRF_K  # brings the score of what is first on both sides to 1


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """A collection's own settings, for what a query does not say, and for what deserves to be shown."""

    dense_weight: float | None = None  # None: by how far both sides agree, each time
    method: FusionMethod = FusionMethod.CONVEX
    # Both together keep 99 % of the queries of four judged collections, and refuse 84 % of those of the other three.
    least_dense: float = 0.35  # a cosine
    least_coverage: float = 0.6  # see Relevance


def parse_search_settings(settings: str) -> SearchSettings:
    """From the JSON that the collection keeps; what it does not say is as it comes."""
    said = json.loads(settings)
    return SearchSettings(**{**said, **({"method": FusionMethod(said["method"])} if "method" in said else {})})


def serialize_search_settings(standard: SearchSettings) -> str:
    return json.dumps({**asdict(standard), "method": standard.method.value})


@dataclass(frozen=True, slots=True)
class ResolvedQuery:
    """A query with everything settled."""

    text: str
    vector: Vectors
    fingerprint: str  # of the model that made the vector
    filter: Filter | None
    wishes: SearchOptions


@dataclass(frozen=True, slots=True)
class Ranking:
    ranked: tuple[RankedChunk, ...]  # best first
    relevance: Relevance


@dataclass(frozen=True, slots=True)
class _Candidates:
    """(candidates,) each."""

    ids: Ids
    vectors: Vectors
    dense: Scores  # cosines
    sparse: Scores  # BM25
    coverage: Scores  # see Relevance


EMPTY_RANKING = Ranking((), Relevance(False, 0.0, 0.0))


def rank(contents: IndexSnapshot, question: ResolvedQuery, standard: SearchSettings) -> Ranking:
    """Blocks; reads the one moment that `contents` are of."""
    wishes, weighing = question.wishes, _resolve_fusion(question.wishes, standard)
    candidates = _find_candidates(contents, question, weighing)
    if not len(candidates.ids):
        return EMPTY_RANKING
    fused = fuse(candidates.dense, candidates.sparse, candidates.vectors, weighing)
    score = fused.score if weighing.method is FusionMethod.CONVEX else fused.total * _RRF_SCALE
    order = np.lexsort((candidates.ids, -score))
    if wishes.diversity:
        order = _diversify(order, score, candidates.vectors, wishes)
    if wishes.per_document:
        order = _limit_per_document(order, contents.columns.documents_of(candidates.ids), wishes.per_document)
    ranked = _to_ranked_chunks(order[: wishes.top_k], candidates, fused, score)
    return Ranking(ranked, _judge_relevance(candidates, standard))


def _resolve_fusion(wishes: SearchOptions, standard: SearchSettings) -> FusionParameters:
    """A query that says how to fuse means it whole: the collection's own weight is for its own way."""
    if wishes.method is not None:
        return FusionParameters(wishes.dense_weight, wishes.method)
    weight = standard.dense_weight if wishes.dense_weight is None else wishes.dense_weight
    return FusionParameters(weight, standard.method)


def _find_candidates(contents: IndexSnapshot, question: ResolvedQuery, weighing: FusionParameters) -> _Candidates:
    among = None if question.filter is None else contents.columns.matching(question.filter)
    words = contents.words.scored(question.text)
    by_meaning = by_words = np.empty(0, np.int64)
    if weighing.dense_weight != 0.0:
        by_meaning = contents.vectors.nearest(question.vector, CANDIDATES_PER_SIDE, among)
    if weighing.dense_weight != 1.0:
        by_words = words.best(CANDIDATES_PER_SIDE, among)
    ids = np.union1d(by_meaning, by_words)
    vectors = contents.vectors.of(ids)
    return _Candidates(
        ids=ids,
        vectors=vectors,
        dense=np.clip(vectors @ question.vector, -1.0, 1.0).astype(np.float64),
        sparse=words.of(ids),
        coverage=words.coverage(ids),
    )


def _diversify(order: Ids, score: Scores, vectors: Vectors, wishes: SearchOptions) -> Ids:
    """Carbonell and Goldstein's maximal marginal relevance (1998), for as many as will be looked at."""
    count = min(len(order), wishes.top_k * max(1, 2 * bool(wishes.per_document)))
    left, chosen = order.tolist(), [int(order[0])]
    left.pop(0)
    likest = vectors @ vectors[chosen[0]]
    while left and len(chosen) < count:
        gain = (1.0 - wishes.diversity) * score[left] - wishes.diversity * likest[left]
        chosen.append(left.pop(int(np.argmax(gain))))
        likest = np.maximum(likest, vectors @ vectors[chosen[-1]])
    return np.array(chosen + left, np.int64)


def _limit_per_document(order: Ids, documents: Ids, most: int) -> Ids:
    """At most so many of each document, the first of them."""
    seen: Counter[int] = Counter()
    kept = []
    for place in order.tolist():
        seen[int(documents[place])] += 1
        if seen[int(documents[place])] <= most:
            kept.append(place)
    return np.array(kept, np.int64)


def _to_ranked_chunks(order: Ids, candidates: _Candidates, fused: Fused, score: Scores) -> tuple[RankedChunk, ...]:
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


def _judge_relevance(candidates: _Candidates, standard: SearchSettings) -> Relevance:
    dense, coverage = float(candidates.dense.max()), float(candidates.coverage.max())
    return Relevance(dense >= standard.least_dense or coverage >= standard.least_coverage, dense, coverage)
