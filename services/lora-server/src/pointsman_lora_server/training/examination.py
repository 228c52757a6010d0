"""What the data is like, told before anything is computed: what was left out, how long it is, which labels it has."""

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pointsman_lora_server.training.data import Conversation
from pointsman_lora_server.training.labels import labels_of

LOPSIDED = 10
"""Times as many rows that the most frequent label has than the least frequent one, before it is said."""
FEW_ROWS = 5
"""Of a label, before it is said."""
MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class DataReport:
    """All of it goes into the report as it is."""

    rows: int
    heldout_rows: int
    left_out: Mapping[str, int]
    """Rows, by reason: "duplicate", "held_out_too", "too_long"."""
    contradictory: tuple[str, ...]
    """Pairs of rows whose prompts differ in case and white space alone, and whose answers differ."""
    tokens: Mapping[str, int]
    """Of a row with its answer: "median", "p95", "longest"."""
    learnt_tokens: int
    """Of all answers together, ends of turns counted."""
    labels: Mapping[str, Mapping[str, int]]
    """Rows of each label, the most frequent first, where answers are short labels or JSON objects that hold some."""
    warnings: tuple[str, ...] = field(default=())

    def facts(self) -> dict[str, object]:
        return asdict(self)


def examine(
    training: Sequence[Conversation],
    heldout: Sequence[Conversation],
    notes: Sequence[str],
    lengths: Sequence[int],
    learnt_tokens: int,
) -> DataReport:
    """`notes` say what was left out, `lengths` are the tokens of the rows that are left."""
    contradictory = tuple(_contradictory(training))
    labels = labels_of(training)
    warnings = (*_warnings(labels, labels_of(heldout, labels)),)
    if contradictory:
        warnings = (*warnings, f"{len(contradictory)} pairs of rows ask the same in other letters and differ in answer")
    return DataReport(
        rows=len(training),
        heldout_rows=len(heldout),
        left_out=_left_out(notes),
        contradictory=contradictory[:MOST_NAMED],
        tokens=_lengths(lengths),
        learnt_tokens=learnt_tokens,
        labels=labels,
        warnings=warnings,
    )


def _left_out(notes: Sequence[str]) -> dict[str, int]:
    reasons = {"the same as": "duplicate", "is held out too": "held_out_too", "tokens are more than": "too_long"}
    found = Counter(reason for note in notes for words, reason in reasons.items() if words in note)
    return {reason: found[reason] for reason in reasons.values()}


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
    """Answers are compared in lower case too: "to SALTBY" and "to Saltby" may well be answered as they are written."""
    first: dict[tuple[tuple[str, str], ...], Conversation] = {}
    for row in rows:
        known = first.setdefault(row.key, row)
        if known.answer.casefold().split() != row.answer.casefold().split():
            yield f"{known.where} and {row.where}"


def _warnings(labels: Mapping[str, Mapping[str, int]], heldout: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for name, counts in labels.items():
        most, least = max(counts, key=lambda label: counts[label]), min(counts, key=lambda label: counts[label])
        if len(counts) == 1:
            yield f"{name}: every row has {most!r}; there is nothing to tell apart"
        elif counts[most] >= LOPSIDED * counts[least]:
            yield f"{name}: {most!r} has {counts[most]} rows and {least!r} {counts[least]}; give more of the rare ones"
        elif counts[least] < FEW_ROWS:
            yield f"{name}: {least!r} has {counts[least]} rows only"
        strange = [label for label in heldout.get(name, {}) if label not in counts]
        if strange:
            yield f"{name}: {strange[0]!r} is held out and never trained on" + _and_more(len(strange) - 1)


def _and_more(count: int) -> str:
    return f", and {count} more" if count else ""
