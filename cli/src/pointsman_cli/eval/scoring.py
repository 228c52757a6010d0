"""Scores answers by a metric or by a judge model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
from pointsman_scoring import Metric, MetricError
from pointsman_scoring.judge import CRITERIA, INSTRUCTIONS, MAX_TOKENS, parse_score

from pointsman_cli.errors import CommandError, Unreachable, UsageError
from pointsman_cli.eval.dataset import Row
from pointsman_cli.gateway_http import AnswerEnd, TextChunk, stream_answer


@dataclass(frozen=True, slots=True)
class Verdict:
    score: float | None
    """From 0 to 1; None if the judge did not answer or gave no valid score."""
    note: str = ""
    usd: float = 0.0
    """Cost of the judge."""


class Scorer(Protocol):
    async def judge(self, row: Row, answer: str) -> Verdict:
        """Scores an answer to a row; raises CommandError if scoring cannot continue."""
        ...


class MetricScorer:
    def __init__(self, name: str, metric: Metric) -> None:
        self._name = name
        self._metric = metric

    async def judge(self, row: Row, answer: str) -> Verdict:
        try:
            return Verdict(self._metric.score(answer, self.expected(row)))
        except MetricError as error:
            raise CommandError(f"row {row.id}: {error}") from error

    def expected(self, row: Row) -> Any:
        """Returns what an answer is compared with: the row's output, or its facts for the metric `contains`."""
        if row.facts is not None and (self._name == "contains" or row.output is None):
            return row.facts
        return row.output

    def check(self, row: Row) -> None:
        """Raises UsageError if the metric cannot use the row's label."""
        try:
            self._metric.score("", self.expected(row))
        except MetricError as error:
            raise UsageError(f"row {row.id} (task '{row.task}'): {error}") from error


class JudgeScorer:
    """Scores answers by asking a model of the same gateway to judge, at temperature 0 and without the cache."""

    def __init__(self, client: httpx.AsyncClient, model: str, criteria: str = "") -> None:
        self._client = client
        self._model = model
        self._instruction = (criteria.strip() or CRITERIA) + INSTRUCTIONS

    async def judge(self, row: Row, answer: str) -> Verdict:
        pieces, ending = [], AnswerEnd()
        try:
            async for event in stream_answer(self._client, self._body(row, answer)):
                if isinstance(event, TextChunk):
                    pieces.append(event.content)
                elif isinstance(event, AnswerEnd):
                    ending = event
        except Unreachable:
            raise
        except CommandError as error:
            return Verdict(None, f"the judge failed: {error}")
        said = "".join(pieces).strip()
        return Verdict(parse_score(said), said, ending.cost_usd or 0.0)

    def _body(self, row: Row, answer: str) -> Mapping[str, Any]:
        asked = {"request": row.messages, "expected": row.output, "facts": row.facts, "answer": answer}
        case = json.dumps({name: value for name, value in asked.items() if value is not None}, ensure_ascii=False)
        return {
            "model": self._model,
            "messages": [{"role": "system", "content": self._instruction}, {"role": "user", "content": case}],
            "stream": False,
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
