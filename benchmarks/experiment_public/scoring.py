"""Scores an answer with 1 or 0; `pointsman eval` reads these functions from this file by `entry_point`."""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping

from pointsman_scoring.metrics import NOTHING, Exact, parsed

FINAL = "Answer:"
"""The word before the answer of a path that reasons first."""


def exact(answer: str, expected: str) -> float:
    """Scores equality: of JSON by its value, of text without case and white space."""
    return Exact().score(_final(answer), expected)


def squad(answer: str, expected: str) -> float:
    """Scores an exact match as in SQuAD (Rajpurkar et al. 2016): without case, punctuation, articles and white
    space.
    """
    return float(_normalized(_span(answer)) == _normalized(expected))


def intent(answer: str, expected: str) -> float:
    """Scores whether the intent is right, whatever the slots are."""
    got, wanted = parsed(_final(answer)), parsed(expected)
    return float(isinstance(got, dict) and got.get("intent") == wanted["intent"])


def squad_f1(answer: str, expected: str) -> float:
    """Scores by F1 over words, as in SQuAD."""
    got, wanted = _normalized(_span(answer)).split(), _normalized(expected).split()
    shared = sum((Counter(got) & Counter(wanted)).values())
    return 2 * shared / (len(got) + len(wanted)) if shared else 0.0


METRICS: Mapping[str, str] = {"snips": "exact", "clinc150": "exact", "xquad": "squad"}
SECONDARY: Mapping[str, tuple[str, Callable[[str, str], float]]] = {
    "snips": ("intent alone", intent),
    "xquad": ("F1", squad_f1),
}


def metric(name: str) -> Callable[[str, str], float]:
    """Returns the headline metric of a set."""
    return squad if METRICS[name] == "squad" else exact


def _final(answer: str) -> str:
    return answer.rpartition(FINAL)[2].strip()


def _span(answer: str) -> str:
    """Returns the text of a guided answer, {"answer": ...}."""
    found = parsed(_final(answer))
    return (
        str(found["answer"])
        if found is not NOTHING and isinstance(found, dict) and "answer" in found
        else _final(answer)
    )


def _normalized(text: str) -> str:
    words = re.sub(r"\b(a|an|the)\b", " ", "".join(c for c in text.lower() if c not in string.punctuation))
    return " ".join(words.split())
