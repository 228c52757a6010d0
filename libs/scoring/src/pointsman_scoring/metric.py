"""What every metric is."""

from typing import Any, Protocol


class MetricError(ValueError):
    """A metric cannot be made from what was written, or cannot judge by what is expected; the message says why."""


class Metric(Protocol):
    def score(self, answer: str, expected: Any) -> float:
        """How good `answer` is, from 0 to 1.

        `expected` is what the label says: a text, or any JSON value. Raises MetricError where the metric cannot use
        it, whatever the answer is: scoring an empty answer tells that before any is paid for.
        """
        ...
