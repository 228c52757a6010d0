"""Which label was answered where which was expected; for tasks whose answers are labels, or have one."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pointsman_scoring.metrics import NOTHING, parsed, plain, structure

from pointsman_cli.eval.answers import Answer
from pointsman_cli.eval.report import Confusion
from pointsman_cli.eval.rows import Row

_MOST_LABELS = 20
OTHER, NO_JSON, FAILED = "(something else)", "(no JSON)", "(failed)"


def confusions(rows: Mapping[str, Row], by_path: Mapping[str, Sequence[Answer]]) -> Iterator[Confusion]:
    """One of each path; none where the task has no labels: a few texts that come again."""
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
    """The first field of JSON labels whose values are labels, in every row; "" for text; None: there are no labels."""
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
    return texts and 2 <= len(different) <= min(_MOST_LABELS, len(values) // 2)


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
