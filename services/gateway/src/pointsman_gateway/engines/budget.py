"""The retry budget: it bounds retries to a share of recent requests, so that retries never become the load."""

import math
import time
from collections.abc import Callable

DECAY_SECONDS = 10.0
"""Counts decay exponentially with this time constant."""
MIN_DECAY_SECONDS = 0.001
"""Shorter times are not worth a decay."""


class RetryBudget:
    """Grants retries for `share` of the recent requests, and about `floor` in ten seconds whatever the load."""

    def __init__(self, share: float, floor: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._floor = floor
        self._clock = clock
        self._requests = 0.0
        self._spent = 0.0
        self._at = clock()

    def count_request(self) -> None:
        self._decay()
        self._requests += 1.0

    def spend(self) -> bool:
        """Whether a retry is granted; if so it is counted."""
        self._decay()
        if self._spent + 1.0 > self._share * self._requests + self._floor:
            return False
        self._spent += 1.0
        return True

    def _decay(self) -> None:
        now = self._clock()
        if now > self._at + MIN_DECAY_SECONDS:
            left = math.exp((self._at - now) / DECAY_SECONDS)
            self._requests *= left
            self._spent *= left
            self._at = now
