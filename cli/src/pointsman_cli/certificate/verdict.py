"""Decides by the scores which path of a task is the right one to use, or how many rows would be needed to decide it.

The right path is the cheapest one that is good enough. Good enough means at most the margin below each other path or,
if a score is required, at or above the required score. A verdict can be wrong in two ways, each with a probability of
at most alpha:
* it names a path that is worse than another one by more than the margin, or whose score is below the required one;
* it names a path although a cheaper one is as good as the best, or exceeds the required score by the margin.
Between these limits, it is right both to name a cheaper path and not to name it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pointsman_scoring.intervals import Interval
from pointsman_scoring.paired_limits import RowDifferences, Standing, differences_of, limits, standing
from pointsman_scoring.rows_needed import MAX_ROWS, rows_needed

Scores = NDArray[np.float64]
"""The scores of one path, one for each row of the data set; NaN for a row without a score."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A path that a verdict may recommend, with the scores of its answers."""

    path: str
    scores: Sequence[float | None]
    """The score of each evaluated row, 0 to 1, in the same order for all paths; None if the answer has no score."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The score difference that a verdict must detect, its allowed error probability, and its statistical power."""

    margin: float
    """The smallest difference of two paths' mean scores that matters, above 0 and below 1."""
    alpha: float
    """The allowed probability of a wrong verdict, such as 0.05."""
    power: float
    """The probability, such as 0.8, that `ScoreVerdict.rows_needed` rows decide the verdict."""
    floor: float | None = None
    """The mean score that a path must reach, below 1. If it is None, a path must be as good as the best path
    instead."""


@dataclass(frozen=True, slots=True)
class PathStanding:
    """Whether one path's scores are good enough: CLOSE (yes), WORSE (no) or OPEN (undecided).

    The path's scores are compared with the scores of each other path or, if the task has one, with the required score.
    """

    path: str
    standing: Standing
    """CLOSE: the path is good enough; WORSE: it is not; OPEN: the evaluated rows are too few to decide it."""
    against: str
    """The name of the path in the comparison that determines `standing`; of several, that with the highest score.

    Empty if there is no other path, or if a score is required.
    """
    behind: Interval | None
    """How far the path's mean score is below that of the path `against`, or below the required score.

    The interval's confidence limits hold at any number of rows. None if there is no comparison.
    """
    rows_needed: int = 0
    """The total number of rows that would decide an OPEN path; 0 if the verdict does not depend on it."""


@dataclass(frozen=True, slots=True)
class ScoreVerdict:
    """The result of comparing a task's paths by their scores: the path to use, or the number of rows still needed."""

    path: str
    """The first path, in order of preference, that is good enough; empty if none is, or the verdict is undecided."""
    is_decided: bool
    rows_needed: int
    """The total number of rows that would decide the verdict with the probability `Precision.power`; 0: none more."""
    standings: tuple[PathStanding, ...]
    """How each path compares with the others by its scores, in order of preference."""


@dataclass(frozen=True, slots=True)
class _Contest:
    """A comparison of one path with another one, or with the required score if `against` is empty."""

    against: str
    differences: RowDifferences
    """The other path's score minus this path's score, for each row."""
    share: float
    """The share (0 to 1) of the rows for which both paths have scores."""
    standing: Standing


def decide(candidates: Sequence[Candidate], precision: Precision) -> ScoreVerdict:
    """Decides which path to use: the first one in order of preference whose scores are good enough.

    If the rows do not decide it, the result says how many rows would. `candidates` are in order of preference, the
    preferred path first. Raises ValueError if there are none, or two have no scored row in common.
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
    """Returns how many paths, in order of preference, the verdict depends on: those up to the first good enough one."""
    named = first_close(standings)
    return next((place for place, each in enumerate(standings, 1) if each.path == named), len(standings))


def first_close(standings: Sequence[PathStanding]) -> str:
    """Returns the first path whose standing is CLOSE (good enough); empty if there is none."""
    return next((each.path for each in standings if each.standing is Standing.CLOSE), "")


def _errors(candidates: Sequence[Candidate], precision: Precision) -> int:
    """Returns how many comparisons there are of which one wrong result makes the verdict wrong.

    Without a required score, these are the comparisons of the truly best path with each other one: the other path may
    wrongly appear close to it, or above it.
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
    """Combines the comparisons of a path into its standing.

    `offset` is subtracted from the differences for display, since `_contests` adds the margin to a required score.
    """
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
    """Returns the comparison with the standing `state` in which the path's score is furthest below the other one.

    For an OPEN path, this comparison also determines the number of rows needed. Enough rows show either that the path
    is worse than the other path, or that it is close to it, and so close to all paths with lower scores.
    """
    return max((each for each in contests if each.standing is state), key=lambda each: each.differences.mean)


def _rows(contest: _Contest, margin: float, alpha: float, power: float) -> int:
    return min(MAX_ROWS, round(rows_needed(contest.differences, margin, alpha, power) / contest.share))
