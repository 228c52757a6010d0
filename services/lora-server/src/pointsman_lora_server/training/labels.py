"""Finds the labels in answers: short texts that come again and again, or such texts inside JSON objects."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from pointsman_lora_server.training.data import Conversation

ANSWER = "answer"
"""The field's name where the whole answer is the label."""
LONGEST = 64  # letters of a label
MOST = 200  # labels of a field


def labels_of(rows: Sequence[Conversation], like: Mapping[str, object] | None = None) -> dict[str, dict[str, int]]:
    """Counts by field and label, the most frequent first; with `like`, of those fields, labels or not."""
    fields: dict[str, Counter[str]] = {}
    for row in rows:
        for field, value in _values(row.answer):
            fields.setdefault(field, Counter())[value] += 1
    if like is not None:
        return {field: dict(counts.most_common()) for field, counts in fields.items() if field in like}
    return {field: dict(counts.most_common()) for field, counts in fields.items() if _are_labels(counts, len(rows))}


def _are_labels(counts: Counter[str], rows: int) -> bool:
    """In nearly every row, short, and each for some rows: a field of free text has a value of its own in each."""
    return (
        counts.total() >= 0.9 * rows
        and rows >= 4
        and len(counts) <= min(MOST, max(2, counts.total() // 3))
        and all(len(label) <= LONGEST for label in counts)
    )


def _values(answer: str) -> Iterator[tuple[str, str]]:
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        value = answer
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, str | bool | int):
                yield str(key), str(inner)
    else:
        yield ANSWER, answer.strip()
