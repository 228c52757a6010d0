"""What comes of requests to aliases that have a canary, counted until a lora-server is told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, log2

from pointsman_gateway.domain import CanaryMetrics, Path, ResolvedAdapter

ERRORS = frozenset(
    {
        "engine_error",
        "engine_unavailable",
        "connect_timeout",
        "first_token_timeout",
        "gap_timeout",
        "deadline_exceeded",
    }
)
"""The ends of a request that speak against the version that it was sent to: its engine failed (and no other one made it
good), or it did not come to an end in the request's time."""

MAX_VERSIONS = 256
"""Aliases' revisions, with a version each, that are counted at once."""

_Key = tuple[str, str, int, str]
"""Base model, alias, revision, version."""


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    errors: int = 0
    invalid: int = 0
    milliseconds: dict[int, int] = field(default_factory=dict)


def bucket_of(seconds: float) -> int:
    """The bucket k that holds 2^((k-1)/4) < milliseconds <= 2^(k/4); 0 for all up to 1 ms."""
    milliseconds = seconds * 1000
    return max(0, ceil(4 * log2(milliseconds))) if milliseconds > 1 else 0


def _nobody_cares() -> None:
    pass


class CanaryOutcomes:
    """Counting costs a microsecond, and waits for nothing."""

    def __init__(self, full: Callable[[], None] = _nobody_cares) -> None:
        """`full` is called for each outcome that there is no room for."""
        self._full = full
        self._counts: dict[_Key, _Counts] = {}

    def ended(self, path: Path, aim: ResolvedAdapter, outcome: str, refused: bool, seconds: float) -> None:
        """`outcome` is "ok", "cancelled" or the code of an error; `seconds` are those of a whole answer.

        Counted are answers that came to their end, and `ERRORS`. A caller who hangs up, and what is the caller's own
        mistake, say nothing of a version; nor does an engine that had too much to do.
        """
        failed = outcome in ERRORS
        if not failed and outcome != "ok":
            return
        counts = self._of((path.model, path.adapter, aim.revision, aim.version))
        if counts is None:
            self._full()
            return
        counts.requests += 1
        if failed:
            counts.errors += 1
            return
        counts.invalid += refused
        bucket = bucket_of(seconds)
        counts.milliseconds[bucket] = counts.milliseconds.get(bucket, 0) + 1

    def hand_over(self) -> list[CanaryMetrics]:
        """All that has not been handed over. Whoever takes it tells a lora-server, or gives it back."""
        counts, self._counts = self._counts, {}
        return [CanaryMetrics(*key, c.requests, c.errors, c.invalid, c.milliseconds) for key, c in counts.items()]

    def take_back(self, outcomes: Sequence[CanaryMetrics]) -> None:
        """They could not be told, and wait with what has been counted since."""
        for one in outcomes:
            counts = self._of((one.model, one.alias, one.revision, one.version))
            if counts is None:
                for _ in range(one.requests):
                    self._full()
                continue
            counts.requests += one.requests
            counts.errors += one.errors
            counts.invalid += one.invalid
            for bucket, number in one.latency_buckets.items():
                counts.milliseconds[bucket] = counts.milliseconds.get(bucket, 0) + number

    def _of(self, key: _Key) -> _Counts | None:
        counts = self._counts.get(key)
        if counts is None and len(self._counts) < MAX_VERSIONS:
            counts = self._counts[key] = _Counts()
        return counts
