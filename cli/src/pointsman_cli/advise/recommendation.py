"""What to do about a task, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pointsman_cli.advise.money import Terms, cost
from pointsman_cli.advise.reasons import reasons
from pointsman_cli.eval.report import Pair, PathFigures, TaskReport

SIGNIFICANT = 0.05
MARGIN = 0.03
"""Of the score, by which a path may be below the best one and still be as good: on a small set a test tells few paths
apart, and that it does not is no sign that they are alike."""

VERDICTS = {
    "prompt": "stay with prompting",
    "rag": "add retrieval",
    "lora": "train",
    "hybrid": "both: train, and keep examples or passages in the prompt",
}
NOT_YET = "none of them is good enough yet"


@dataclass(frozen=True, slots=True)
class Needs:
    """What is asked of a path; None: nothing is."""

    floor: float | None = None
    """Which the lower end of the score's interval must reach."""
    form: float | None = None
    """Share of well-formed answers."""
    p95_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Recommendation:
    task: str
    verdict: str
    path: str
    """The one that is meant; empty where none is good enough."""
    reasons: tuple[str, ...] = field(default_factory=tuple)


def recommend(task: TaskReport, needs: Needs, terms: Terms) -> Recommendation:
    """The cheapest of those that are good enough; where no floor says what that is: as good as the best."""
    scored = [path for path in task.paths if path.score and path.usd_per_1000]
    eligible = [path for path in scored if not any(_misses(path, needs))]
    if not eligible:
        told = tuple(f"{path.path} {missed}" for path in scored for missed in _misses(path, needs))
        return Recommendation(task.task, NOT_YET, "", told or ("no path gave an answer that could be scored",))
    equals = eligible if needs.floor is not None else _as_good_as_the_best(eligible, task.pairs)
    chosen = _cheapest(equals, terms)
    return Recommendation(
        task.task, VERDICTS[chosen.kind], chosen.path, tuple(reasons(task, scored, equals, chosen, terms))
    )


def _misses(path: PathFigures, needs: Needs) -> Iterator[str]:
    assert path.score is not None
    if needs.floor is not None and path.score.low < needs.floor:
        yield f"scores {path.score.mean:.3f}, surely no less than {path.score.low:.3f}: the floor is {needs.floor:g}"
    if needs.form is not None and path.well_formed < needs.form:
        yield f"is well-formed in {path.well_formed:.1%}: {needs.form:.1%} are needed"
    if needs.p95_seconds is not None and path.total and path.total.p95 > needs.p95_seconds:
        yield f"takes {path.total.p95:.2f} s at p95: {needs.p95_seconds:g} s are allowed"


def _as_good_as_the_best(paths: Sequence[PathFigures], pairs: Sequence[Pair]) -> list[PathFigures]:
    """The best by its mean, and those that are little below it, and not surely worse."""
    best = max(paths, key=lambda path: path.mean)
    worse = {
        pair.second if pair.first == best.path else pair.first
        for pair in pairs
        if best.path in (pair.first, pair.second) and pair.p_adjusted < SIGNIFICANT
    }
    return [path for path in paths if path.path not in worse and best.mean - path.mean <= MARGIN]


def _cheapest(paths: Sequence[PathFigures], terms: Terms) -> PathFigures:
    """At the volume where it is known; else nothing is trained before it is known to pay."""
    monthly = terms.monthly
    if monthly is not None:
        return min(paths, key=lambda path: cost(path, terms).monthly(monthly, terms.months))
    untrained = [path for path in paths if not path.adapter]
    return min(untrained or paths, key=lambda path: cost(path, terms).request)


def best_of(paths: Sequence[PathFigures]) -> PathFigures | None:
    """By its mean, and of equals the one that costs less."""
    return max(paths, key=lambda path: (path.mean, -path.cost), default=None)


def rivals(task: TaskReport) -> tuple[PathFigures, PathFigures] | None:
    """The best trained path and the best that is not: between them it is decided. None where there are not both."""
    scored = [path for path in task.paths if path.score and path.usd_per_1000]
    trained = best_of([path for path in scored if path.adapter])
    untrained = best_of([path for path in scored if not path.adapter])
    return (trained, untrained) if trained and untrained else None
