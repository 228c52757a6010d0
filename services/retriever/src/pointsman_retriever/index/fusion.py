"""Two rankings made one: a convex sum of the scores, each brought to 0..1 over the candidates of this query.

Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (2023): the convex sum keeps how far apart
the scores are, which a fusion by rank throws away.
"""

from collections.abc import Mapping

from pointsman_retriever.domain import Ranked

DENSE_WEIGHT = 0.6


def fuse(dense: Mapping[int, float], sparse: Mapping[int, float], dense_weight: float, count: int) -> list[Ranked]:
    """The best `count` candidates: `dense` has each one's cosine, `sparse` BM25 where words were found."""
    meaning = _scaled(dense)
    words = _scaled({chunk: sparse.get(chunk, 0.0) for chunk in dense})
    ranked = [
        Ranked(
            chunk=chunk,
            score=dense_weight * meaning[chunk] + (1.0 - dense_weight) * words[chunk],
            dense=cosine,
            sparse=sparse.get(chunk, 0.0),
        )
        for chunk, cosine in dense.items()
    ]
    ranked.sort(key=lambda one: (-one.score, one.chunk))
    return ranked[:count]


def _scaled(scores: Mapping[int, float]) -> dict[int, float]:
    """To 0..1 between the least and the greatest; where all are equal: 1, or 0 if there is nothing to them."""
    if not scores:
        return {}
    least, greatest = min(scores.values()), max(scores.values())
    if greatest == least:
        return dict.fromkeys(scores, 1.0 if greatest > 0.0 else 0.0)
    return {chunk: (score - least) / (greatest - least) for chunk, score in scores.items()}
