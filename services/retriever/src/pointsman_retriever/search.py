"""A search: candidates from both sides, fused, thinned out, and cut to what was asked for."""

import json
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from pointsman_retriever.domain import Explanation, Ids, Method, Ranked, Relevance, Vectors, Wishes
from pointsman_retriever.filters import Filter
from pointsman_retriever.fusion import RRF_K, Fused, Scores, Weighing, fuse, ranks
from pointsman_retriever.index.contents import Contents

POOL = 100  # candidates from each side; as many as the greatest top_k

_FIRST_BY_RANK = 1.0 + RRF_K  # brings the score of what is first on both sides to 1


@dataclass(frozen=True, slots=True)
class Standard:
    """A collection's own settings, for what a query does not say, and for what deserves to be shown."""

    dense_weight: float | None = None  # None: by how far both sides agree, each time
    method: Method = Method.CONVEX
    # Both together keep 99 % of the queries of four judged collections, and refuse 84 % of those of the other three.
    least_dense: float = 0.35  # a cosine
    least_coverage: float = 0.6  # see Relevance


def read_standard(settings: str) -> Standard:
    """From the JSON that the collection keeps; what it does not say is as it comes."""
    said = json.loads(settings)
    return Standard(**{**said, **({"method": Method(said["method"])} if "method" in said else {})})


def write_standard(standard: Standard) -> str:
    return json.dumps({**asdict(standard), "method": standard.method.value})


@dataclass(frozen=True, slots=True)
class Question:
    """A query with everything settled."""

    text: str
    vector: Vectors
    fingerprint: str  # of the model that made the vector
    filter: Filter | None
    wishes: Wishes


@dataclass(frozen=True, slots=True)
class Ranking:
    ranked: tuple[Ranked, ...]  # best first
    relevance: Relevance


@dataclass(frozen=True, slots=True)
class _Candidates:
    """(candidates,) each."""

    ids: Ids
    vectors: Vectors
    dense: Scores  # cosines
    sparse: Scores  # BM25
    coverage: Scores  # see Relevance


NOTHING = Ranking((), Relevance(False, 0.0, 0.0))


def rank(contents: Contents, question: Question, standard: Standard) -> Ranking:
    """Blocks; reads the one moment that `contents` are of."""
    wishes, weighing = question.wishes, _weighing(question.wishes, standard)
    candidates = _candidates(contents, question, weighing)
    if not len(candidates.ids):
        return NOTHING
    fused = fuse(candidates.dense, candidates.sparse, candidates.vectors, weighing)
    score = fused.score if weighing.method is Method.CONVEX else fused.total * _FIRST_BY_RANK
    order = np.lexsort((candidates.ids, -score))
    if wishes.diversity:
        order = _diverse(order, score, candidates.vectors, wishes)
    if wishes.per_document:
        order = _grouped(order, contents.columns.documents_of(candidates.ids), wishes.per_document)
    ranked = _ranked(order[: wishes.top_k], candidates, fused, score)
    return Ranking(ranked, _relevance(candidates, standard))


def _weighing(wishes: Wishes, standard: Standard) -> Weighing:
    """A query that says how to fuse means it whole: the collection's own weight is for its own way."""
    if wishes.method is not None:
        return Weighing(wishes.dense_weight, wishes.method)
    weight = standard.dense_weight if wishes.dense_weight is None else wishes.dense_weight
    return Weighing(weight, standard.method)


def _candidates(contents: Contents, question: Question, weighing: Weighing) -> _Candidates:
    among = None if question.filter is None else contents.columns.matching(question.filter)
    words = contents.words.scored(question.text)
    by_meaning = by_words = np.empty(0, np.int64)
    if weighing.dense_weight != 0.0:
        by_meaning = contents.vectors.nearest(question.vector, POOL, among)
    if weighing.dense_weight != 1.0:
        by_words = words.best(POOL, among)
    ids = np.union1d(by_meaning, by_words)
    vectors = contents.vectors.of(ids)
    return _Candidates(
        ids=ids,
        vectors=vectors,
        dense=np.clip(vectors @ question.vector, -1.0, 1.0).astype(np.float64),
        sparse=words.of(ids),
        coverage=words.coverage(ids),
    )


def _diverse(order: Ids, score: Scores, vectors: Vectors, wishes: Wishes) -> Ids:
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


def _grouped(order: Ids, documents: Ids, most: int) -> Ids:
    """At most so many of each document, the first of them."""
    seen: Counter[int] = Counter()
    kept = []
    for place in order.tolist():
        seen[int(documents[place])] += 1
        if seen[int(documents[place])] <= most:
            kept.append(place)
    return np.array(kept, np.int64)


def _ranked(order: Ids, candidates: _Candidates, fused: Fused, score: Scores) -> tuple[Ranked, ...]:
    dense_ranks, sparse_ranks = ranks(candidates.dense), ranks(candidates.sparse)
    return tuple(
        Ranked(
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


def _relevance(candidates: _Candidates, standard: Standard) -> Relevance:
    dense, coverage = float(candidates.dense.max()), float(candidates.coverage.max())
    return Relevance(dense >= standard.least_dense or coverage >= standard.least_coverage, dense, coverage)
