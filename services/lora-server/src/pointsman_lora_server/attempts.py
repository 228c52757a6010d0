"""What failed for a while and is tried again: when next, and whether it has been told."""

import logging
import time
from dataclasses import dataclass

from pointsman_servicekit.errors import PointsmanError

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds


@dataclass(slots=True)
class _Failure:
    error: PointsmanError
    pause: float
    not_before: float
    since: float  # that it fails for this reason


class RetryBackoff:
    """By version. Each failure is told in the log once, however often it comes again."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}

    def may_try(self, version: str) -> bool:
        failure = self._failures.get(version)
        return failure is None or time.monotonic() >= failure.not_before

    def problem(self, version: str, patience_with_redis: float = 0.0) -> PointsmanError | None:
        """Why the last attempt failed; None where none has, or Redis was away for less than so many seconds."""
        failure = self._failures.get(version)
        if failure is None:
            return None
        young = time.monotonic() - failure.since < patience_with_redis
        return None if failure.error.code == "redis_unavailable" and young else failure.error

    def failed(self, version: str, error: PointsmanError) -> None:
        """The next attempt waits twice as long as this one did."""
        last = self._failures.get(version)
        if last is None or last.error.code != error.code:
            log.warning("%s: %s; it is tried again", version, error.message)
        now, pause = time.monotonic(), min(2 * last.pause, LONGEST_PAUSE) if last else FIRST_PAUSE
        since = last.since if last and last.error.code == error.code else now
        self._failures[version] = _Failure(error, pause, now + pause, since)

    def succeeded(self, version: str) -> None:
        self._failures.pop(version, None)

    def again(self) -> None:
        """What was missing is there now: all may be tried at once."""
        self._failures.clear()
