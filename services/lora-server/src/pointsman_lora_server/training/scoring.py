"""How good answers are, beside those that were expected: exact ones, and how much of the others is right.

JSON is told apart as pointsman_scoring tells it, which the engine's environment does not have.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

EXACT, JSON_F1, WORD_F1 = "exact", "json_f1", "word_f1"

_Path = tuple[str | int, ...]
_Leaf = tuple[str, Any]
"""A type and a value: Python alone holds True for equal to 1."""

_NO_JSON: Any = object()


@dataclass(frozen=True, slots=True)
class Answered:
    expected: str
    got: str

    @property
    def exact(self) -> bool:
        """JSON is compared as a value, anything else as text without the space around it."""
        expected, got = _parsed(self.expected), _parsed(self.got)
        if expected is _NO_JSON or got is _NO_JSON:
            return self.expected.strip() == self.got.strip()
        return dict(_leaves(expected)) == dict(_leaves(got))


def score(answers: Sequence[Answered]) -> dict[str, float]:
    """The share of exact answers, and a micro-averaged F1: of JSON's leaves where JSON objects are expected, else of
    words in lower case. Nothing where nothing was answered.
    """
    if not answers:
        return {}
    found = {EXACT: sum(answer.exact for answer in answers) / len(answers)}
    if all(isinstance(_parsed(answer.expected), dict) for answer in answers):
        return found | {JSON_F1: _f1([(_fields(answer.expected), _fields(answer.got)) for answer in answers])}
    return found | {WORD_F1: _f1([(_words(answer.expected), _words(answer.got)) for answer in answers])}


def _f1(pairs: Sequence[tuple[Counter[Any], Counter[Any]]]) -> float:
    """2 x what is right over all that was expected and all that came."""
    right = sum((expected & got).total() for expected, got in pairs)
    both = sum(expected.total() + got.total() for expected, got in pairs)
    return 2 * right / both if both else 1.0


def _fields(text: str) -> Counter[tuple[_Path, _Leaf]]:
    """The leaves, wherever in its list each stands; nothing of what is no JSON object."""
    found = _parsed(text)
    if not isinstance(found, dict):
        return Counter()
    return Counter(
        (tuple("[]" if isinstance(step, int) else f"/{step}" for step in path), leaf) for path, leaf in _leaves(found)
    )


def _leaves(value: Any) -> Iterator[tuple[_Path, _Leaf]]:
    """Each with the keys and positions that lead to it, however deep. An empty object or list is a leaf itself."""
    waiting: list[tuple[_Path, Any]] = [((), value)]
    while waiting:
        path, inner = waiting.pop()
        if isinstance(inner, dict | list) and inner:
            steps = inner.items() if isinstance(inner, dict) else enumerate(inner)
            waiting += [((*path, step), item) for step, item in steps]
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


def _parsed(text: str) -> Any:
    """The value that `text` is; _NO_JSON where it is none, or nested too deeply to read."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NO_JSON


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
