"""Leases of one limit: how much a gateway asks for, and the lock under which it exchanges messages about them."""

import asyncio

import pytest
from pointsman_gateway.tenancy.leases import ExchangeLock, LeasedLimit

MAXIMUM = 1000
TURNS = 3
"""Turns of the event loop until a waiting task has been woken and continues."""


def _concurrency_limit() -> LeasedLimit:
    return LeasedLimit("acme:concurrent_streams", "concurrent_streams", MAXIMUM, "this gateway")


def _exchange(limit: LeasedLimit, now: float) -> int:
    """Simulates a Redis that grants everything that is asked for. Returns how much may be used afterwards."""
    report = limit.report(0, 0, 1, now)
    _, used, carried, wish, _ = report
    held = used + carried + wish
    limit.install([0, 0, held, MAXIMUM - held, MAXIMUM - used], report, now, now)
    return limit.free


def _set_in_flight(limit: LeasedLimit, streams: int) -> None:
    limit.free = limit.held - streams


def test_the_lease_covers_as_many_streams_as_there_were_a_moment_ago() -> None:
    limit = _concurrency_limit()
    _set_in_flight(limit, 64)
    assert _exchange(limit, 0.0) == 34  # half as many again, and two
    _set_in_flight(limit, 5)  # a batch of answers has just ended: as many new requests follow
    assert _exchange(limit, 0.01) >= 64 - 5


@pytest.mark.parametrize(("streams", "seconds"), [(1, 2.0), (64, 8.0)])
def test_the_lease_is_returned_if_no_requests_arrive(streams: int, seconds: float) -> None:
    limit = _concurrency_limit()
    _set_in_flight(limit, streams)
    _exchange(limit, 0.0)
    _set_in_flight(limit, 0)
    assert limit.is_due(seconds)
    assert _exchange(limit, seconds) == 0
    assert limit.is_settled


def test_a_waiting_request_leases_more_than_it_needs_itself() -> None:
    limit = _concurrency_limit()
    report = limit.report(1, 1, 1, 0.0)
    assert report[3] == MAXIMUM // 16
    limit.install([0, 0, MAXIMUM // 16, MAXIMUM - MAXIMUM // 16, MAXIMUM], report, 0.0, 0.0)
    limit.left = 4  # other gateways have taken almost everything
    assert limit.report(1, 1, 1, 0.1)[3] == (4 + MAXIMUM // 16) // 2
    assert _exchange(limit, 8.0) == 0  # no request arrived


def test_less_is_asked_for_if_little_is_left() -> None:
    limit = _concurrency_limit()
    limit.left = 10
    assert limit.report(1, 1, 1, 0.0)[3] == 5
    assert limit.report(1, 1, 5, 0.0)[3] == 1


async def test_all_waiters_continue_at_once_after_an_exchange() -> None:
    lock, continued = ExchangeLock(), 0

    async def wait() -> None:
        nonlocal continued
        await lock.wait()
        continued += 1

    async with asyncio.TaskGroup() as waiting:
        async with lock:
            for _ in range(100):
                waiting.create_task(wait())
            await asyncio.sleep(0)
            assert continued == 0
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert continued == 100


async def test_one_exchange_runs_at_a_time() -> None:
    lock, running, maximum = ExchangeLock(), 0, 0

    async def exchange() -> None:
        nonlocal running, maximum
        async with lock:
            running += 1
            maximum = max(maximum, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(exchange() for _ in range(20)))
    assert maximum == 1
    assert not lock.is_locked


async def test_a_failed_or_cancelled_exchange_releases_the_lock() -> None:
    lock = ExchangeLock()

    async def fail() -> None:
        async with lock:
            await asyncio.sleep(0)
            raise ConnectionError

    async def exchange_forever() -> None:
        async with lock:
            await asyncio.get_running_loop().create_future()

    cancelled = asyncio.create_task(exchange_forever())
    await asyncio.sleep(0)
    failing = asyncio.create_task(fail())
    cancelled.cancel()
    results = await asyncio.gather(cancelled, failing, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, ConnectionError]
    assert not lock.is_locked
