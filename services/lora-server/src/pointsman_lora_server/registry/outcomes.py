"""What came of requests to an alias that has a canary, counted by version."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """`invalid` answers are those that a validator refused; errors have no time."""

    requests: int = 0
    errors: int = 0
    invalid: int = 0
    milliseconds: Mapping[int, int] = field(default_factory=dict)
    """Whole answers' times: bucket k counts those of 2^((k-1)/4) to 2^(k/4) milliseconds; 0 those of 1 ms or less."""


@dataclass(frozen=True, slots=True)
class CanaryOutcomes:
    """Since the last report of the same gateway; `revision` is of the alias as it was when the requests were sent."""

    alias: str
    revision: int
    version: str
    counts: RequestCounts
