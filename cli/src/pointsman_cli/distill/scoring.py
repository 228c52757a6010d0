"""How good answers are, by the metric of the task."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from pointsman_scoring import MetricError, metric_from

from pointsman_cli.distill.asking import Answer
from pointsman_cli.errors import UsageError
from pointsman_cli.eval.judge import Judge
from pointsman_cli.eval.plan import JUDGE
from pointsman_cli.eval.rows import Row
from pointsman_cli.eval.scoring import Counting, Scorer


def scorer_of(task: str, metric: Mapping[str, Any], client: httpx.AsyncClient) -> Scorer:
    """`client` is of the gateway, for a metric that asks a model. Raises Misused."""
    if JUDGE in metric:
        return Judge(client, metric[JUDGE]["model"], metric[JUDGE].get("prompt", ""))
    try:
        return Counting(next(iter(metric), ""), metric_from(metric))
    except MetricError as error:
        raise UsageError(f"the metric of task '{task}': {error}") from error


def check(scorer: Scorer, rows: Sequence[Row]) -> None:
    """Raises Misused where a row's label is of no use to the metric."""
    if isinstance(scorer, Counting):
        for row in rows:
            scorer.check(row)


async def scores(scorer: Scorer, rows: Sequence[Row], answers: Sequence[Answer]) -> list[float | None]:
    """From 0 to 1; what was not answered is 0, and what a judge could not say None. Raises CommandError."""
    return [
        0.0 if answer.error else (await scorer.judge(row, answer.text)).score
        for row, answer in zip(rows, answers, strict=True)
    ]
