"""Evaluates `model: auto`, with which the gateway chooses the path, on requests of several tasks.

Compares the gateway's choices with fixed choices of paths, and measures what it costs if the classifier assigns
requests to a wrong task, or to none.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pointsman_scoring.intervals import ROUNDING, Interval, compare
from pointsman_servicekit.statistics import two_sided_z, wilson_interval

from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.eval.plan import AUTO, UNKNOWN, EvaluationPlan
from pointsman_cli.eval.report import Choice, Mixed, Report
from pointsman_cli.eval.runner import Answer

RESAMPLES = 4999
"""The number of bootstrap resamples of the rows of each task. All rules that choose paths use the same resamples."""

Column = NDArray[np.float64]

_Outcome = tuple[Column, Column]
"""The score and the dollars of each row."""


class _TaskRows:
    """The rows of one task for which every path and `auto` have a score, with these scores."""

    def __init__(self, paths: Sequence[str], kinds: Mapping[str, str], default: str, answers: Sequence[Answer]) -> None:
        self.paths, self.kinds = paths, kinds
        self.default = default if default in paths else paths[-1]
        by_row: dict[str, dict[str, Answer]] = {}
        for answer in answers:
            by_row.setdefault(answer.row, {})[answer.path] = answer
        self._rows = [found for found in by_row.values() if all(answer.score is not None for answer in found.values())]

    def __len__(self) -> int:
        return len(self._rows)

    def scores(self, path: str) -> Column:
        return np.array([row[path].score for row in self._rows], dtype=np.float64)

    def usd(self, path: str) -> Column:
        return np.array([row[path].cost_usd for row in self._rows], dtype=np.float64)

    def decided(self) -> list[str]:
        """Returns the task that the gateway assigned to each row; empty for a failed request."""
        return [row[AUTO].decided_task for row in self._rows]

    def best(self, known: Mapping[str, tuple[float, float]]) -> str:
        """Returns the path with the highest mean score among those of `known`; of equal ones, the cheapest.

        `known` has (mean score, cost) by path; it must have at least one of the task's paths.
        """
        return max((path for path in self.paths if path in known), key=lambda path: (known[path][0], -known[path][1]))

    def own_means(self) -> dict[str, tuple[float, float]]:
        return {path: (float(self.scores(path).mean()), float(self.usd(path).mean())) for path in self.paths}


def check_choices(plan: EvaluationPlan, shares: Mapping[str, float], chosen_by: Report | None) -> None:
    """Checks before the first request that the routing of `model: auto` can be compared with fixed choices of paths.

    `shares` are the tasks' shares of the requests, and `chosen_by` is an earlier evaluation that names the best paths.
    Raises UsageError if a share names a task without rows, shares are given but none is above 0, or `chosen_by` is on
    the same data set or has, for some task except `unknown`, none of the paths that are compared.
    """
    for name in shares:
        if name not in plan.tasks:
            raise UsageError(f"--shares names '{name}', of which there are no rows; there are: {', '.join(plan.tasks)}")
    if shares and not any(shares.values()):
        raise UsageError("--shares must have a share above 0")
    if chosen_by and chosen_by.sha256 == plan.dataset.digest:
        raise UsageError("--chosen-by is a report on the same data set; choose the paths on other rows")
    for name, task in plan.tasks.items() if chosen_by else ():
        if name != UNKNOWN and not set(task.paths) & _known(chosen_by).get(name, {}).keys():
            raise UsageError(
                f"--chosen-by: the report has none of the compared paths of task '{name}'; evaluate them on other rows"
            )


def _known(report: Report | None) -> dict[str, dict[str, tuple[float, float]]]:
    """Returns the mean score and the dollars per 1,000 answers of a report's paths, by task and path.

    Returns an empty dict if `report` is None.
    """
    tasks = report.tasks if report else ()
    return {task.task: {path.path: (path.mean, path.cost) for path in task.paths} for task in tasks}


def compare_choices(
    plan: EvaluationPlan,
    answers: Sequence[Answer],
    shares: Mapping[str, float],
    chosen_by: Report | None,
    confidence: float,
) -> Mixed:
    """Compares `model: auto`, where the gateway chooses the path, with rules such as one fixed path for each task.

    `answers` are the answers of all paths and of `auto` to the plan's rows. `shares` is each task's share of the
    requests (only the ratios count); if it is empty, each task has the share of its rows. `chosen_by` is an evaluation
    of other rows: one of the rules is to use for each task the path that was best in it. `confidence` is the confidence
    level of the intervals, such as 0.95.

    A row counts only if `auto` and all paths have a score for it. Raises CommandError if no such row belongs to a task
    that has a share.
    """
    tasks = {
        name: _TaskRows(
            task.paths,
            {path: plan.catalog.paths[path].kind for path in task.paths},
            plan.catalog.default_path,
            [answer for answer in answers if answer.task == name],
        )
        for name, task in plan.tasks.items()
    }
    tasks = {name: rows for name, rows in tasks.items() if len(rows)}
    weights, choices_by_name = _weights(tasks, shares), _choices(tasks, _known(chosen_by))
    outcomes = {name: {task: choose(task, rows) for task, rows in tasks.items()} for name, choose in choices_by_name}
    means = {name: _resampled(outcome, weights) for name, outcome in outcomes.items()}
    choices = tuple(_choice(name, outcomes, means, weights, confidence) for name in outcomes)
    return Mixed(weights, choices, **_misrouted(tasks, outcomes, weights))


def _weights(tasks: Mapping[str, _TaskRows], shares: Mapping[str, float]) -> dict[str, float]:
    given = {name: shares.get(name, 0.0) if shares else float(len(rows)) for name, rows in tasks.items()}
    total = sum(given.values())
    if total <= 0:
        raise CommandError("no row has a score of every path and of auto, so there is nothing to compare")
    return {name: weight / total for name, weight in given.items()}


def _choices(
    tasks: Mapping[str, _TaskRows], known: Mapping[str, Mapping[str, tuple[float, float]]]
) -> Iterator[tuple[str, Callable[[str, _TaskRows], _Outcome]]]:
    """Yields the ways to choose paths that `auto` is compared with, and `auto` itself, by name.

    Each comes with a function that takes a task and its rows, and returns the scores and costs of the paths it chooses.
    """
    yield AUTO, lambda task, rows: _of_path(rows, AUTO)
    for kind in sorted({kind for rows in tasks.values() for kind in rows.kinds.values()}):

        def always(task: str, rows: _TaskRows, kind: str = kind) -> _Outcome:
            of_kind = [path for path in rows.paths if rows.kinds[path] == kind]
            return _of_path(rows, of_kind[0] if of_kind else rows.default)

        yield f"always {kind}", always
    if known:

        def chosen_before(task: str, rows: _TaskRows) -> _Outcome:
            if task == UNKNOWN:
                return _of_path(rows, rows.default)
            return _of_path(rows, rows.best(known[task]))

        yield "best path per task, chosen before", chosen_before
    yield "random path", _random
    yield "best path per task, in hindsight", lambda task, rows: _of_path(rows, rows.best(rows.own_means()))
    yield "best path per request, in hindsight", _oracle


def _of_path(rows: _TaskRows, path: str) -> _Outcome:
    return rows.scores(path), rows.usd(path)


def _random(task: str, rows: _TaskRows) -> _Outcome:
    return (
        np.mean([rows.scores(path) for path in rows.paths], axis=0),
        np.mean([rows.usd(path) for path in rows.paths], axis=0),
    )


def _oracle(task: str, rows: _TaskRows) -> _Outcome:
    """Returns the highest score that any path reaches in each row, and the lowest cost at which a path reaches it."""
    scores = np.array([rows.scores(path) for path in rows.paths])
    usd = np.array([rows.usd(path) for path in rows.paths])
    best = scores.max(axis=0)
    return best, np.where(scores == best, usd, np.inf).min(axis=0)


def _resampled(outcome: Mapping[str, _Outcome], weights: Mapping[str, float]) -> Column:
    """Returns RESAMPLES bootstrap means of the score: rows are resampled within each task, and tasks are weighted."""
    means = np.zeros(RESAMPLES)
    for place, (task, (scores, _)) in enumerate(outcome.items()):
        rng = np.random.default_rng([7, place])  # the same rows for every choice, and others for every task
        means += weights[task] * scores[rng.integers(len(scores), size=(RESAMPLES, len(scores)))].mean(axis=1)
    return means


def _choice(
    name: str,
    outcomes: Mapping[str, Mapping[str, _Outcome]],
    means: Mapping[str, Column],
    weights: Mapping[str, float],
    confidence: float,
) -> Choice:
    """Returns the score, cost and difference from `auto` of one way to choose paths, with confidence intervals.

    The intervals are the bootstrap's. If all rows are alike, a bootstrap finds no spread; then they are Wilson's for
    the score, and those of `compare` for the difference, which allow for unseen rows.
    """
    score, usd = (_mean(outcomes[name], weights, which) for which in (0, 1))
    difference = _mean(outcomes[AUTO], weights, 0) - score
    auto, own = (np.concatenate([column for column, _ in outcomes[each].values()]) for each in (AUTO, name))
    of_score = _interval(score, means[name], confidence)
    if of_score.high - of_score.low < ROUNDING:
        of_score = Interval(score, *wilson_interval(score, len(own), two_sided_z(confidence)))
    of_difference = _interval(difference, means[AUTO] - means[name], confidence)
    if name != AUTO and np.ptp(auto - own) < ROUNDING:
        of_difference = compare(list(auto), list(own), confidence).difference
    return Choice(name, of_score, 1000 * usd, of_difference)


def _mean(outcome: Mapping[str, _Outcome], weights: Mapping[str, float], which: int) -> float:
    return float(sum(weights[task] * columns[which].mean() for task, columns in outcome.items()))


def _interval(mean: float, resampled: Column, confidence: float) -> Interval:
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high))


def _misrouted(
    tasks: Mapping[str, _TaskRows], outcomes: Mapping[str, Mapping[str, _Outcome]], weights: Mapping[str, float]
) -> dict[str, float]:
    """Returns how often the classifier was wrong, and what that costs; each task counts by its share of requests.

    "misrouted" is the share of requests that got a wrong task, "abstained" the share that got none although they have
    one. If all these requests had taken the best path of their right task, the mean score of all requests would be
    higher by "lost_score", and 1,000 requests would be cheaper by "lost_usd_per_1000" dollars. Both can be negative.
    """
    found = dict.fromkeys(("misrouted", "abstained", "lost_score", "lost_usd_per_1000"), 0.0)
    best = outcomes["best path per task, in hindsight"]
    for task, rows in tasks.items():
        decided = np.array(rows.decided())
        # A failed request has no task, and is no error of the classifier.
        wrong, abstained = (decided != task) & (decided != ""), (decided == UNKNOWN) & (task != UNKNOWN)
        auto, other = outcomes[AUTO][task], best[task]
        found["misrouted"] += weights[task] * float(np.mean(wrong & ~abstained))
        found["abstained"] += weights[task] * float(np.mean(abstained))
        found["lost_score"] += weights[task] * float(np.mean(wrong * (other[0] - auto[0])))
        found["lost_usd_per_1000"] += weights[task] * 1000 * float(np.mean(wrong * (auto[1] - other[1])))
    return found
