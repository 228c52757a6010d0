"""The retry budget: so many of the recent requests may be sent again, so that retries never become the load."""

import math
import time
from collections.abc import Callable

MEMORY = 10.0
"""Seconds in which what was asked fades to a third."""
SHORTEST = 0.001
"""Seconds for which nothing is thought to fade."""


class RetryBudget:
    """Lets through `share` of the recent requests, and `floor` in about ten seconds whatever there was."""

    def __init__(self, share: float, floor: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._floor = floor
        self._clock = clock
        self._requests = 0.0
        self._spent = 0.0
        self._at = clock()

    def asked(self) -> None:
        """A request has come."""
        self._fade()
        self._requests += 1.0

    def spend(self) -> bool:
        """Whether one may be sent again; it is counted if so."""
        self._fade()
        if self._spent + 1.0 > self._share * self._requests + self._floor:
            return False
        self._spent += 1.0
        return True

    def _fade(self) -> None:
        now = self._clock()
        if now > self._at + SHORTEST:
            kept = math.exp((self._at - now) / MEMORY)
            self._requests *= kept
            self._spent *= kept
            self._at = now
