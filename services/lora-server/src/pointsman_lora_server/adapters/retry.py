"""Exponential backoff for work that failed and is tried again, one entry for each adapter version."""

import logging
import time
from dataclasses import dataclass

from pointsman_servicekit.errors import PointsmanError

log = logging.getLogger(__name__)

MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 30.0


@dataclass(slots=True)
class _Failure:
    error: PointsmanError
    backoff: float
    not_before: float
    since: float
    """When the version first failed with this error code."""


class RetryBackoff:
    """Decides when the work on a version may be tried again. A repeated error is logged once."""

    def __init__(self) -> None:
        self._failures: dict[str, _Failure] = {}

    def is_due(self, version: str) -> bool:
        """Returns whether work on the version may be tried: it has not failed, or its backoff has passed."""
        failure = self._failures.get(version)
        return failure is None or time.monotonic() >= failure.not_before

    def last_error(self, version: str, redis_tolerance: float = 0.0) -> PointsmanError | None:
        """Returns the error of the last attempt on the version, None if it succeeded.

        An outage of Redis that began less than `redis_tolerance` seconds ago is not reported.
        """
        failure = self._failures.get(version)
        if failure is None:
            return None
        is_recent = time.monotonic() - failure.since < redis_tolerance
        return None if failure.error.code == "redis_unavailable" and is_recent else failure.error

    def record_failure(self, version: str, error: PointsmanError) -> None:
        last = self._failures.get(version)
        if last is None or last.error.code != error.code:
            log.warning("%s: %s; it is retried", version, error.message)
        now, backoff = time.monotonic(), min(2 * last.backoff, MAX_BACKOFF_SECONDS) if last else MIN_BACKOFF_SECONDS
        since = last.since if last and last.error.code == error.code else now
        self._failures[version] = _Failure(error, backoff, now + backoff, since)

    def record_success(self, version: str) -> None:
        self._failures.pop(version, None)

    def reset(self) -> None:
        """Makes every version due at once, for example because the engine is ready again."""
        self._failures.clear()
