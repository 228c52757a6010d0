"""Computes quality with intervals, latency, tokens and cost of each path from its answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
from pointsman_scoring.intervals import compare, holm, mean_interval
from pointsman_scoring.metrics import NOTHING, parsed, structure

from pointsman_cli.eval.answers import Answer
from pointsman_cli.eval.comparisons import confusions, disagreements
from pointsman_cli.eval.dataset import Row
from pointsman_cli.eval.plan import Catalogue, Plan, TaskPlan
from pointsman_cli.eval.report import VERSION, Pair, PathFigures, Quantiles, Report, TaskReport


@dataclass(frozen=True, slots=True)
class EvalSettings:
    at_once: int
    confidence: float
    examples: int
    """Number of disagreements to keep for each task."""


def build_report(plan: Plan, answers: Iterable[Answer], terms: EvalSettings) -> Report:
    answers = list(answers)
    tasks = tuple(
        _task_report(name, task, plan.catalogue, [answer for answer in answers if answer.task == name], terms)
        for name, task in plan.tasks.items()
    )
    dataset = plan.dataset
    return Report(
        VERSION, dataset.file.name, dataset.digest, plan.catalogue.generation, terms.at_once, terms.confidence, tasks
    )


def _task_report(
    name: str, task: TaskPlan, catalogue: Catalogue, answers: Sequence[Answer], terms: EvalSettings
) -> TaskReport:
    by_path = {path: [answer for answer in answers if answer.path == path] for path in task.paths}
    rows = {row.id: row for row in task.rows}
    figures = [_figures(path, of_it, catalogue, rows, terms.confidence) for path, of_it in by_path.items()]
    different, all_different = disagreements(task.rows, by_path, terms.examples)
    return TaskReport(
        task=name,
        metric=next(iter(task.metric)),
        rows=len(task.rows),
        paths=tuple(_with_front(figures)),
        pairs=tuple(_pairs(by_path, terms.confidence)),
        confusions=tuple(confusions(rows, by_path)),
        disagreements=different,
        disagreeing=all_different,
    )


def _figures(
    path: str, answers: Sequence[Answer], catalogue: Catalogue, rows: Mapping[str, Row], confidence: float
) -> PathFigures:
    came = [answer for answer in answers if answer.is_ok]
    scores = [answer.score for answer in answers if answer.score is not None]
    facts = catalogue.paths[path]
    prompt_tokens = [answer.prompt_tokens for answer in came]
    return PathFigures(
        path=path,
        kind=facts.kind,
        adapter=facts.adapter,
        model=", ".join(sorted({answer.model for answer in came if answer.model})),
        answers=len(answers),
        failures=dict(Counter(answer.outcome for answer in answers if not answer.is_ok).most_common()),
        unscored=len(answers) - len(scores),
        score=mean_interval(scores, confidence) if scores else None,
        well_formed=fmean(_is_well_formed(answer, rows[answer.row].output) for answer in answers),
        first_token=_quantiles([answer.first_token for answer in came if answer.first_token is not None]),
        total=_quantiles([answer.total for answer in came]),
        prompt_tokens=_mean(prompt_tokens),
        cached_tokens=_mean([answer.cached_tokens for answer in came]),
        completion_tokens=_mean([answer.completion_tokens for answer in came]),
        prompt_tokens_p95=float(np.percentile(prompt_tokens, 95)) if prompt_tokens else 0.0,
        context_window=catalogue.context_windows[facts.model],
        usd_per_1000=_parts_per_1000(came),
        judge_usd=sum(answer.judge_usd for answer in answers),
        on_front=False,
    )


def _is_well_formed(answer: Answer, output: Any) -> bool:
    if not answer.is_ok or not answer.text.strip() or answer.finish_reason == "length":
        return False
    wanted = structure(output)
    if wanted is NOTHING:
        return True
    got = parsed(answer.text)
    return type(got) is type(wanted) and (not isinstance(wanted, dict) or got.keys() == wanted.keys())


def _quantiles(seconds: Sequence[float]) -> Quantiles | None:
    if not seconds:
        return None
    p50, p95 = np.percentile(seconds, [50, 95])
    return Quantiles(float(p50), float(p95))


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _parts_per_1000(came: Sequence[Answer]) -> dict[str, float]:
    names = dict.fromkeys(name for answer in came for name in answer.cost_parts_usd)
    return {name: 1000 * fmean(answer.cost_parts_usd.get(name, 0.0) for answer in came) for name in names}


def _with_front(paths: Sequence[PathFigures]) -> list[PathFigures]:
    return [replace(path, on_front=_is_on_front(path, paths)) for path in paths]


def _is_on_front(path: PathFigures, paths: Sequence[PathFigures]) -> bool:
    if path.score is None or not path.usd_per_1000:
        return False
    mean, cost = path.score.mean, path.cost
    return not any(
        other.score is not None
        and other.usd_per_1000
        and other.score.mean >= mean
        and other.cost <= cost
        and (other.score.mean > mean or other.cost < cost)
        for other in paths
    )


def _pairs(by_path: Mapping[str, Sequence[Answer]], confidence: float) -> list[Pair]:
    pairs = [pair for two in combinations(by_path, 2) if (pair := _pair(*two, by_path, confidence))]
    adjusted = holm([pair.p_value for pair in pairs])
    return [replace(pair, p_adjusted=p_value) for pair, p_value in zip(pairs, adjusted, strict=True)]


def _pair(first: str, second: str, by_path: Mapping[str, Sequence[Answer]], confidence: float) -> Pair | None:
    one, other = (
        {answer.row: answer.score for answer in by_path[path] if answer.score is not None} for path in (first, second)
    )
    shared = [row for row in one if row in other]
    if not shared:
        return None
    found = compare([one[row] for row in shared], [other[row] for row in shared], confidence)
    return Pair(first, second, len(shared), found.difference, found.p_value, found.p_value, found.test)
