"""The `predict` command: reads scores of one task or several, embeds the texts, and learns the policy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pointsman_gateway import bootstrap
from pointsman_gateway.bootstrap.models import EmbeddingModels
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config
from pointsman_gateway.domain import UNKNOWN
from pointsman_gateway.request_log.evidence import path_key
from threadpoolctl import threadpool_limits

from pointsman_lab.datasets.rendering import QueryEmbedding
from pointsman_lab.log_source import LogSource
from pointsman_lab.prediction.evaluation import MIN_ROWS, Evaluation, read_evaluation, to_evaluation
from pointsman_lab.prediction.inputs import Inputs
from pointsman_lab.prediction.policy import Target
from pointsman_lab.prediction.report import predict
from pointsman_lab.prediction.scores_file import read_scores
from pointsman_lab.prediction.task_shares import shares_of_tasks
from pointsman_lab.report import Progress, Report
from pointsman_lab.request_log import parse_age, read_evidence


@dataclass(frozen=True, slots=True)
class PredictOrder:
    """The options of the `predict` command: the tasks, and the scores or ratings from which to learn the policy."""

    tasks: tuple[str, ...]
    """The tasks to learn for; `UNKNOWN` stands for requests that fit no task."""
    data: Path | None
    """The file of the data set that `pointsman eval` has evaluated; None if no evaluation is used."""
    answers: Path | None
    scores: Path | None
    is_live: bool
    """Whether the policy also learns from the ratings in the request log."""
    since: str
    """The age up to which ratings in the request log are used, such as "14d"."""
    source: LogSource
    """The place of the request log, Redis or exported files; it is read only if `is_live`."""
    target: Target


async def learn(order: PredictOrder, config: Config, models: EmbeddingModels, progress: Progress) -> Report:
    """Learns the policy `predicted` of the order's tasks, and returns a report with its options and its gain.

    Raises ConfigError or PointsmanError if the data or the configuration cannot be used.
    """
    _check_tasks(order.tasks, config)
    evaluation = read_scores(order.scores) if order.scores else None
    if order.data:
        evaluation = read_evaluation(order.data, order.answers, order.tasks)
    if order.is_live:
        evaluation = await _with_live(evaluation, order, config)
    if evaluation is None:
        raise ConfigError(
            "there is nothing to learn from; name an evaluation (--data and --answers), --scores, or --live"
        )
    inputs = await _inputs(evaluation, order.tasks, config, models, progress)
    with threadpool_limits(limits=1):  # threads of BLAS busy-wait for each other, and the matrices are small
        return predict(evaluation, inputs, order.tasks, models.encoder.fingerprint, order.target)


async def _inputs(
    evaluation: Evaluation, tasks: Sequence[str], config: Config, models: EmbeddingModels, progress: Progress
) -> Inputs:
    embedding, vectors = QueryEmbedding(models), []
    for number, text in enumerate(evaluation.texts, 1):
        vectors.append(await embedding.embed(text))
        progress("embedding", number, len(evaluation.texts))
    inputs = Inputs.of_one_task(np.stack(vectors).astype(float), evaluation.lengths)
    if len(tasks) == 1:
        return inputs
    return replace(inputs, shares=shares_of_tasks(evaluation.texts, tasks, config, models, progress))


def _check_tasks(tasks: Sequence[str], config: Config) -> None:
    known = {*config.tasks.tasks, UNKNOWN}
    if unknown := [task for task in tasks if task not in known]:
        raise ConfigError(f"there is no task '{unknown[0]}'; known: {', '.join(sorted(known))}")
    if twice := [task for at, task in enumerate(tasks) if task in tasks[:at]]:
        raise ConfigError(f"task '{twice[0]}' is named twice")


async def _with_live(evaluation: Evaluation | None, order: PredictOrder, config: Config) -> Evaluation:
    """Returns the evaluation with rows for the rated requests in the request log, for the evaluation's paths.

    Without an evaluation, returns the rated requests alone, for the paths that all tasks have.
    """
    names = evaluation.paths if evaluation else _common_paths(order.tasks, config)
    if unknown := [name for name in names if name not in config.paths.paths]:
        raise ConfigError(f"path '{unknown[0]}' of the evaluation is not in this configuration")
    found, min_ratings = evaluation, 0 if evaluation else MIN_ROWS
    paths = [bootstrap.to_path(name, config.paths.paths[name], config) for name in names]
    async with order.source.open() as log:
        evidence = await read_evidence(log, config.tasks.request_log.lookback_days)
        for task in order.tasks:
            requests = await log.rated_requests(task, parse_age(order.since))
            known = {path_key(task, path, evidence.versions(path)): evidence.of(task, path) for path in paths}
            live = to_evaluation(requests, known, min_ratings)
            if len(order.tasks) > 1:
                live = live.with_mean_usd_in_rows()
            if found and not set(found.paths) <= set(live.paths):
                raise ConfigError(f"task '{task}' lacks ratings of one of the paths {', '.join(found.paths)}")
            found = found.with_rows(live) if found else live
    assert found is not None  # there is a task
    return found


def _common_paths(tasks: Sequence[str], config: Config) -> tuple[str, ...]:
    """Returns the paths of the policies and shadow requests that all tasks have."""
    of_tasks = []
    for name in tasks:
        if name == UNKNOWN:
            policy = config.tasks.default_policy
            of_tasks.append([*(policy.paths if policy else ()), config.tasks.default_path])
        else:
            task = config.tasks.tasks[name]
            of_tasks.append([*task.policy.paths, *(task.shadow.paths if task.shadow else ())])
    common = set(of_tasks[0]).intersection(*of_tasks)
    return tuple(path for path in dict.fromkeys(of_tasks[0]) if path in common)
