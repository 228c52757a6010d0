"""How good answers are, beside those that were expected: exact ones, and how much of the others is right."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

EXACT, JSON_F1, WORD_F1 = "exact", "json_f1", "word_f1"


@dataclass(frozen=True, slots=True)
class Answered:
    expected: str
    got: str

    @property
    def exact(self) -> bool:
        """JSON is compared as a value, anything else as text without the space around it."""
        try:
            return bool(json.loads(self.expected) == json.loads(self.got))
        except ValueError:
            return self.expected.strip() == self.got.strip()


def score(answers: Sequence[Answered]) -> dict[str, float]:
    """The share of exact answers, and a micro-averaged F1: of JSON's leaves where JSON objects are expected, else of
    words in lower case. Nothing where nothing was answered.
    """
    if not answers:
        return {}
    found = {EXACT: sum(answer.exact for answer in answers) / len(answers)}
    if all(_json_object(answer.expected) is not None for answer in answers):
        return found | {JSON_F1: _f1([(_leaves(answer.expected), _leaves(answer.got)) for answer in answers])}
    return found | {WORD_F1: _f1([(_words(answer.expected), _words(answer.got)) for answer in answers])}


def _f1(pairs: Sequence[tuple[Counter[Any], Counter[Any]]]) -> float:
    """2 x what is right over all that was expected and all that came."""
    right = sum((expected & got).total() for expected, got in pairs)
    both = sum(expected.total() + got.total() for expected, got in pairs)
    return 2 * right / both if both else 1.0


def _leaves(text: str) -> Counter[tuple[str, str]]:
    """(path, value) of each leaf; nothing of what is no JSON object."""
    found = _json_object(text)
    return Counter() if found is None else Counter(_walk("", found))


def _walk(path: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _walk(f"{path}/{key}", inner)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _walk(f"{path}[]", inner)
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def _words(text: str) -> Counter[str]:
    return Counter(text.casefold().split())


def _json_object(text: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
