"""Usage is counted exactly, even if Redis fails at any time."""

import asyncio
import random
from contextlib import suppress

import pytest
from pointsman_gateway.domain import Usage
from pointsman_servicekit.bounded_redis import open_redis, read_script
from pointsman_servicekit.errors import ResourceExhausted, Unavailable
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.records import Limits, nanodollars, picodollars
from pointsman_servicekit.keys.redis_layout import UsageStore, Window, sum_counts
from redis.asyncio import Redis

from tests.gateway.doubles.tenancy import Counter, Times, accounts_in, counter_at, issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found, until


async def written(counter: Counter) -> None:
    """Waits until all usage is written to Redis, even if Redis is unavailable at first."""

    async def nothing_waits() -> bool:
        with suppress(Unavailable):
            await counter.tenancy.usage.write()
        return not counter.tenancy.usage.waiting

    await found(nothing_waits)


async def used(url: str, day: str) -> dict[str, int]:
    """Returns the usage of the day, summed over all keys."""
    async with open_redis(url, lambda up: None) as redis:
        return dict(sum_counts((await UsageStore(redis).day(day)).values()))


async def test_a_mixed_load_with_cancels_failures_and_an_outage_is_counted_exactly(valkey: Valkey) -> None:
    times = Times()
    times.begin_a_minute()
    chance = random.Random(7)
    issued = [await issue(valkey.url, Limits(tokens_per_minute=10**6, dollars_per_day=100)) for _ in range(3)]
    expected: dict[str, int] = dict.fromkeys(redis_layout.COUNTERS, 0)

    async def ask(counter: Counter, number: int) -> None:
        caller = await counter.caller(issued[number % 3])
        outcome = chance.choice(["ok", "ok", "ok", "cancelled", "engine_error"])
        usage = Usage(chance.randrange(500), chance.randrange(200), chance.randrange(50))
        usd = usage.prompt_tokens * 0.0125 / 1e6 + usage.completion_tokens * 0.6 / 1e6
        try:
            hold = await counter.tenancy.enter(caller, 700)
            await asyncio.sleep(0)
        except ResourceExhausted:
            return
        hold.settle(usage, usd, outcome)
        expected["requests"] += 1
        expected["cancelled"] += outcome == "cancelled"
        expected["failed"] += outcome == "engine_error"
        expected["prompt_tokens"] += usage.prompt_tokens
        expected["cached_tokens"] += usage.cached_tokens
        expected["completion_tokens"] += usage.completion_tokens
        expected["picodollars"] += usage.prompt_tokens * 12_500 + usage.completion_tokens * 600_000

    async with counter_at(valkey.url, times) as one, counter_at(valkey.url, times) as other:
        for part in range(4):
            if part == 2:
                valkey.hang()
            await asyncio.gather(*(ask(one if n % 2 else other, n) for n in range(500)))
            if part == 2:
                valkey.go_on()
            await asyncio.sleep(0)
        for counter in (one, other):
            await written(counter)
        assert expected["requests"] > 1500
        assert await used(valkey.url, redis_layout.day_of(times.wall())) == expected


async def test_a_batch_that_is_written_twice_counts_once(valkey: Valkey) -> None:
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        write = redis.register_script(read_script("pointsman_gateway.tenancy", "count_usage"))
        names = [redis_layout.USAGE_WRITER + "g", redis_layout.USAGE + "20260101"]
        for number in (1, 1, 2, 1):
            await write(keys=names, args=[number, 1000, 1, "acme:key-1:requests", 5])
    assert await used(valkey.url, "20260101") == {"requests": 10}


async def test_usage_belongs_to_the_day_on_which_the_request_ended(valkey: Valkey) -> None:
    times = Times()
    issued = await issue(valkey.url)
    async with counter_at(valkey.url, times, running=False) as counter:
        caller = await counter.caller(issued)
        hold, late = [await counter.tenancy.enter(caller, 1) for _ in range(2)]
        (await counter.tenancy.enter(caller, 1)).settle(Usage(1, 1), 0, "ok")
        first = redis_layout.day_of(times.wall())
        times.enter_the_next(Window.DAY)
        hold.settle(Usage(2, 2), 0, "ok")
        second = redis_layout.day_of(times.wall())
        times.pass_by(-redis_layout.A_DAY)  # the clock was ahead, and is corrected
        late.settle(Usage(4, 4), 0, "ok")
        await written(counter)
    assert (await used(valkey.url, first))["prompt_tokens"] == 1 + 4
    assert (await used(valkey.url, second))["prompt_tokens"] == 2


async def test_pending_usage_is_written_at_shutdown(valkey: Valkey) -> None:
    issued = await issue(valkey.url)
    async with counter_at(valkey.url) as counter:
        hold = await counter.tenancy.enter(await counter.caller(issued), 1)
        hold.settle(Usage(3, 4), 2e-6, "ok")
    assert await used(valkey.url, redis_layout.day_of(Times().wall())) == {
        "requests": 1, "prompt_tokens": 3, "completion_tokens": 4, "picodollars": 2_000_000
    }  # fmt: skip


async def test_the_usage_flush_lag_is_exported(valkey: Valkey) -> None:
    issued, name = await issue(valkey.url), "pointsman_usage_flush_lag_seconds"
    async with counter_at(valkey.url) as counter:
        hold = await counter.tenancy.enter(await counter.caller(issued), 1)
        valkey.hang()
        hold.settle(Usage(3, 4), 2e-6, "ok")
        await until(lambda: counter.metric(name) > 2.0)
        valkey.go_on()
        await until(lambda: counter.metric(name) < 2.0, within=20)
    assert counter.tenancy.usage.waiting == 0


async def test_usage_lost_at_shutdown_is_logged(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    issued = await issue(valkey.url)
    async with counter_at(valkey.url) as counter:
        hold = await counter.tenancy.enter(await counter.caller(issued), 1)
        valkey.kill()
        hold.settle(Usage(3, 4), 2e-6, "ok")
    assert "the usage of 1 requests is lost" in caplog.text


def test_dollars_are_whole_numbers() -> None:
    assert picodollars(0.0125 / 1e6) == 12_500
    assert [nanodollars(usd) for usd in (0.0, 1e-12, 1e-9, 1.5e-9, 12.34)] == [0, 1, 1, 2, 12_340_000_000]


async def test_a_budget_that_is_nearly_spent_is_reported_until_its_window_ends(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    times = Times()
    times.begin_a_minute()
    issued = await issue(valkey.url, Limits(dollars_per_day=1), tenant_limits=Limits(dollars_per_month=100))
    budget = {"limit": "dollars_per_day", "owner": "key"}
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)

        async def spend(usd: float, total: float) -> None:
            reservation = await counter.tenancy.enter(caller, 1)
            await reservation.afford(usd)
            reservation.settle(Usage(1, 1), usd, "ok")

            async def is_reported() -> bool:
                await counter.tenancy.tasks.renew(times.clock.monotonic() + 60)
                stored = await accounts_in(valkey.url, "acme", issued.record.id, "dollars_per_day")
                return int(stored["used"]) == nanodollars(total)

            await found(is_reported)

        await spend(0.79, 0.79)
        assert "x-pointsman-budget-warning" not in counter.tenancy.headers(caller)
        assert counter.metric("pointsman_budgets_nearly_spent", **budget) == 0
        await spend(0.04, 0.83)
        await until(lambda: counter.metric("pointsman_budgets_nearly_spent", **budget) == 1)
        assert counter.tenancy.headers(caller)["x-pointsman-budget-warning"] == "key has used 83% of dollars_per_day"
        assert counter.metric("pointsman_budget_warnings_total", **budget) == 1
        assert caplog.text.count("a budget is nearly spent: 83 % of dollars_per_day") == 1
        assert counter.metric("pointsman_budgets_nearly_spent", limit="dollars_per_month", owner="tenant") == 0
        times.enter_the_next(Window.DAY)
        assert "x-pointsman-budget-warning" not in counter.tenancy.headers(caller)
        assert counter.metric("pointsman_budgets_nearly_spent", **budget) == 0
