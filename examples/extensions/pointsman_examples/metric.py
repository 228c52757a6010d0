"""A metric that accepts numbers close to the expected one."""

from typing import Any

from pointsman_scoring import MetricError


class CloseTo:
    def __init__(self, option: float) -> None:
        self._tolerance = float(option)

    def score(self, answer: str, expected: Any) -> float:
        try:
            wanted = float(expected)
        except (TypeError, ValueError) as error:
            raise MetricError(f"the expected answer is {expected!r}, not a number") from error
        try:
            return float(abs(float(answer) - wanted) <= self._tolerance)
        except ValueError:
            return 0.0
