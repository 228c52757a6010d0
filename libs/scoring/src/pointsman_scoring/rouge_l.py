"""How much of a reference's wording an answer has, in the same order."""

import re
from typing import Any

from rapidfuzz.distance import Indel

from pointsman_scoring.metric import MetricError
from pointsman_scoring.plain_text import plain

_WORDS = re.compile(r"\w+")


class RougeL:
    """ROUGE-L as F1 (C.-Y. Lin, "ROUGE", 2004): 2 LCS / (m + n), over words, without stemming.

    That is RapidFuzz's normalised Indel similarity of the two sequences of words.
    """

    def score(self, answer: str, expected: Any) -> float:
        if not isinstance(expected, str) or not _WORDS.search(expected):
            raise MetricError(f"rouge_l compares with a text that has words; the label is {expected!r}")
        return float(Indel.normalized_similarity(_words(answer), _words(expected)))


def _words(text: str) -> list[str]:
    return _WORDS.findall(plain(text))
