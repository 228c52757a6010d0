"""How an answer is scored: by a metric that counts, or by a model that judges."""

from dataclasses import dataclass
from typing import Any, Protocol

from pointsman_scoring import Metric, MetricError

from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.eval.rows import Row


@dataclass(frozen=True, slots=True)
class Verdict:
    score: float | None
    """From 0 to 1; None where the judge could not be understood, or did not answer."""
    note: str = ""
    usd: float = 0.0
    """What the judging cost."""


class Scorer(Protocol):
    async def judge(self, row: Row, answer: str) -> Verdict:
        """Raises CommandError where it cannot go on at all."""
        ...


class Counting:
    """By a metric of `pointsman_scoring`."""

    def __init__(self, name: str, metric: Metric) -> None:
        self._name = name
        self._metric = metric

    async def judge(self, row: Row, answer: str) -> Verdict:
        try:
            return Verdict(self._metric.score(answer, self.expected(row)))
        except MetricError as error:
            raise CommandError(f"row {row.id}: {error}") from error

    def expected(self, row: Row) -> Any:
        """The facts where facts are looked for and the row has them; else its output."""
        if row.facts is not None and (self._name == "contains" or row.output is None):
            return row.facts
        return row.output

    def check(self, row: Row) -> None:
        """Raises Misused where the row's label is of no use to the metric."""
        try:
            self._metric.score("", self.expected(row))
        except MetricError as error:
            raise UsageError(f"row {row.id} (task '{row.task}'): {error}") from error
