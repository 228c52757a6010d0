"""Who uses which model now: counted from the moment a request looks its model up until the last of its work is done."""

import time
from contextvars import ContextVar


class Tally:
    """Of one model."""

    __slots__ = ("in_flight", "requests", "used_at")

    def __init__(self) -> None:
        self.in_flight = 0
        self.requests = 0
        self.used_at = time.monotonic()

    def begin(self) -> None:
        self.in_flight += 1
        self.requests += 1
        self.used_at = time.monotonic()

    def end(self) -> None:
        self.in_flight -= 1
        self.used_at = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        return time.monotonic() - self.used_at


class Use:
    """One request's hold on what answers it.

    The request itself is one part of it, each of its generations another (n prompts, a beam's steps, or one that must
    still be aborted when the client has gone): whichever ends last lets go.
    """

    __slots__ = ("_parts", "_tallies")

    def __init__(self) -> None:
        self._parts = 1
        self._tallies: list[Tally] = []

    def take(self, tally: Tally) -> None:
        if tally not in self._tallies:
            self._tallies.append(tally)
            tally.begin()

    def enter(self) -> None:
        self._parts += 1

    def leave(self) -> None:
        self._parts -= 1
        if not self._parts:
            for tally in self._tallies:
                tally.end()


current: ContextVar[Use | None] = ContextVar("pointsman_engine_guard_use", default=None)
"""That of the request that is being answered; tasks begun for it see it, too."""
