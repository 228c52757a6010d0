"""Computes each path's quality, latency, tokens and cost, confusion matrices, and rows on which paths disagree."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
from pointsman_scoring.intervals import compare, holm, mean_interval
from pointsman_scoring.metrics import NOTHING, parsed, plain, structure

from pointsman_cli.eval.catalog import Catalog
from pointsman_cli.eval.dataset import Row
from pointsman_cli.eval.mixed import compare_choices
from pointsman_cli.eval.plan import EvaluationPlan, TaskPlan
from pointsman_cli.eval.report import (
    VERSION,
    Confusion,
    Disagreement,
    EvaluatedPath,
    LatencyQuantiles,
    Pair,
    PathAnswer,
    Report,
    TaskReport,
)
from pointsman_cli.eval.runner import Answer

_MAX_LABELS = 20

_MAX_CHARACTERS = 2000  # of one text

OTHER, NO_JSON, FAILED = "(something else)", "(no JSON)", "(failed)"


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """The settings of an evaluation: concurrent requests, confidence of intervals, and number of examples to report."""

    at_once: int
    """Maximum number of concurrent requests to the gateway."""
    confidence: float
    """The confidence level of the intervals, such as 0.95."""
    examples: int
    """Maximum number of rows, for each task, that the report shows as examples of disagreeing paths."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Each task's share of the requests in a mixed evaluation, by the task's name; if empty, the tasks have the shares
    that they have in the data set.
    """
    chosen_by: Report | None = None
    """A report on other rows, whose best path of each task is one of the compared rules; None: no such rule."""


def build_report(plan: EvaluationPlan, answers: Iterable[Answer], terms: EvalSettings) -> Report:
    answers = list(answers)
    mixed = None
    if plan.is_mixed:
        mixed = compare_choices(plan, answers, terms.shares, terms.chosen_by, terms.confidence)
    tasks = tuple(
        _task_report(name, task, plan.catalog, [answer for answer in answers if answer.task == name], terms)
        for name, task in plan.tasks.items()
    )
    dataset = plan.dataset
    return Report(
        VERSION,
        dataset.file.name,
        dataset.digest,
        plan.catalog.revision,
        terms.at_once,
        terms.confidence,
        tasks,
        mixed,
    )


def _task_report(
    name: str, task: TaskPlan, catalog: Catalog, answers: Sequence[Answer], terms: EvalSettings
) -> TaskReport:
    by_path = {path: [answer for answer in answers if answer.path == path] for path in task.paths}
    rows = {row.id: row for row in task.rows}
    figures = [_figures(path, of_it, catalog, rows, terms.confidence) for path, of_it in by_path.items()]
    different, all_different = disagreements(task.rows, by_path, terms.examples)
    return TaskReport(
        task=name,
        metric=next(iter(task.metric)),
        rows=len(task.rows),
        paths=tuple(_with_front(figures)),
        pairs=tuple(compare_paths({path.path: path.row_scores for path in figures}, terms.confidence)),
        confusions=tuple(confusions(rows, by_path)),
        disagreements=different,
        disagreeing=all_different,
        row_ids=tuple(row.id for row in task.rows),
        metric_settings=task.metric,
    )


def _figures(
    path: str, answers: Sequence[Answer], catalog: Catalog, rows: Mapping[str, Row], confidence: float
) -> EvaluatedPath:
    came = [answer for answer in answers if answer.is_ok]
    scores = [answer.score for answer in answers if answer.score is not None]
    facts = catalog.paths[path]
    prompt_tokens = [answer.prompt_tokens for answer in came]
    return EvaluatedPath(
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
        context_window=catalog.context_windows[facts.model],
        usd_per_1000=_parts_per_1000(came),
        judge_usd=sum(answer.judge_usd for answer in answers),
        on_front=False,
        fingerprint=facts.fingerprint,
        row_scores=tuple(answer.score for answer in answers),
        row_usd=tuple(answer.cost_usd if answer.is_ok else None for answer in answers),
    )


def _is_well_formed(answer: Answer, output: Any) -> bool:
    if not answer.is_ok or not answer.text.strip() or answer.finish_reason == "length":
        return False
    wanted = structure(output)
    if wanted is NOTHING:
        return True
    got = parsed(answer.text)
    return type(got) is type(wanted) and (not isinstance(wanted, dict) or got.keys() == wanted.keys())


def _quantiles(seconds: Sequence[float]) -> LatencyQuantiles | None:
    if not seconds:
        return None
    p50, p95 = np.percentile(seconds, [50, 95])
    return LatencyQuantiles(float(p50), float(p95))


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _parts_per_1000(came: Sequence[Answer]) -> dict[str, float]:
    names = dict.fromkeys(name for answer in came for name in answer.cost_parts_usd)
    return {name: 1000 * fmean(answer.cost_parts_usd.get(name, 0.0) for answer in came) for name in names}


def _with_front(paths: Sequence[EvaluatedPath]) -> list[EvaluatedPath]:
    return [replace(path, on_front=_is_on_front(path, paths)) for path in paths]


def _is_on_front(path: EvaluatedPath, paths: Sequence[EvaluatedPath]) -> bool:
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


def compare_paths(scores: Mapping[str, Sequence[float | None]], confidence: float) -> list[Pair]:
    """Compares the scores of each pair of paths that share a scored row; corrects the p-values for the number of pairs.

    `scores` are by the path's name. All paths have their scores in the order of the same rows; None: no score.
    """
    pairs = [pair for two in combinations(scores, 2) if (pair := _pair(*two, scores, confidence))]
    adjusted = holm([pair.p_value for pair in pairs])
    return [replace(pair, p_adjusted=p_value) for pair, p_value in zip(pairs, adjusted, strict=True)]


def _pair(first: str, second: str, scores: Mapping[str, Sequence[float | None]], confidence: float) -> Pair | None:
    rows = zip(scores[first], scores[second], strict=True)
    shared = [(one, other) for one, other in rows if one is not None and other is not None]
    if not shared:
        return None
    found = compare([one for one, _ in shared], [other for _, other in shared], confidence)
    return Pair(first, second, len(shared), found.difference, found.p_value, found.p_value, found.test)


def confusions(rows: Mapping[str, Row], by_path: Mapping[str, Sequence[Answer]]) -> Iterator[Confusion]:
    """Yields one confusion matrix for each path: which label its answers have on the rows of each expected label.

    A label is the whole expected text or, if all expected outputs are JSON objects, the value of one of their fields:
    the first that has 2 to `_MAX_LABELS` different values. Yields nothing if there is no such field or text. `rows` are
    the data set's rows by their ids, and `by_path` has the answers of each path.
    """
    field = _label_field([row.output for row in rows.values()])
    if field is None:
        return
    expected = {row.id: str(_label(row.output, field)) for row in rows.values()}
    labels = sorted(set(expected.values()))
    for path, answers in by_path.items():
        got = {answer.row: _answered(answer, field, labels) for answer in answers}
        columns = [*labels, *(name for name in (OTHER, NO_JSON, FAILED) if name in got.values())]
        counts = Counter((expected[row], answered) for row, answered in got.items())
        table = tuple(tuple(counts[label, column] for column in columns) for label in labels)
        yield Confusion(path, field, tuple(labels), tuple(columns), table)


def _label_field(outputs: Sequence[Any]) -> str | None:
    """Returns the first JSON field that holds labels, "" if the whole texts are labels, or None if there are none.

    Texts are labels if there are 2 to _MAX_LABELS different ones, and on average at least two rows for each.
    """
    values = [structure(output) for output in outputs]
    objects = [value for value in values if isinstance(value, dict)]
    if len(objects) < len(values):
        return "" if not objects and _are_labels(outputs) else None
    for name in objects[0] if objects else ():
        if _are_labels([value.get(name) for value in objects]):
            return str(name)
    return None


def _are_labels(values: Sequence[Any]) -> bool:
    different = {value for value in values if isinstance(value, str)}
    texts = all(isinstance(value, str) for value in values)
    return texts and 2 <= len(different) <= min(_MAX_LABELS, len(values) // 2)


def _label(output: Any, field: str) -> Any:
    return structure(output)[field] if field else output


def _answered(answer: Answer, field: str, labels: Sequence[str]) -> str:
    if not answer.is_ok:
        return FAILED
    if not field:
        return next((label for label in labels if plain(label) == plain(answer.text)), OTHER)
    got = parsed(answer.text)
    if got is NOTHING:
        return NO_JSON
    label = got.get(field) if isinstance(got, dict) else None
    return label if isinstance(label, str) and label in labels else OTHER


def disagreements(
    rows: Sequence[Row], by_path: Mapping[str, Sequence[Answer]], most: int
) -> tuple[tuple[Disagreement, ...], int]:
    """Returns the rows on which paths have different scores, largest difference first, and the number of all such rows.

    `by_path` has the answers of each path. At most `most` rows are returned.
    """
    by_row: dict[str, list[Answer]] = defaultdict(list)
    for of_path in by_path.values():
        for answer in of_path:
            by_row[answer.row].append(answer)
    found = []
    for place, row in enumerate(rows):
        answers = by_row[row.id]
        scores = [answer.score for answer in answers if answer.score is not None]
        if scores and max(scores) > min(scores):
            found.append((min(scores) - max(scores), place, row, answers))
    found.sort(key=lambda item: item[:2])
    return tuple(_disagreement(row, answers) for _, _, row, answers in found[:most]), len(found)


def _disagreement(row: Row, answers: Sequence[Answer]) -> Disagreement:
    expected = row.output if row.output is not None else row.facts
    return Disagreement(
        row=row.id,
        asked=_cut(row.text),
        expected=_cut(expected if isinstance(expected, str) else json.dumps(expected, ensure_ascii=False)),
        answers=tuple(
            PathAnswer(answer.path, answer.score, answer.outcome, _cut(answer.text or answer.error))
            for answer in answers
        ),
    )


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"
