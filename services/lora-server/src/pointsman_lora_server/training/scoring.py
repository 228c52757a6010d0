"""Compares generated answers with expected answers: the share of exact matches, and an F1 score that counts partial
matches.

JSON values are compared by the same rules as in the package pointsman_scoring. Training cannot import it, because it
runs in the engine's Python environment, where that package is not installed.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

EXACT, JSON_F1, WORD_F1 = "exact", "json_f1", "word_f1"

_Path = tuple[str | int, ...]
_Leaf = tuple[str, Any]
"""The name of a value's type, and the value. The type is included because Python's True equals 1."""

_NOT_JSON: Any = object()


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    expected: str
    actual: str

    @property
    def is_exact(self) -> bool:
        """Returns whether the actual answer equals the expected one.

        If both are JSON, their values are compared; otherwise their texts, without white space at the ends.
        """
        expected, actual = _parse(self.expected), _parse(self.actual)
        if expected is _NOT_JSON or actual is _NOT_JSON:
            return self.expected.strip() == self.actual.strip()
        return dict(_leaves(expected)) == dict(_leaves(actual))


def score(answers: Sequence[ScoredAnswer]) -> dict[str, float]:
    """Returns `EXACT`, the share of answers that are exactly right, and a micro-averaged F1; returns an empty
    dictionary if there are no answers.

    If all expected answers are JSON objects, the F1 is `JSON_F1`, computed over the leaves of the objects. Otherwise it
    is `WORD_F1`, computed over words regardless of case and order.
    """
    if not answers:
        return {}
    exact = {EXACT: sum(answer.is_exact for answer in answers) / len(answers)}
    if all(isinstance(_parse(answer.expected), dict) for answer in answers):
        return exact | {JSON_F1: _f1([(_fields(answer.expected), _fields(answer.actual)) for answer in answers])}
    return exact | {WORD_F1: _f1([(_words(answer.expected), _words(answer.actual)) for answer in answers])}


def _f1(pairs: Sequence[tuple[Counter[Any], Counter[Any]]]) -> float:
    """Returns the F1 of pairs (expected items, actual items): twice the number of matches, divided by the number of all
    items. Returns 1 if there are no items.
    """
    matches = sum((expected & actual).total() for expected, actual in pairs)
    total = sum(expected.total() + actual.total() for expected, actual in pairs)
    return 2 * matches / total if total else 1.0


def _fields(text: str) -> Counter[tuple[_Path, _Leaf]]:
    """Returns how often each leaf of a JSON object occurs at its path, regardless of positions in lists; empty for text
    that is no JSON object.
    """
    value = _parse(text)
    if not isinstance(value, dict):
        return Counter()
    return Counter(
        (tuple("[]" if isinstance(step, int) else f"/{step}" for step in path), leaf) for path, leaf in _leaves(value)
    )


def _leaves(value: Any) -> Iterator[tuple[_Path, _Leaf]]:
    """Yields (path, leaf) for each leaf of a JSON value; the path consists of keys and list positions. An empty object
    or list is a leaf.
    """
    pending: list[tuple[_Path, Any]] = [((), value)]
    while pending:
        path, inner = pending.pop()
        if isinstance(inner, dict | list) and inner:
            steps = inner.items() if isinstance(inner, dict) else enumerate(inner)
            pending += [((*path, step), item) for step, item in steps]
        else:
            yield path, _leaf(inner)


def _leaf(value: Any) -> _Leaf:
    if isinstance(value, dict | list):
        return type(value).__name__, None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number", value
    return type(value).__name__, value


def _words(text: str) -> Counter[str]:
    return Counter(text.casefold().split())


def _parse(text: str) -> Any:
    """Returns the JSON value of a text, or _NOT_JSON if it is not JSON or nested too deeply to read."""
    try:
        return json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
