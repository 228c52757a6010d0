"""Which of the facts an answer states."""

import re
from typing import Any

from pointsman_scoring.metric import MetricError
from pointsman_scoring.plain_text import plain


class Contains:
    """The share of the facts that the answer holds, but for case and spaces.

    A fact is a text, or a list of texts of which any will do. It must stand by itself: "5 days" is not in "15 days",
    nor "2 dollars" in "2.40 dollars".
    """

    def score(self, answer: str, expected: Any) -> float:
        facts = [_ways_to_say(fact) for fact in (expected if isinstance(expected, list) else [expected])]
        if not facts:
            raise MetricError("contains looks for facts; the label names none")
        text = plain(answer)
        return sum(any(_stands_in(text, way) for way in ways) for ways in facts) / len(facts)


def _ways_to_say(fact: Any) -> list[str]:
    ways = fact if isinstance(fact, list) else [fact]
    if not ways or not all(isinstance(way, str) and plain(way) for way in ways):
        raise MetricError(f"a fact is a text that is not empty, or a list of such texts; the label has {fact!r}")
    return [plain(way) for way in ways]


def _stands_in(text: str, way: str) -> bool:
    before = r"(?<!\w)(?<!\d[.,])" if way[0].isalnum() else ""
    after = r"(?!\w)(?![.,]\d)" if way[-1].isalnum() else ""
    return re.search(before + re.escape(way) + after, text) is not None
