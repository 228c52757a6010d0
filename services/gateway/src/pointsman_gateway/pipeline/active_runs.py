"""Keeps a list of the requests in progress ("runs"), and ends each one that outlives its deadline, and all of them at
shutdown.

Engines, retrieval and queues enforce the deadline themselves, with more precise errors. This module is the last resort:
a run ends even if the code that it waits for never returns.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_gateway.engines.engine_client import out_of_time

GRACE_SECONDS = 0.6
"""Seconds from a request's deadline until `ActiveRuns` cancels it; longer than `UNREAD_SECONDS`, whose error comes
first.
"""
CHECK_SECONDS = 0.2
"""Seconds between two checks of all deadlines. One timer serves all requests, which costs 0.2 microseconds for each
request; a timer for each request would cost 2 to 4 microseconds.
"""


class Run(Protocol):
    def cancel(self, reason: PointsmanError | None = None) -> None:
        """Ends the handling of the request. The request's sender gets the error `reason`; None means that the client
        has disconnected.
        """
        ...


class ActiveRuns:
    """The requests in progress, with their deadlines. It cancels a request soon after its deadline, or at shutdown."""

    def __init__(self) -> None:
        self._limits: dict[Run, float] = {}
        """The deadline of each run, on the event loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        return len(self._limits)

    def add(self, run: Run, deadline: float) -> None:
        self._limits[run] = deadline
        if self._timer is None:
            self._start_timer()

    def remove(self, run: Run) -> None:
        self._limits.pop(run, None)

    @contextmanager
    def running(self, deadline: float) -> Iterator[None]:
        """A context manager that ends its block at a deadline and at shutdown, as the runs of requests are ended.

        About `GRACE_SECONDS` after `deadline` (seconds on the event loop's clock), the task that executes the block is
        cancelled, and the context manager raises DeadlineExceeded; at shutdown, it raises Unavailable
        ("shutting_down").
        """
        run = _TaskRun()
        self.add(run, deadline)
        try:
            yield
        except asyncio.CancelledError:
            if run.reason is None:
                raise
            run.task.uncancel()
            raise run.reason from None
        finally:
            self.remove(run)
            run.is_over = True

    def shut_down(self) -> None:
        """Ends all requests in progress with Unavailable ("shutting_down"), because the gateway stops."""
        for run in self._limits:
            _end(run, Unavailable("the gateway is shutting down", code="shutting_down", retry_after=1.0))

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_SECONDS, self._check)

    def _check(self) -> None:
        self._timer = None
        latest = asyncio.get_running_loop().time() - GRACE_SECONDS
        for run, deadline in self._limits.items():
            if deadline <= latest:
                _end(run, out_of_time())
        if self._limits:
            self._start_timer()


class _TaskRun:
    """The block of one `ActiveRuns.running`, as a run that can be cancelled: it cancels the task that executes the
    block.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task: asyncio.Task[Any] = task
        self.reason: PointsmanError | None = None
        self.is_over = False

    def cancel(self, reason: PointsmanError | None = None) -> None:
        if self.reason is None and not self.is_over:
            self.reason = reason
            self.task.cancel()


def _end(run: Run, error: PointsmanError) -> None:
    """Cancels a request with `error`, in a callback of the event loop: an exception in it does not stop the
    cancellation of other requests.
    """
    asyncio.get_running_loop().call_soon(run.cancel, error)
