"""Computes confusion matrices for tasks whose answers are labels, and lists rows on which paths disagree."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pointsman_scoring.metrics import NOTHING, parsed, plain, structure

from pointsman_cli.eval.answers import Answer
from pointsman_cli.eval.dataset import Row
from pointsman_cli.eval.report import Confusion, Disagreement, PathAnswer

_MAX_LABELS = 20
OTHER, NO_JSON, FAILED = "(something else)", "(no JSON)", "(failed)"


def confusions(rows: Mapping[str, Row], by_path: Mapping[str, Sequence[Answer]]) -> Iterator[Confusion]:
    """Yields one matrix for each path; none if the task has no labels (a few texts that recur)."""
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
    """Returns the first JSON field that holds labels in every row, "" if the whole text is a label, or None."""
    values = [structure(output) for output in outputs]
    objects = [value for value in values if isinstance(value, dict)]
    if len(objects) < len(values):
        return "" if not objects and _are_labels(outputs) else None
    for field in objects[0] if objects else ():
        if _are_labels([value.get(field) for value in objects]):
            return str(field)
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


_MAX_CHARACTERS = 2000  # of one text


def disagreements(
    rows: Sequence[Row], by_path: Mapping[str, Sequence[Answer]], most: int
) -> tuple[tuple[Disagreement, ...], int]:
    """Returns the rows with different scores, largest difference first, and their total number."""
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
