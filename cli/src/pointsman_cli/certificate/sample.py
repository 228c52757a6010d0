"""Sends a sample of the evaluated rows to the gateway again, and compares scores and costs with the certified scores
and costs.

This detects changes that no digest shows: another model behind the same name, other documents, other weights.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import httpx
import numpy as np
from pointsman_scoring.intervals import compare
from pointsman_scoring.paired_limits import differences_of, limits

from pointsman_cli.certificate.checks import Check, Outcome
from pointsman_cli.certificate.statement import Statement
from pointsman_cli.eval.catalog import Catalog
from pointsman_cli.eval.dataset import Dataset, Row
from pointsman_cli.eval.plan import scorer_of
from pointsman_cli.eval.report import EvaluatedPath, TaskReport
from pointsman_cli.eval.runner import Answer, RowRequest, answer_row
from pointsman_cli.gateway_http import run_concurrently

SIGNIFICANCE_LEVEL = 0.05

AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many rows of the data set a verification sends to the gateway again, and the seed of their random choice."""

    rows: int
    """The number of rows of each task that are sent to each of the task's paths; 0 means that no rows are sent."""
    seed: int


@dataclass(frozen=True, slots=True)
class _Resent:
    """One path's certified results, and its new answers to rows of the evaluation that were sent again.

    `margin` is the largest mean loss of score at which the path still counts as good enough.
    """

    task: TaskReport
    path: EvaluatedPath
    margin: float
    answers: Sequence[Answer]


async def sample_checks(
    client: httpx.AsyncClient, statement: Statement, catalog: Catalog, dataset: Dataset, sampling: Sampling
) -> list[Check]:
    """Sends sampled rows to all certified paths, and compares scores, costs and adapter versions with certified ones.

    Returns one or more checks for each path. `dataset` must be the evaluated one, and `catalog` must have all certified
    paths. Raises UsageError if a metric or its judge is unknown now, Unreachable if the gateway cannot be reached, and
    CommandError if a metric fails.
    """
    draw = np.random.default_rng(sampling.seed)
    margins = {verdict.task: verdict.margin for verdict in statement.verdicts}
    number = sum(len(task.paths) for task in statement.report.tasks)
    found: list[Check] = []
    for task in statement.report.tasks:
        rows = _drawn([row for row in dataset.rows if row.task == task.task], task, sampling.rows, draw)
        answers = await _ask(client, task, catalog, rows)
        for path in task.paths:
            resent = _Resent(task, path, margins[task.task], [each for each in answers if each.path == path.path])
            version = statement.paths[path.path].version
            alpha = (1 - statement.report.confidence) / number
            found += _checks(resent, version, alpha, number, statement.max_price_change)
    return found


def _drawn(rows: Sequence[Row], task: TaskReport, number: int, draw: np.random.Generator) -> list[Row]:
    evaluated = set(task.row_ids)
    known = [row for row in rows if row.id in evaluated]
    chosen = draw.permutation(len(known))[:number]
    return [known[place] for place in sorted(chosen)]


async def _ask(client: httpx.AsyncClient, task: TaskReport, catalog: Catalog, rows: Sequence[Row]) -> list[Answer]:
    scorer = scorer_of(task.metric_settings, catalog, client)
    answers: list[Answer] = []

    async def ask(work: RowRequest) -> None:
        answers.append(await answer_row(client, work))

    await run_concurrently(ask, [RowRequest(row, path.path, scorer) for row in rows for path in task.paths], AT_ONCE)
    return answers


def _checks(resent: _Resent, version: str, alpha: float, number: int, max_cost_change: float) -> Iterator[Check]:
    subject = f"sample of {resent.path.path}"
    answers = resent.answers
    failures = Counter(answer.outcome for answer in answers if not answer.is_ok)
    if failures:
        codes = ", ".join(f"{code} {count}" for code, count in failures.most_common())
        yield Check(subject, Outcome.WEAKENED, f"{failures.total()} of {len(answers)} requests failed ({codes})")
    others = {answer.model for answer in answers if answer.is_ok and version and answer.model != version}
    if others:
        yield Check(subject, Outcome.INVALID, f"{', '.join(sorted(others))} answered instead of {version}")
    pairs = list(_pairs(resent))
    if not pairs:
        yield Check(subject, Outcome.WEAKENED, "no sampled answer could be compared")
        return
    yield _score_check(subject, [pair[:2] for pair in pairs], resent.margin, alpha, number)
    before, now = fmean(pair[2] for pair in pairs), fmean(pair[3] for pair in pairs)
    if abs(now - before) > before * max_cost_change:
        change = f"{now / before - 1:+.0%}" if before else "were free"
        yield Check(subject, Outcome.WEAKENED, f"the same rows cost ${1000 * now:.4f} per 1,000 now ({change})")


def _pairs(resent: _Resent) -> Iterator[tuple[float, float, float, float]]:
    """Yields (certified score, new score, certified dollars, new dollars) of each row that was answered both times."""
    places: Mapping[str, int] = {row: place for place, row in enumerate(resent.task.row_ids)}
    for answer in resent.answers:
        score, usd = resent.path.row_scores[places[answer.row]], resent.path.row_usd[places[answer.row]]
        if answer.is_ok and answer.score is not None and score is not None and usd is not None:
            yield score, answer.score, usd, answer.cost_usd


def _score_check(
    subject: str, scores: Sequence[tuple[float, float]], margin: float, alpha: float, number: int
) -> Check:
    """Compares a path's certified and new scores, as one of `number` comparisons.

    `alpha` is the error probability of each comparison.
    """
    before, now = [pair[0] for pair in scores], [pair[1] for pair in scores]
    lost = limits(differences_of(before, now), alpha / 2)
    told = f"{fmean(now):.3f} on {len(scores)} rows, which had {fmean(before):.3f}"
    if lost.low > margin or lost.high < -margin:
        return Check(subject, Outcome.INVALID, f"it scores {told}: surely a change of more than {margin:g}")
    p_value = compare(before, now).p_value * number
    if p_value < SIGNIFICANCE_LEVEL:
        return Check(subject, Outcome.WEAKENED, f"it scores {told} (p {p_value:.3f})")
    return Check(subject, Outcome.OK, f"it scores {told}")
