"""A circuit breaker: after repeated failures it blocks requests for a while, then lets one through as a test."""

import time
from collections.abc import Callable

from pointsman_gateway.config.engine_config import BreakerConfig


class Breaker:
    """A circuit breaker for one endpoint: it blocks requests for a while (the cooldown) after repeated failures.

    It is in one of three states. Closed: requests pass. Open: none pass until the cooldown ends. Half open, after the
    cooldown: one request at a time passes as a probe; its success closes the breaker, its failure opens it again.

    Callers ask `may_enter`, call `enter` before their request, and report its outcome to `succeeded`, `failed` or
    `undecided` with the number that `enter` returned. If the breaker has opened or closed since `enter`, the outcome
    does not change its state. The settings are arguments, so that the state outlives a change of the configuration.
    """

    __slots__ = (
        "_changes",
        "_clock",
        "_consecutive_failures",
        "_is_probing",
        "_open_seconds",
        "_recent",
        "_until",
        "closed",
        "last_success",
    )

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the `clock`, a function that returns seconds. The cooldown and the sliding window of outcomes are
        measured with it.
        """
        self.closed = True
        self.last_success = float("-inf")
        """Time of the last success in seconds, by `clock`."""
        self._clock = clock
        self._changes = 0
        self._consecutive_failures = 0
        self._recent = _Recent()
        self._until = 0.0
        self._open_seconds = 0.0
        self._is_probing = False

    @property
    def open(self) -> bool:
        """Returns whether the breaker blocks all requests because its cooldown has not ended."""
        return not self.closed and self._clock() < self._until

    @property
    def cooldown_left(self) -> float:
        """Returns the seconds until the cooldown ends; 0 if it has ended, or if the breaker is closed."""
        return 0.0 if self.closed else max(0.0, self._until - self._clock())

    def may_enter(self) -> bool:
        return self.closed or (not self._is_probing and self._clock() >= self._until)

    def enter(self) -> int:
        """Records that a request begins. Call it only if `may_enter` is True. Unless the breaker is closed, the request
        is its probe.

        Returns a number to pass to `succeeded`, `failed` or `undecided` as `entry`.
        """
        if not self.closed:
            self._is_probing = True
        return self._changes

    def succeeded(self, entry: int, config: BreakerConfig) -> bool:
        """Records that a request succeeded; returns whether that closed the breaker.

        `entry` is what `enter` returned for the request. If the breaker has opened or closed since then, only
        `last_success` is set.
        """
        self.last_success = now = self._clock()
        if entry != self._changes:
            return False
        if self.closed:
            self._consecutive_failures = 0
            self._recent.add(now, config.window_seconds, failed=0)
            return False
        self._close()
        return True

    def failed(self, entry: int, config: BreakerConfig) -> bool:
        """Records that a request failed; returns whether that opened the breaker.

        A closed breaker opens after `consecutive_failures` in a row, or if the fraction `failure_rate` of at least
        `min_requests` in the sliding window failed. A failed probe opens the breaker again, for twice the last
        cooldown, at most `max_open_duration_seconds`. `entry` is what `enter` returned for the request; the failure is
        ignored if the breaker has opened or closed since then, or if `config` disables it.
        """
        if entry != self._changes or not config.enabled:
            self.undecided(entry)
            return False
        if not self.closed:
            self._open(min(self._open_seconds * 2, config.max_open_duration_seconds))
            return True
        self._consecutive_failures += 1
        total, failures = self._recent.add(self._clock(), config.window_seconds, failed=1)
        if self._consecutive_failures >= config.consecutive_failures or (
            total >= config.min_requests and failures >= config.failure_rate * total
        ):
            self._open(config.open_duration_seconds)
            return True
        return False

    def undecided(self, entry: int) -> None:
        """Records that a request ended without success or failure, for example because it was cancelled.

        If the request was the probe, the breaker lets another request pass as the probe. `entry` is what `enter`
        returned for the request.
        """
        if entry == self._changes:
            self._is_probing = False

    def _open(self, seconds: float) -> None:
        self._change(closed=False)
        self._open_seconds = seconds
        self._until = self._clock() + seconds

    def _close(self) -> None:
        self._change(closed=True)
        self._recent = _Recent()

    def _change(self, *, closed: bool) -> None:
        self.closed = closed
        self._changes += 1
        self._consecutive_failures = 0
        self._is_probing = False


class _Recent:
    """Counts requests and failures in a sliding window of time. The window has two halves; the counts of the older half
    expire together.
    """

    __slots__ = ("_failures", "_failures_before", "_since", "_total", "_total_before")

    def __init__(self) -> None:
        self._since = 0.0
        self._total = self._failures = 0
        self._total_before = self._failures_before = 0

    def add(self, now: float, window: float, *, failed: int) -> tuple[int, int]:
        """Counts a request that has ended, and returns (requests, failures) in the sliding window, with this one
        included.

        `failed` is 1 or 0. `now` is the time of the end on a monotonic clock, and `window` the window's length, in
        seconds.
        """
        if now - self._since >= window / 2:
            old = now - self._since >= window
            self._total_before = 0 if old else self._total
            self._failures_before = 0 if old else self._failures
            self._total = self._failures = 0
            self._since = now
        self._total += 1
        self._failures += failed
        return self._total + self._total_before, self._failures + self._failures_before
