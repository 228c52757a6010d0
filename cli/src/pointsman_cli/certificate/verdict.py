"""Decides which path of a task the scores show to be the right one, or how many rows would decide it.

The right path is the cheapest one that is good enough: at most the margin below each other path or, if a score is
required, at or above it. There are two kinds of errors, each of which has a probability of at most alpha:
* a path is named that is worse than another one by more than the margin, or whose score is below the required one;
* a path is named although a cheaper one is as good as the best, or exceeds the required score by the margin.
A cheaper path between these limits may be named or not: both are right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pointsman_scoring.intervals import Interval
from pointsman_scoring.paired_limits import RowDifferences, Standing, differences_of, limits, standing
from pointsman_scoring.rows_needed import MAX_ROWS, rows_needed

Scores = NDArray[np.float64]
"""The scores of one path by row, (rows,); NaN for a row without a score."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A path that a verdict may name, with its scores."""

    path: str
    scores: Sequence[float | None]
    """The score of each row, 0 to 1, in the same order for all paths; None if the judge gave no score."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The statistical settings of a verdict: the allowed probability of an error, and the differences that must be
    detected.
    """

    margin: float
    """The smallest difference of mean scores that matters, above 0 and below 1."""
    alpha: float
    """The allowed probability of a wrong verdict, such as 0.05."""
    power: float
    """The probability with which as many rows as `rows_needed` decide the verdict, such as 0.8."""
    floor: float | None = None
    """The mean score that a path must reach, below 1; None: it must be as good as the best path."""


@dataclass(frozen=True, slots=True)
class PathStanding:
    """Whether one path of a task is good enough, is not, or cannot be decided yet from the scored rows.

    `behind` is how far its mean score is below that of the path `against`, or below the required score.
    """

    path: str
    standing: Standing
    """CLOSE: the path is good enough; WORSE: it is not; OPEN: the rows do not decide it."""
    against: str
    """The path that this one is furthest behind, of those that decide its standing; empty if it is the only path, or if
    a score is required."""
    behind: Interval | None
    """How far the path's mean score is below that of `against`, or below the required score, with confidence limits
    that hold at any number of rows; None if there is nothing to compare it with."""
    rows_needed: int = 0
    """The number of rows in all that would decide an OPEN path; 0 if the verdict does not need them."""


@dataclass(frozen=True, slots=True)
class ScoreVerdict:
    """The path of a task that the scores show to be the right one, or the number of rows that would decide it."""

    path: str
    """The first path, in order of preference, that is good enough; empty if there is none, or it is not decided."""
    is_decided: bool
    rows_needed: int
    """The number of rows in all that would decide the verdict with the probability `Precision.power`; 0: none more."""
    standings: tuple[PathStanding, ...]
    """What the rows show about each path, in order of preference."""


@dataclass(frozen=True, slots=True)
class _Contest:
    """A comparison of one path with another one, or with the required score if `against` is empty."""

    against: str
    differences: RowDifferences
    """How far the path is behind, row by row."""
    share: float
    """The share of the rows that both have scores for."""
    standing: Standing


def decide(candidates: Sequence[Candidate], precision: Precision) -> ScoreVerdict:
    """Finds the first path that is good enough by its scores, or how many rows are needed to decide that.

    `candidates` are in order of preference, the preferred path first. Raises ValueError if there are none, or two have
    no scored row in common.
    """
    if not candidates:
        raise ValueError("there are no paths to decide between")
    alpha = precision.alpha / _errors(candidates, precision)
    margin = precision.margin if precision.floor is None else min(precision.margin, 1 - precision.floor)
    offset = 0.0 if precision.floor is None else margin
    paths = [candidate.path for candidate in candidates]
    scores = [np.array(candidate.scores, dtype=np.float64) for candidate in candidates]  # None becomes not-a-number
    contests = [
        list(_contests(place, paths, scores, margin, alpha, precision.floor)) for place in range(len(candidates))
    ]
    found = [_standing(path, of_it, alpha, offset) for path, of_it in zip(paths, contests, strict=True)]
    undecided = {
        place: _hardest(contests[place], Standing.OPEN)
        for place in range(_tried(found))
        if found[place].standing is Standing.OPEN
    }
    pairs = {frozenset((paths[place], contest.against)) for place, contest in undecided.items()}
    power = 1 - (1 - precision.power) / max(1, len(pairs))
    for place, contest in undecided.items():
        found[place] = replace(found[place], rows_needed=_rows(contest, margin, alpha, power))
    needed = max(each.rows_needed for each in found)
    named = "" if needed else first_close(found)
    return ScoreVerdict(named, not needed and bool(named or precision.floor is not None), needed, tuple(found))


def _tried(standings: Sequence[PathStanding]) -> int:
    """Returns the number of paths up to the first that is good enough; the others are not preferred to it."""
    named = first_close(standings)
    return next((place for place, each in enumerate(standings, 1) if each.path == named), len(standings))


def first_close(standings: Sequence[PathStanding]) -> str:
    """Returns the first path whose standing is CLOSE (good enough); empty if there is none."""
    return next((each.path for each in standings if each.standing is Standing.CLOSE), "")


def _errors(candidates: Sequence[Candidate], precision: Precision) -> int:
    """Returns the number of comparisons of which a single wrong one makes the verdict wrong.

    Without a required score they are those with the preferred one of the truly best paths: each other path may wrongly
    be taken to be close to it, or above it.
    """
    return len(candidates) if precision.floor is not None else max(1, len(candidates) - 1)


def _contests(
    place: int, paths: Sequence[str], scores: Sequence[Scores], margin: float, alpha: float, floor: float | None
) -> Iterator[_Contest]:
    """Yields the comparisons of one path with all others, or with the required score."""
    mine = scores[place]
    if floor is not None:
        yield _contest("", np.full_like(mine, floor + margin), mine, margin, alpha)
        return
    for other, its in enumerate(scores):
        if other != place:
            yield _contest(paths[other], its, mine, margin, alpha)


def _contest(against: str, its: Scores, mine: Scores, margin: float, alpha: float) -> _Contest:
    scored = ~np.isnan(its - mine)
    differences = differences_of(its[scored], mine[scored])
    return _Contest(against, differences, float(scored.mean()), standing(differences, margin, alpha))


def _standing(path: str, contests: Sequence[_Contest], alpha: float, offset: float) -> PathStanding:
    """Combines the comparisons of a path; `offset` is by how much their differences are above those to be shown."""
    if not contests:
        return PathStanding(path, Standing.CLOSE, "", None)
    states = {each.standing for each in contests}
    combined = Standing.WORSE if Standing.WORSE in states else Standing.OPEN
    if states == {Standing.CLOSE}:
        combined = Standing.CLOSE
    hardest = _hardest(contests, combined)
    behind = limits(hardest.differences, alpha)
    shown = Interval(behind.mean - offset, behind.low - offset, behind.high - offset)
    return PathStanding(path, combined, hardest.against, shown)


def _hardest(contests: Sequence[_Contest], state: Standing) -> _Contest:
    """Returns the comparison of this standing in which the path is furthest behind.

    It also decides how many rows an open path needs: they either show that the path is worse than this one, or that it
    is close to this one and so to those that are not as good.
    """
    return max((each for each in contests if each.standing is state), key=lambda each: each.differences.mean)


def _rows(contest: _Contest, margin: float, alpha: float, power: float) -> int:
    return min(MAX_ROWS, round(rows_needed(contest.differences, margin, alpha, power) / contest.share))
