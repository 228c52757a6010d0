"""What a pattern finds in an answer."""

from typing import Any

import regex

from pointsman_scoring.metric import MetricError
from pointsman_scoring.plain_text import plain

_SECONDS = 0.05  # answers are nobody's friend: a pattern that is not done by then has found nothing


class Regex:
    """Where the label says nothing: 1 if the pattern is found. Else 1 if its last find is what the label says.

    The find is the pattern's first group, or all of it where it has none: r"total is (\\S+)" picks the sum out of an
    answer that reasons its way there. Compared but for case and spaces.
    """

    def __init__(self, pattern: str) -> None:
        """Raises MetricError where `pattern` is none."""
        try:
            self._pattern = regex.compile(pattern)
        except regex.error as error:
            raise MetricError(f"regex: bad pattern {pattern!r}: {error}") from error

    def score(self, answer: str, expected: Any) -> float:
        if expected is not None and not isinstance(expected, str):
            raise MetricError(f"regex compares what it finds with a text; the label is {expected!r}")
        found = self._last(answer)
        if found is None:
            return 0.0
        return float(expected is None or plain(found) == plain(expected))

    def _last(self, answer: str) -> str | None:
        last = None
        try:
            for match in self._pattern.finditer(answer, timeout=_SECONDS):
                last = match
        except TimeoutError:
            return None
        if last is None:
            return None
        return (last[1] if self._pattern.groups else last[0]) or ""
