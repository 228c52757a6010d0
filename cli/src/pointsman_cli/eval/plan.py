"""Plans an evaluation from the gateway's tasks and paths, and checks it before the first request.

A plan has a scorer for each task: a metric, or a judge, which is a model that scores answers.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
from pointsman_scoring import METRICS, Metric, MetricError, metric_from, spec_from_text
from pointsman_scoring.judge import CRITERIA, INSTRUCTIONS, MAX_TOKENS, parse_score

from pointsman_cli.errors import CommandError, Unreachable, UsageError
from pointsman_cli.eval.catalog import Catalog, CatalogTask
from pointsman_cli.eval.dataset import Dataset, Row
from pointsman_cli.gateway_http import AnswerEnd, TextChunk, stream_answer

AUTO = "auto"
"""The value of `model` in requests for which the gateway is to choose the path."""
UNKNOWN = "unknown"
"""The task of rows that belong to no task; the default path should answer them."""
_UNKNOWN_METRIC = {"contains": True}

JUDGE_METRIC = "judge"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A scorer's judgement of one answer: the score, and if a model judged it, the model's remark and cost."""

    score: float | None
    """The score from 0 to 1; None if the judging model did not answer or gave no valid score."""
    note: str = ""
    """What the judging model answered, or why it did not answer; empty if a metric scored the answer."""
    usd: float = 0.0
    """The cost of the judging model's answer, in dollars; 0 for a metric."""


class Scorer(Protocol):
    """Interface of an object that scores answers: by a metric (`MetricScorer`) or by asking a model (`JudgeScorer`)."""

    async def judge(self, row: Row, answer: str) -> Verdict:
        """Returns the score of `answer`, the answer to the request in `row`.

        Raises CommandError if the metric fails, Unreachable (a CommandError) if the gateway of a judging model cannot
        be reached.
        """
        ...


class MetricScorer:
    """Scores answers by one of the metrics of the package `pointsman_scoring`, without a model."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    async def judge(self, row: Row, answer: str) -> Verdict:
        try:
            return Verdict(self._metric.score(answer, self.expected(row)))
        except MetricError as error:
            raise CommandError(f"row {row.id}: {error}") from error

    def expected(self, row: Row) -> Any:
        """Returns what an answer to the row is compared with: the row's expected output, or its expected facts.

        The facts are used if the metric compares facts and the row has some, or if the row has no output.
        """
        if row.facts is not None and (row.output is None or getattr(self._metric, "compares_facts", False)):
            return row.facts
        return row.output

    def check(self, row: Row) -> None:
        """Raises UsageError if the metric cannot use the row's label (its expected output or facts)."""
        try:
            self._metric.score("", self.expected(row))
        except MetricError as error:
            raise UsageError(f"row {row.id} (task '{row.task}'): {error}") from error


class JudgeScorer:
    """Scores answers by asking a model of the same gateway (the judge), at temperature 0.

    If the request to the judge fails, or its answer has no valid score, the score is None.
    """

    def __init__(self, client: httpx.AsyncClient, model: str, criteria: str = "") -> None:
        """Takes the gateway's client, the judge's model name, and the criteria for its prompt; empty: CRITERIA."""
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
        reply = "".join(pieces).strip()
        return Verdict(parse_score(reply), reply, ending.cost_usd or 0.0)

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


@dataclass(frozen=True, slots=True)
class Selection:
    """Which paths to evaluate and by which metric, as the options of `pointsman eval` say."""

    paths: Sequence[str] = ()
    """The names of the paths to evaluate; if empty, all paths that can answer a row's task."""
    metric: str = ""
    """The metric as `NAME`, `NAME=TEXT` or `judge=MODEL`; empty: the task's own metric."""
    judge_prompt: str = ""
    """The criteria by which the model of `judge=MODEL` scores answers; empty: CRITERIA."""
    is_mixed: bool = False
    """Whether each row is also sent with `model: auto`, so that the gateway chooses the path."""


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """The rows of one task in an evaluation, the paths to send them to, and how their answers are scored."""

    paths: tuple[str, ...]
    """The names of the paths to which each row of the task is sent. `auto` is not among them."""
    metric: Mapping[str, Any]
    """The settings of the metric that scores the answers, as in tasks.yaml."""
    scorer: Scorer
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """Which rows are sent to which paths, and how the answers are scored."""

    dataset: Dataset
    tasks: Mapping[str, TaskPlan]
    """The tasks' plans by name, in the order of the data set."""
    catalog: Catalog
    is_mixed: bool = False
    """Whether each row is also sent with `model: auto`, so that the gateway chooses the path."""

    @property
    def requests(self) -> int:
        return sum(len(task.rows) * len(self.choices(task)) for task in self.tasks.values())

    def choices(self, task: TaskPlan) -> tuple[str, ...]:
        """Returns the paths to which each row of the task is sent; in a mixed evaluation also "auto".

        With "auto", the gateway chooses the path.
        """
        return (*task.paths, AUTO) if self.is_mixed else task.paths


def make_plan(dataset: Dataset, catalog: Catalog, wanted: Selection, client: httpx.AsyncClient) -> EvaluationPlan:
    """Plans an evaluation without sending requests; a judging model gets its requests through `client`.

    Raises UsageError if a path, the metric or the judge is unknown, if the metric cannot use the label of a row, if a
    task is unknown to the gateway and `wanted` does not name both paths and a metric, or if a task has no metric and
    `wanted` names none. The last two rules do not apply to the task UNKNOWN of a mixed evaluation.
    """
    for path in wanted.paths:
        if path not in catalog.paths:
            raise UsageError(f"there is no path '{path}'; known: {', '.join(sorted(catalog.paths))}")
    tasks = {}
    for name in dict.fromkeys(row.task for row in dataset.rows):
        rows = tuple(row for row in dataset.rows if row.task == name)
        metric = _metric_of(name, catalog, wanted)
        scorer = scorer_of(metric, catalog, client)
        if isinstance(scorer, MetricScorer):
            for row in rows:
                scorer.check(row)
        tasks[name] = TaskPlan(_paths_of(name, catalog, wanted), metric, scorer, rows)
    return EvaluationPlan(dataset, tasks, catalog, wanted.is_mixed)


def _paths_of(task: str, catalog: Catalog, wanted: Selection) -> tuple[str, ...]:
    if wanted.paths:
        return tuple(dict.fromkeys(wanted.paths))
    if wanted.is_mixed and task == UNKNOWN:
        return (catalog.default_path,)
    return tuple(_known_task(task, catalog, "--paths").paths)


def _metric_of(task: str, catalog: Catalog, wanted: Selection) -> Mapping[str, Any]:
    if wanted.metric:
        spec = spec_from_text(wanted.metric)
        if JUDGE_METRIC in spec:
            return {JUDGE_METRIC: {"model": spec[JUDGE_METRIC], "prompt": wanted.judge_prompt}}
        return spec
    if wanted.is_mixed and task == UNKNOWN:
        return _UNKNOWN_METRIC
    metric = _known_task(task, catalog, "--paths and --metric").metric
    if metric is None:
        known = ", ".join((*METRICS, JUDGE_METRIC))
        raise UsageError(f"task '{task}' has no metric; write one in tasks.yaml, or name one with --metric ({known})")
    return metric


def _known_task(task: str, catalog: Catalog, otherwise: str) -> CatalogTask:
    if task not in catalog.tasks:
        known = ", ".join(sorted(catalog.tasks))
        raise UsageError(f"the gateway has no task '{task}'; known: {known}; for any other, give {otherwise}")
    return catalog.tasks[task]


def scorer_of(metric: Mapping[str, Any], catalog: Catalog, client: httpx.AsyncClient) -> Scorer:
    """Returns the scorer for a metric, given as the mapping of settings that tasks.yaml has for it.

    Raises UsageError if the metric or its judge is unknown.
    """
    if JUDGE_METRIC in metric:
        model = metric[JUDGE_METRIC]["model"]
        if model not in catalog.models:
            raise UsageError(f"there is no model '{model}' for the judge; known: {', '.join(catalog.models)}")
        return JudgeScorer(client, model, metric[JUDGE_METRIC]["prompt"])
    try:
        return MetricScorer(metric_from(metric))
    except MetricError as error:
        raise UsageError(str(error)) from error
