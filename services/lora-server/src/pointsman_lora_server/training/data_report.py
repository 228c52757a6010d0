"""Describes the training data of a run: rows that were left out, lengths, contradictory answers, and how often each
label occurs.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pointsman_lora_server.training.data import Conversation, Key

MAX_IMBALANCE = 10
"""If a field's most frequent label has at least this many times the rows of its least frequent label, the report has a
warning."""
MIN_LABEL_ROWS = 5
"""If a label has fewer training rows than this, the report has a warning."""
MAX_LISTED = 5

WHOLE_ANSWER = "answer"
"""The field name under which labels are counted if an answer is not a JSON object; the whole answer is then the
label."""
MAX_LABEL_CHARACTERS = 64
MAX_LABELS = 200
"""A field with more different values than this is not counted as a field of labels."""


@dataclass(frozen=True, slots=True)
class DataReport:
    """A description of the training data. The trainer prints it to stdout as the event "data", before it trains."""

    rows: int
    """Number of training rows, without duplicates and without rows whose prompt is also held out. Rows that are too
    long are included."""
    heldout_rows: int
    """Number of held-out rows, including those that are too long."""
    left_out: Mapping[str, int]
    """Reason -> number of rows that were left out. The reasons are "duplicate", "held_out_too" (the prompt is also held
    out for the evaluation) and "too_long"."""
    contradictory: tuple[str, ...]
    """Up to `MAX_LISTED` pairs of rows, as "FILE:LINE and FILE:LINE", that have the same prompt but different answers.
    Case and white space are ignored."""
    tokens: Mapping[str, int]
    """Statistics of the number of tokens of a training row, prompt and answer together: "median", "p95" (95th
    percentile) and "longest". Empty if there are no rows."""
    learnt_tokens: int
    """Total number of tokens of all training answers, including the token that ends each answer."""
    labels: Mapping[str, Mapping[str, int]]
    """Field name -> label -> number of training rows, the most frequent label first; see `count_labels`."""
    warnings: tuple[str, ...] = field(default=())

    def facts(self) -> dict[str, object]:
        """Returns the report as a dictionary, field name -> value."""
        return asdict(self)


def describe_data(
    training: Sequence[Conversation],
    heldout: Sequence[Conversation],
    notes: Sequence[str],
    lengths: Sequence[int],
    learnt_tokens: int,
) -> DataReport:
    """Returns a report on the rows of a training run.

    `training` and `heldout` have the rows after duplicates were left out. `notes` has a line for each row that was left
    out, with the reason. `lengths` has the number of tokens of each training row that is not too long; for preference
    pairs, of each answer with its prompt. `learnt_tokens` is the number of tokens of all these rows' answers.
    """
    contradictory = tuple(_contradictory(training))
    labels = count_labels(training)
    warnings = (*_warnings(labels, count_labels(heldout, labels)),)
    if contradictory:
        warnings = (
            *warnings,
            f"{len(contradictory)} pairs of rows have the same prompt but for case and spaces, and different answers",
        )
    return DataReport(
        rows=len(training),
        heldout_rows=len(heldout),
        left_out=_left_out(notes),
        contradictory=contradictory[:MAX_LISTED],
        tokens=_lengths(lengths),
        learnt_tokens=learnt_tokens,
        labels=labels,
        warnings=warnings,
    )


def count_labels(
    rows: Sequence[Conversation], fields_of: Mapping[str, object] | None = None
) -> dict[str, dict[str, int]]:
    """Counts the labels in the rows' answers. Returns field name -> label -> number of rows, the most frequent label
    first.

    If an answer is a JSON object, its fields that are strings, integers or booleans are counted; any other answer is
    counted as the field `WHOLE_ANSWER`. A field is only returned if its values look like labels: there are at least
    four rows, 90 % of them have the field, it has few different values (see `_are_labels`), and no value is longer than
    `MAX_LABEL_CHARACTERS`. If `fields_of` is given, the fields named in it are returned instead, whatever their values
    are.
    """
    fields: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in _values(row.answer):
            fields.setdefault(name, Counter())[value] += 1
    if fields_of is not None:
        return {name: dict(counts.most_common()) for name, counts in fields.items() if name in fields_of}
    return {name: dict(counts.most_common()) for name, counts in fields.items() if _are_labels(counts, len(rows))}


def _are_labels(counts: Counter[str], rows: int) -> bool:
    """Returns whether a field's values are labels; `counts` has the number of rows for each value, and `rows` is the
    number of all rows.

    There may be at most `MAX_LABELS` different values, and at most a third as many as rows with the field, but two are
    always allowed.
    """
    return (
        counts.total() >= 0.9 * rows
        and rows >= 4
        and len(counts) <= min(MAX_LABELS, max(2, counts.total() // 3))
        and all(len(label) <= MAX_LABEL_CHARACTERS for label in counts)
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
        yield WHOLE_ANSWER, answer.strip()


def _left_out(notes: Sequence[str]) -> dict[str, int]:
    reasons = {"the same as": "duplicate", "is held out too": "held_out_too", "tokens are more than": "too_long"}
    counts = Counter(reason for note in notes for text, reason in reasons.items() if text in note)
    return {reason: counts[reason] for reason in reasons.values()}


def _lengths(lengths: Sequence[int]) -> dict[str, int]:
    if not lengths:
        return {}
    ordered = sorted(lengths)
    return {
        "median": round(statistics.median(ordered)),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "longest": ordered[-1],
    }


def _contradictory(rows: Sequence[Conversation]) -> Iterator[str]:
    """Yields pairs of rows whose prompts, but not whose answers, are the same except for case and white space."""
    first: dict[Key, Conversation] = {}
    for row in rows:
        known = first.setdefault(row.key, row)
        if known.answer.casefold().split() != row.answer.casefold().split():
            yield f"{known.where} and {row.where}"


def _warnings(labels: Mapping[str, Mapping[str, int]], heldout: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for name, counts in labels.items():
        most, least = max(counts, key=lambda label: counts[label]), min(counts, key=lambda label: counts[label])
        if len(counts) == 1:
            yield f"{name}: every row has {most!r}; there is nothing to distinguish"
        elif counts[most] >= MAX_IMBALANCE * counts[least]:
            yield f"{name}: {most!r} has {counts[most]} rows and {least!r} {counts[least]}; give more of the rare ones"
        elif counts[least] < MIN_LABEL_ROWS:
            yield f"{name}: {least!r} has only {counts[least]} rows"
        unknown = [label for label in heldout.get(name, {}) if label not in counts]
        if unknown:
            others = f", and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            yield f"{name}: {unknown[0]!r} is held out and never trained on{others}"
