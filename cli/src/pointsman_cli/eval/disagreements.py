"""The rows on which paths came to different scores."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

from pointsman_cli.eval.answers import Answer
from pointsman_cli.eval.report import Disagreement, PathAnswer
from pointsman_cli.eval.rows import Row

_MOST_CHARACTERS = 2000  # of one text


def disagreements(
    rows: Sequence[Row], by_path: Mapping[str, Sequence[Answer]], most: int
) -> tuple[tuple[Disagreement, ...], int]:
    """The widest first, then as the rows stand; and how many there are in all."""
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
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
