"""What is to be asked: checked as a whole before anything is spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from pointsman_scoring import METRICS, MetricError, metric_from, spec_from_text

from pointsman_cli.errors import UsageError
from pointsman_cli.eval.catalogue import Catalogue, Task
from pointsman_cli.eval.judge import Judge
from pointsman_cli.eval.rows import Dataset, Row
from pointsman_cli.eval.scoring import Counting, Scorer

JUDGE = "judge"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says beside the rows."""

    paths: Sequence[str] = ()
    """Empty: all that could answer a row's task."""
    metric: str = ""
    """`NAME` or `NAME=TEXT`, `judge=MODEL` too; empty: the task's own."""
    judge_prompt: str = ""


@dataclass(frozen=True, slots=True)
class TaskPlan:
    paths: tuple[str, ...]
    metric: Mapping[str, Any]
    scorer: Scorer
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    dataset: Dataset
    tasks: Mapping[str, TaskPlan]
    catalogue: Catalogue

    @property
    def requests(self) -> int:
        return sum(len(task.rows) * len(task.paths) for task in self.tasks.values())


def make(dataset: Dataset, catalogue: Catalogue, wanted: Wanted, client: httpx.AsyncClient) -> Plan:
    """Raises Misused, naming what there is not and what there is instead. Nothing is asked."""
    for path in wanted.paths:
        if path not in catalogue.paths:
            raise UsageError(f"there is no path '{path}'; known: {', '.join(sorted(catalogue.paths))}")
    tasks = {}
    for name in dict.fromkeys(row.task for row in dataset.rows):
        rows = tuple(row for row in dataset.rows if row.task == name)
        metric = _metric_of(name, catalogue, wanted)
        scorer = _scorer(metric, catalogue, client)
        if isinstance(scorer, Counting):
            for row in rows:
                scorer.check(row)
        tasks[name] = TaskPlan(_paths_of(name, catalogue, wanted), metric, scorer, rows)
    return Plan(dataset, tasks, catalogue)


def _paths_of(task: str, catalogue: Catalogue, wanted: Wanted) -> tuple[str, ...]:
    if wanted.paths:
        return tuple(dict.fromkeys(wanted.paths))
    return tuple(_known(task, catalogue, "--paths").paths)


def _metric_of(task: str, catalogue: Catalogue, wanted: Wanted) -> Mapping[str, Any]:
    if wanted.metric:
        spec = spec_from_text(wanted.metric)
        if JUDGE in spec:
            return {JUDGE: {"model": spec[JUDGE], "prompt": wanted.judge_prompt}}
        return spec
    metric = _known(task, catalogue, "--paths and --metric").metric
    if metric is None:
        known = ", ".join((*METRICS, JUDGE))
        raise UsageError(f"task '{task}' has no metric; write one in tasks.yaml, or name one with --metric ({known})")
    return metric


def _known(task: str, catalogue: Catalogue, otherwise: str) -> Task:
    if task not in catalogue.tasks:
        known = ", ".join(sorted(catalogue.tasks))
        raise UsageError(f"the gateway has no task '{task}'; known: {known}; for any other, give {otherwise}")
    return catalogue.tasks[task]


def _scorer(metric: Mapping[str, Any], catalogue: Catalogue, client: httpx.AsyncClient) -> Scorer:
    if JUDGE in metric:
        model = metric[JUDGE]["model"]
        if model not in catalogue.models:
            raise UsageError(f"the judge is to be '{model}'; known: {', '.join(catalogue.models)}")
        return Judge(client, model, metric[JUDGE]["prompt"])
    try:
        return Counting(next(iter(metric), ""), metric_from(metric))
    except MetricError as error:
        raise UsageError(str(error)) from error
