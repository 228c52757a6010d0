"""Periodic background work: its interval, its errors and its end."""

import asyncio
import logging

import pytest
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.process import Schedule, run_periodically, running_periodically


class CountedWork:
    """Work that raises the given errors in turn, then succeeds."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.runs = 0
        self._more = asyncio.Event()

    async def __call__(self) -> None:
        self.runs += 1
        self._more.set()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error

    async def until(self, runs: int) -> None:
        async with asyncio.timeout(10):
            while self.runs < runs:
                self._more.clear()
                await self._more.wait()


async def test_work_runs_again_after_each_interval() -> None:
    work = CountedWork()
    async with running_periodically(work, Schedule(0.01), "count"):
        assert work.runs == 0
        await work.until(3)


async def test_the_first_run_may_start_at_once() -> None:
    work = CountedWork()
    async with running_periodically(work, Schedule(3600, run_at_start=True), "count"):
        await work.until(1)


async def test_a_set_event_starts_the_next_run_and_is_cleared() -> None:
    work, wake = CountedWork(), asyncio.Event()
    async with running_periodically(work, Schedule(3600, wake=wake), "count"):
        for runs in (1, 2):
            wake.set()
            await work.until(runs)
            assert not wake.is_set()


async def test_the_interval_elapses_also_with_an_event_that_nobody_sets() -> None:
    work = CountedWork()
    async with running_periodically(work, Schedule(0.01, wake=asyncio.Event()), "count"):
        await work.until(2)


async def test_an_unavailable_dependency_is_retried_without_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    work = CountedWork(Unavailable("Redis is down", code="redis_unavailable"))
    async with running_periodically(work, Schedule(0.01), "count"):
        await work.until(2)
    assert not caplog.records


async def test_an_unexpected_error_is_logged_with_the_name_and_does_not_end_the_loop(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pointsman_servicekit.process.MIN_DELAY_AFTER_ERROR", 0.01)
    work = CountedWork(ZeroDivisionError("odd"))
    async with running_periodically(work, Schedule(0.001), "count things"):
        await work.until(2)
    (record,) = caplog.records
    assert (record.levelno, record.message) == (logging.ERROR, "cannot count things")
    assert record.exc_info is not None


async def test_the_task_has_ended_when_the_block_ends() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with running_periodically(work, Schedule(0, run_at_start=True), "wait") as task:
        await started.wait()
    assert task.cancelled()
    assert ended.is_set()


async def test_a_cancellation_that_the_work_swallows_ends_the_loop() -> None:
    started = asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    task = asyncio.create_task(run_periodically(work, Schedule(0), "swallow"))
    await started.wait()
    task.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([task])
    assert task.cancelled()


def test_jitter_spreads_the_waits_around_the_interval() -> None:
    delays = [Schedule(10.0, jitter=0.1).delay() for _ in range(1000)]
    assert 9.0 <= min(delays) < 9.2
    assert 10.8 < max(delays) <= 11.0
    assert Schedule(10.0).delay() == 10.0
