"""From labelled queries to the settings of a collection's search; nothing here speaks to anybody."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from pointsman.v1 import retriever_pb2 as pb

from pointsman_cli.errors import UsageError
from pointsman_cli.json_lines import numbered, parsed, text_of

DEPTH = 10  # nDCG@10
KEPT = 0.95  # of the queries that have an answer stay relevant
DENSE = tuple(step / 50 for step in range(5, 36))  # 0.10 to 0.70
COVERAGE_AT_FIRST = 0.6
COVERAGE = tuple(step / 10 for step in range(3, 11))
CHANCE = 0.05  # how often, at most, a way is chosen where all are equal
FLIPS = 9999
FORM = '{"query": "...", "documents": ["id", ...]}'

Ways = dict[str, pb.SearchSettings]


@dataclass(frozen=True, slots=True)
class Labelled:
    query: str
    documents: frozenset[str]  # that answer it; none: nothing in the collection does


@dataclass(frozen=True, slots=True)
class Seen:
    """How close a query came."""

    dense: float
    coverage: float


def ways() -> Ways:
    """What is tried; the first is what a collection does unless told otherwise."""
    weighed = {f"dense_weight {weight:.1f}": pb.SearchSettings(dense_weight=weight) for weight in _tenths(2, 10)}
    return {"by agreement": pb.SearchSettings(), **weighed, "ranks (RRF)": pb.SearchSettings(fusion=pb.RRF)}


def read_labelled(file: Path) -> list[Labelled]:
    """JSON lines {"query": ..., "documents": [ids]}; raises Misused."""
    found = []
    for number, line in numbered(text_of(file)):
        try:
            found.append(_labelled(parsed(line)))
        except ValueError as error:
            raise UsageError(f"{file}:{number} {error}; a line is {FORM}") from error
    if not any(one.documents for one in found):
        raise UsageError(f"{file} has no query with a document that answers it; label some first")
    return found


def _labelled(row: Any) -> Labelled:
    """Raises ValueError."""
    query, documents = (row.get("query"), row.get("documents")) if isinstance(row, dict) else (None, None)
    if not isinstance(query, str) or not query.strip():
        raise ValueError('has no "query" that is a text')
    if not isinstance(documents, list) or not all(isinstance(one, str | int) for one in documents):
        raise ValueError('has no "documents" that are a list of ids')
    return Labelled(query, frozenset(map(str, documents)))


def ndcg(found: Sequence[str], wanted: frozenset[str]) -> float:
    gain = sum(1.0 / math.log2(rank + 2) for rank, one in enumerate(found[:DEPTH]) if one in wanted)
    return gain / sum(1.0 / math.log2(rank + 2) for rank in range(min(DEPTH, len(wanted))))


def choose(scores: Mapping[str, Sequence[float]]) -> str:
    """The best by its mean of the ways that are ahead of the first by more than chance makes; the first where none is.

    A permutation test of the maximum (P. H. Westfall, S. S. Young, Resampling-Based Multiple Testing, 1993): where a
    way is as good as the first, each query might as well have favoured the other. So the signs of the differences are
    flipped query by query, for all ways alike, and a way is ahead where the best of all comes as far in at most
    `CHANCE` of the flips. That holds for few queries too, and however many ways are tried and alike.
    """
    first, *others = scores
    differences = np.array([np.subtract(scores[way], scores[first]) for way in others])
    differences /= np.maximum(np.linalg.norm(differences, axis=1, keepdims=True), 1e-12)  # else the widest alone counts
    signs = np.random.default_rng(7).choice((-1.0, 1.0), (FLIPS, differences.shape[1]))
    furthest = (signs @ differences.T).max(axis=1)
    by_chance = [(1 + np.sum(furthest >= found - 1e-9)) / (1 + FLIPS) for found in differences.sum(axis=1)]
    ahead = [way for way, chance in zip(others, by_chance, strict=True) if chance <= CHANCE]
    return max(ahead, key=lambda way: mean(scores[way]), default=first)


def thresholds(answered: Sequence[Seen], unanswered: Sequence[Seen]) -> tuple[float, float]:
    """The least cosine and the least coverage of a search that is relevant.

    With queries that nothing answers: what tells both kinds apart best. Without: what keeps nearly all of the others.
    """
    if not unanswered:
        ranked = sorted(seen.dense for seen in answered)
        return round(ranked[int((1.0 - KEPT) * len(ranked))] - 0.005, 2), COVERAGE_AT_FIRST

    def told_apart(least: tuple[float, float]) -> float:
        kept = mean(_is_relevant(seen, least) for seen in answered)
        refused = mean(not _is_relevant(seen, least) for seen in unanswered)
        return kept + refused

    return max(((dense, coverage) for dense in DENSE for coverage in COVERAGE), key=told_apart)


def _is_relevant(seen: Seen, least: tuple[float, float]) -> bool:
    return seen.dense >= least[0] or seen.coverage >= least[1]


def _tenths(first: int, last: int) -> list[float]:
    return [step / 10 for step in range(first, last)]
