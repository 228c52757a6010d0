"""A time limit for Redis measures Redis only, even if the event loop is busy with other work."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from pointsman_servicekit.bounded_redis import CALL_TIMEOUT_SECONDS, MAX_ATTEMPTS, MAX_LATE_LOOK_SECONDS, BoundedRedis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.redis_clients import RedisClient

IN_TIME = 0.8 * CALL_TIMEOUT_SECONDS
TURNS = 3
"""Turns of the event loop between the arrival of a reply and its delivery to the caller: redis-py reads, parses, and
wakes tasks."""


@pytest.fixture
async def busy() -> AsyncIterator[None]:
    """Blocks the event loop for 5 ms in each of its iterations, as the work of many concurrent requests does."""

    async def work() -> None:
        while True:
            time.sleep(0.005)  # noqa: ASYNC251  # that is what is meant
            await asyncio.sleep(0)

    working = asyncio.create_task(work())
    yield
    working.cancel()


def calls(changes: list[bool]) -> BoundedRedis:
    """Returns a client whose calls are scripted, without Redis."""
    return BoundedRedis(RedisClient(None), changes.append)


async def answered_in_time() -> str:
    await asyncio.sleep(IN_TIME)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    return "PONG"


async def never() -> None:
    await asyncio.Event().wait()


async def test_a_reply_in_time_is_accepted_by_a_late_loop(busy: None) -> None:
    changes: list[bool] = []
    redis = calls(changes)
    for _ in range(5):
        assert await redis.call(answered_in_time) == "PONG"
    assert changes == []


async def test_a_busy_loop_waits_slightly_longer_for_a_missing_reply(busy: None) -> None:
    changes: list[bool] = []
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="nothing within 50 ms"):
        await calls(changes).call(never)
    assert time.monotonic() - begun < MAX_ATTEMPTS * CALL_TIMEOUT_SECONDS + MAX_LATE_LOOK_SECONDS + 1.0
    assert changes == [False]


async def test_an_idle_loop_waits_exactly_until_the_deadline() -> None:
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        await calls([]).call(never)
    assert 3 * CALL_TIMEOUT_SECONDS <= time.monotonic() - begun < 1.0
