"""From labelled queries to the settings of a collection's search; nothing here speaks to anybody."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from pointsman.v1 import retriever_pb2 as pb

from pointsman_cli.errors import Misused
from pointsman_cli.json_lines import numbered, parsed, text_of

DEPTH = 10  # nDCG@10
KEPT = 0.95  # of the queries that have an answer stay relevant
DENSE = tuple(step / 50 for step in range(5, 36))  # 0.10 to 0.70
COVERAGE_AT_FIRST = 0.6
COVERAGE = tuple(step / 10 for step in range(3, 11))

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
            row = parsed(line)
            found.append(Labelled(str(row["query"]), frozenset(map(str, row["documents"]))))
        except (ValueError, KeyError, TypeError) as error:
            raise Misused(f'{file}:{number} is not {{"query": "...", "documents": ["id", ...]}}: {error!r}') from error
    if not any(one.documents for one in found):
        raise Misused(f"{file} has no query with a document that answers it; label some first")
    return found


def ndcg(found: Sequence[str], wanted: frozenset[str]) -> float:
    gain = sum(1.0 / math.log2(rank + 2) for rank, one in enumerate(found[:DEPTH]) if one in wanted)
    return gain / sum(1.0 / math.log2(rank + 2) for rank in range(min(DEPTH, len(wanted))))


def choose(scores: Mapping[str, Sequence[float]]) -> str:
    """The best way by its mean; but the first, unless the best is ahead by more than chance makes of so few queries.

    The yardstick is one standard error of the difference from query to query.
    """
    first = next(iter(scores))
    best = max(scores, key=lambda way: mean(scores[way]))
    differences = [ours - theirs for ours, theirs in zip(scores[best], scores[first], strict=True)]
    if len(differences) < 2 or mean(differences) <= stdev(differences) / math.sqrt(len(differences)):
        return first
    return best


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
