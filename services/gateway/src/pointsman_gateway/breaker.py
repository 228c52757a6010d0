"""A breaker: whoever fails again and again is left alone for a while, then tried with a single request."""

import time
from collections.abc import Callable

from pointsman_gateway.config.schema import BreakerConfig


class Breaker:
    """Closed while all is well; open while at rest; then half open, with one trial at a time.

    It has no terms of its own: a changed configuration finds the state as it was. An entry is what `enter` gave; what
    comes of one that is older than the last change says nothing of now and is not heard.
    """

    __slots__ = ("_changes", "_clock", "_in_a_row", "_last_rest", "_recent", "_trying", "_until", "closed", "heard")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.closed = True
        self.heard = float("-inf")
        """When something last went well, on its clock."""
        self._clock = clock
        self._changes = 0
        self._in_a_row = 0
        self._recent = _Recent()
        self._until = 0.0
        self._last_rest = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        """Nobody may enter before its rest is over."""
        return not self.closed and self._clock() < self._until

    @property
    def rest_left(self) -> float:
        """Seconds; 0 where a trial may begin, or is under way."""
        return 0.0 if self.closed else max(0.0, self._until - self._clock())

    def may_enter(self) -> bool:
        return self.closed or (not self._trying and self._clock() >= self._until)

    def enter(self) -> int:
        """Only where one may. Each entry is followed by one of `succeeded`, `failed` and `undecided`."""
        if not self.closed:
            self._trying = True
        return self._changes

    def succeeded(self, entry: int, terms: BreakerConfig) -> bool:
        """Whether this closed it."""
        self.heard = now = self._clock()
        if entry != self._changes:
            return False
        if self.closed:
            self._in_a_row = 0
            self._recent.add(now, terms.window, failed=0)
            return False
        self._close()
        return True

    def failed(self, entry: int, terms: BreakerConfig) -> bool:
        """Whether this opened it."""
        if entry != self._changes or not terms.enabled:
            self.undecided(entry)
            return False
        if not self.closed:
            self._open(min(self._last_rest * 2, terms.longest_rest))
            return True
        self._in_a_row += 1
        total, failures = self._recent.add(self._clock(), terms.window, failed=1)
        if self._in_a_row >= terms.failures or (total >= terms.least and failures >= terms.rate * total):
            self._open(terms.rest)
            return True
        return False

    def undecided(self, entry: int) -> None:
        """It came to no end that says anything: the next one may try."""
        if entry == self._changes:
            self._trying = False

    def _open(self, rest: float) -> None:
        self._change(closed=False)
        self._last_rest = rest
        self._until = self._clock() + rest

    def _close(self) -> None:
        self._change(closed=True)
        self._recent = _Recent()

    def _change(self, *, closed: bool) -> None:
        self.closed = closed
        self._changes += 1
        self._in_a_row = 0
        self._trying = False


class _Recent:
    """Ends within a window, in two halves of which the older one goes as a whole."""

    __slots__ = ("_failures", "_failures_before", "_since", "_total", "_total_before")

    def __init__(self) -> None:
        self._since = 0.0
        self._total = self._failures = 0
        self._total_before = self._failures_before = 0

    def add(self, now: float, window: float, *, failed: int) -> tuple[int, int]:
        """All that are remembered, and the failures among them."""
        if now - self._since >= window / 2:
            old = now - self._since >= window
            self._total_before = 0 if old else self._total
            self._failures_before = 0 if old else self._failures
            self._total = self._failures = 0
            self._since = now
        self._total += 1
        self._failures += failed
        return self._total + self._total_before, self._failures + self._failures_before
