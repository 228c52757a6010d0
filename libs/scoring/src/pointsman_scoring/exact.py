"""The answer is what is expected, or it is not."""

from typing import Any

from pointsman_scoring.json_values import NOTHING, leaves, parsed, structure
from pointsman_scoring.metric import MetricError
from pointsman_scoring.plain_text import plain


class Exact:
    """1 or 0. JSON is compared by value (the order of keys does not count), text but for case and spaces."""

    def score(self, answer: str, expected: Any) -> float:
        wanted = structure(expected)
        if wanted is not NOTHING:
            got = parsed(answer)
            return float(got is not NOTHING and leaves(got) == leaves(wanted))
        if not isinstance(expected, str):
            raise MetricError(f"exact compares with a text, an object or an array; the label is {expected!r}")
        return float(plain(answer) == plain(expected))
