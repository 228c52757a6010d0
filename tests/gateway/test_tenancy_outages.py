"""Which requests gateways admit while Redis is unavailable, and what happens when it is back."""

from contextlib import AsyncExitStack, suppress

import pytest
from pointsman_gateway.domain import Caller, Usage
from pointsman_servicekit.bounded_redis import CALL_TIMEOUT_SECONDS
from pointsman_servicekit.errors import ResourceExhausted, Unavailable
from pointsman_servicekit.keys.key_store import IssuedKey
from pointsman_servicekit.keys.records import Limits
from pointsman_servicekit.keys.redis_layout import Window

from tests.gateway.doubles.tenancy import Counter, Times, accounts_in, counter_at, issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found, until


@pytest.fixture
def times() -> Times:
    times = Times()
    times.begin_a_minute()
    return times


async def knowing_each_other(life: AsyncExitStack, url: str, times: Times, issued: IssuedKey) -> dict[Counter, Caller]:
    """Returns two gateways, each of which knows that there are two."""
    counters = [await life.enter_async_context(counter_at(url, times, deadline=CALL_TIMEOUT_SECONDS)) for _ in range(2)]
    for counter in counters:
        await until(lambda: counter.tenancy.tasks.leases.gateways == 2)  # noqa: B023  # awaited
    return {counter: await counter.caller(issued) for counter in counters}


def stop(valkey: Valkey, how: str) -> None:
    valkey.hang() if how == "hangs" else valkey.kill()


async def bring_back(valkey: Valkey, how: str) -> None:
    if how == "hangs":
        valkey.go_on()
    else:
        await valkey.start()


async def let_in(counter: Counter, caller: Caller, tries: int) -> int:
    return len([1 for _ in range(tries) if await counter.let_in(caller)])


@pytest.mark.parametrize("how", ["hangs", "dies"])
async def test_without_redis_all_gateways_together_stay_within_the_limit_of_a_new_minute(
    valkey: Valkey, times: Times, how: str
) -> None:
    issued = await issue(valkey.url, Limits(requests_per_minute=10))
    async with AsyncExitStack() as life:
        callers = await knowing_each_other(life, valkey.url, times, issued)
        stop(valkey, how)
        for _ in range(2):
            times.enter_the_next(Window.MINUTE)
            assert [await let_in(counter, caller, 8) for counter, caller in callers.items()] == [5, 5]
        with pytest.raises(ResourceExhausted, match="Redis, which distributes them, is unavailable") as refused:
            await counter_of(callers).tenancy.enter(next(iter(callers.values())), 1)
        assert (refused.value.retry_after or 0) <= 1.0
        await bring_back(valkey, how)


async def test_a_free_path_is_usable_with_a_spent_budget_without_redis(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(requests_per_minute=10, dollars_per_day=1.0))
    async with counter_at(valkey.url, times, deadline=CALL_TIMEOUT_SECONDS) as counter:
        caller = await counter.caller(issued)
        hold = await counter.tenancy.enter(caller, 1)
        await hold.afford(0.5)
        hold.settle(Usage(), 3.0, "ok")
        valkey.kill()
        times.enter_the_next(Window.MINUTE)
        hold = await counter.tenancy.enter(caller, 1)
        with pytest.raises(ResourceExhausted):
            await hold.afford(0.5)
        assert hold.afford_now(0.0)


async def test_the_minute_of_redis_death_is_exceeded_by_at_most_a_share_per_gateway(
    valkey: Valkey, times: Times
) -> None:
    issued = await issue(valkey.url, Limits(requests_per_minute=10))
    async with AsyncExitStack() as life:
        callers = await knowing_each_other(life, valkey.url, times, issued)
        one, other = callers
        assert await let_in(one, callers[one], 10) == 10
        valkey.kill()
        assert await let_in(one, callers[one], 10) == 0
        assert await let_in(other, callers[other], 10) == 5
        await valkey.start()

        async def both_are_counted() -> bool:
            times.pass_by(0.01)
            kept = await accounts_in(valkey.url, "acme", issued.record.id, "requests_per_minute")
            return kept["used"] == "15"

        await found(both_are_counted)


async def test_without_redis_only_leased_dollars_are_spent(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(dollars_per_day=100))

    async def spend(counter: Counter, caller: Caller) -> bool:
        hold = await counter.tenancy.enter(caller, 1)
        try:
            await hold.afford(0.05)
        except ResourceExhausted:
            return False
        hold.settle(Usage(), 0.05, "ok")
        return True

    async with counter_at(valkey.url, times, running=False) as counter:
        caller = await counter.caller(issued)
        spent = len([1 for _ in range(3) if await spend(counter, caller)])
        held = int((await accounts_in(valkey.url, "acme", issued.record.id, "dollars_per_day"))["held"])
        valkey.kill()
        while await spend(counter, caller):
            spent += 1
        assert spent == held // 50_000_000 > 3
        times.enter_the_next(Window.DAY)
        assert not await spend(counter, caller)


async def test_leased_dollars_stay_valid_over_midnight(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(dollars_per_day=100))
    async with counter_at(valkey.url, times, running=False) as counter:
        caller = await counter.caller(issued)
        for _ in range(2):
            hold = await counter.tenancy.enter(caller, 1)
            await hold.afford(0.05)
            hold.settle(Usage(), 0.05, "ok")
        valkey.kill()
        times.enter_the_next(Window.DAY)
        hold = await counter.tenancy.enter(caller, 1)
        await hold.afford(0.05)
        hold.settle(Usage(), 0.05, "ok")
        await valkey.start()

        async def is_counted() -> bool:
            times.pass_by(0.6)
            with suppress(Unavailable):
                await counter.tenancy.tasks.renew(times.clock.monotonic())
            return (await accounts_in(valkey.url, "acme", issued.record.id, "dollars_per_day"))["used"] == "50000000"

        await found(is_counted)


async def test_without_redis_a_gateway_without_a_lease_rejects(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(dollars_per_day=100))
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)
        valkey.kill()
        hold = await counter.tenancy.enter(caller, 1)
        with pytest.raises(ResourceExhausted) as refused:
            await hold.afford(0.01)
        assert refused.value.code == "dollars_per_day"
        await valkey.start()


async def test_requests_stay_fast_while_redis_hangs(valkey: Valkey, times: Times) -> None:
    """Of a thousand requests, only those that check whether Redis is back wait for it."""
    issued = await issue(valkey.url, Limits(requests_per_minute=10_000, tokens_per_minute=10**6))
    async with counter_at(valkey.url, times, deadline=CALL_TIMEOUT_SECONDS) as counter:
        caller = await counter.caller(issued)
        await counter.let_in(caller, 10)
        valkey.hang()
        times.enter_the_next(Window.MINUTE)
        assert await counter.let_in(caller, 10)
        without_asking = [counter.tenancy.enter_now(caller, 10) for _ in range(1000)]
        assert len([hold for hold in without_asking if hold]) > 900
        assert counter.metric("pointsman_ratelimit_local_fallback_total") > 0
        valkey.go_on()


def counter_of(callers: dict[Counter, Caller]) -> Counter:
    return next(iter(callers))
