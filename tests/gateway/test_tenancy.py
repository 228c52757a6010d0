"""Limits and budgets hold across all gateways while Redis is available."""

import asyncio
import logging
import time

import pytest
from pointsman_gateway.domain import ANONYMOUS, Caller, Usage
from pointsman_gateway.tenancy.leases import LEASE_SECONDS
from pointsman_gateway.tenancy.reservation import LeasedReservation, to_duration
from pointsman_gateway.tenancy.stage import OpenAccess
from pointsman_servicekit.bounded_redis import read_script
from pointsman_servicekit.errors import ResourceExhausted
from pointsman_servicekit.keys.records import Limits
from pointsman_servicekit.keys.redis_layout import WHOLE_TENANT, Window, window_at
from redis.asyncio import Redis

from tests.gateway.doubles.tenancy import Counter, Times, accounts_in, counter_at, issue, register_at
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found, until

NOTHING = Usage()


@pytest.fixture
def times() -> Times:
    times = Times()
    times.begin_a_minute()
    return times


async def refusal(counter: Counter, caller: Caller, tokens: int = 1) -> ResourceExhausted:
    with pytest.raises(ResourceExhausted) as refused:
        await counter.tenancy.enter(caller, tokens)
    return refused.value


async def entered(counter: Counter, caller: Caller, tokens: int = 1) -> LeasedReservation:
    """Enters a request; waits until other gateways have returned their unused leases, if necessary."""
    hold = await found(lambda: counter.let_in(caller, tokens))
    assert hold
    return hold


async def test_concurrent_calls_stay_within_the_tokens_per_minute(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(tokens_per_minute=100))
    async with counter_at(valkey.url, times) as one, counter_at(valkey.url, times) as other:
        callers = [await one.caller(issued), await other.caller(issued)]
        calls = [c.let_in(caller, 40) for c, caller in ((one, callers[0]), (other, callers[1])) for _ in range(5)]
        holds = [hold for hold in await asyncio.gather(*calls) if hold]
        assert 1 <= len(holds) <= 2
        for hold in holds:
            hold.settle(Usage(20, 20), 0, "ok")
        assert (await refusal(one, callers[0], 80)).code == "tokens_per_minute"


@pytest.mark.parametrize(
    ("limits", "code"),
    [(Limits(requests_per_minute=3), "requests_per_minute"), (Limits(concurrent_streams=3), "concurrent_streams")],
)
async def test_a_limit_is_one_for_all_gateways(valkey: Valkey, times: Times, limits: Limits, code: str) -> None:
    issued = await issue(valkey.url, limits)
    async with counter_at(valkey.url, times) as one, counter_at(valkey.url, times) as other:
        callers = {one: await one.caller(issued), other: await other.caller(issued)}
        for counter in (one, other, one):
            await entered(counter, callers[counter])
        for counter in (one, other):
            assert (await refusal(counter, callers[counter])).code == code
        assert one.metric("pointsman_ratelimit_rejected_total", limit=code) >= 1


async def test_keys_share_the_limits_of_their_tenant(valkey: Valkey, times: Times) -> None:
    first, second = [
        await issue(valkey.url, Limits(requests_per_minute=3), Limits(requests_per_minute=4)) for _ in range(2)
    ]
    async with counter_at(valkey.url, times) as counter:
        for issued, count in ((first, 3), (second, 1)):
            caller = await counter.caller(issued)
            for _ in range(count):
                await entered(counter, caller)
        own, shared = [await refusal(counter, await counter.caller(one)) for one in (first, second)]
        assert "this key may have 3 requests a minute" in own.message
        assert "this tenant may have 4 requests a minute" in shared.message


async def test_reservations_are_settled_with_the_actual_usage(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(tokens_per_minute=100))
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)
        hold = await counter.tenancy.enter(caller, 100)
        hold.settle(Usage(5, 5), 0, "ok")
        hold.settle(NOTHING, 0, "ok")
        hold = await entered(counter, caller, 90)
        hold.settle(Usage(50, 100), 0, "ok")
        await refusal(counter, caller, 1)
        assert counter.tenancy.headers(caller)["x-ratelimit-remaining-tokens"] == "0"
        times.enter_the_next(Window.MINUTE)
        await entered(counter, caller, 100)


async def test_returned_quota_is_not_reused_while_the_limit_is_exceeded(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(tokens_per_minute=100))
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)
        longer, shorter, other = [await entered(counter, caller, tokens) for tokens in (20, 40, 40)]
        longer.settle(Usage(10, 70), 0, "ok")  # 60 beyond
        await refusal(counter, caller, 1)  # Redis knows
        shorter.settle(Usage(5, 5), 0, "ok")  # 30 beyond
        await refusal(counter, caller, 1)
        other.settle(Usage(2, 3), 0, "ok")  # 95 of 100
        await refusal(counter, caller, 6)
        await entered(counter, caller, 5)


async def test_an_answer_that_ends_in_a_later_minute_returns_no_quota_to_it(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(tokens_per_minute=100))
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)
        hold = await counter.tenancy.enter(caller, 100)
        times.enter_the_next(Window.MINUTE)
        next_hold = await entered(counter, caller, 100)
        hold.settle(NOTHING, 0, "cancelled")
        await refusal(counter, caller, 1)
        next_hold.settle(NOTHING, 0, "cancelled")
        await entered(counter, caller, 100)


async def test_an_excess_is_carried_over_to_the_next_minute(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(tokens_per_minute=100))
    async with counter_at(valkey.url, times, running=False) as counter:
        caller = await counter.caller(issued)
        hold = await counter.tenancy.enter(caller, 10)
        times.enter_the_next(Window.MINUTE)
        hold.settle(Usage(0, 70), 0, "ok")
        await refusal(counter, caller, 41)
        await entered(counter, caller, 40)


async def test_dollars_are_reserved_per_attempt_and_settled_together(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(dollars_per_day=1.0, dollars_per_month=1.5))
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)
        hold = await counter.tenancy.enter(caller, 1)
        await hold.afford(0.4)
        await hold.afford(0.4)
        with pytest.raises(ResourceExhausted) as refused:
            await hold.afford(0.4)
        assert refused.value.code == "dollars_per_day"
        assert "may have 1 dollars a day; try again at 00:00 UTC" in refused.value.message
        hold.settle(NOTHING, 0.9, "ok")
        times.enter_the_next(Window.DAY)
        hold = await counter.tenancy.enter(caller, 1)
        await hold.afford(0.6)
        with pytest.raises(ResourceExhausted) as refused:
            await hold.afford(0.1)
        assert refused.value.code == "dollars_per_month"
        hold.settle(NOTHING, 0.6, "ok")
        times.enter_the_next(Window.MONTH)
        await (await counter.tenancy.enter(caller, 1)).afford(1.0)


async def test_a_free_path_is_usable_with_a_spent_budget(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(dollars_per_day=1.0))
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)
        hold = await counter.tenancy.enter(caller, 1)
        await hold.afford(0.5)
        hold.settle(NOTHING, 3.0, "ok")
        hold = await counter.tenancy.enter(caller, 1)
        with pytest.raises(ResourceExhausted):
            await hold.afford(1e-9)
        assert hold.afford_now(0.0)


async def test_a_lease_covers_many_requests_without_calls_to_redis(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(requests_per_minute=100_000, tokens_per_minute=10**7, dollars_per_day=1000))
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)
        for _ in range(2_000):
            hold = counter.tenancy.enter_now(caller, 20) or await counter.tenancy.enter(caller, 20)
            if not hold.afford_now(1e-6):
                await hold.afford(1e-6)
            hold.settle(Usage(10, 5), 5e-7, "ok")
        assert counter.metric("pointsman_quota_lease_renewals_total", outcome="done") < 200


async def test_concurrent_requests_wait_for_one_lease_exchange(valkey: Valkey, times: Times) -> None:
    limits = Limits(requests_per_minute=1600, concurrent_streams=1600, dollars_per_day=16.0)
    issued = await issue(valkey.url, limits)
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)
        before = counter.metric("pointsman_quota_lease_renewals_total", outcome="done")

        async def enter() -> LeasedReservation:
            hold = await counter.tenancy.enter(caller, 1)
            await hold.afford(0.01)
            return hold

        holds = await asyncio.gather(*(enter() for _ in range(64)))
        asked = counter.metric("pointsman_quota_lease_renewals_total", outcome="done") - before
        for hold in holds:
            hold.settle(NOTHING, 0, "ok")
        assert asked <= 2  # one, and perhaps one of a background task


async def test_a_busy_gateway_leaves_quota_to_others(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(requests_per_minute=1000))
    async with counter_at(valkey.url, times) as busy, counter_at(valkey.url, times) as other:
        caller = await busy.caller(issued)
        await asyncio.gather(*(busy.let_in(caller) for _ in range(400)))
        theirs = await other.caller(issued)
        assert all(await asyncio.gather(*(other.let_in(theirs) for _ in range(50))))


async def test_an_unused_lease_is_returned(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(tokens_per_minute=1000))

    async def all_is_back() -> bool:
        times.pass_by(0.01)
        found = await accounts_in(valkey.url, "acme", issued.record.id, "tokens_per_minute")
        return (found["held"], found["used"]) == ("3", "3")

    async with counter_at(valkey.url, times) as counter:
        hold = await counter.tenancy.enter(await counter.caller(issued), 400)
        hold.settle(Usage(1, 2), 0, "ok")
        await found(all_is_back)


async def test_a_stopping_gateway_returns_its_leases(valkey: Valkey, times: Times) -> None:
    limits = Limits(requests_per_minute=1000, concurrent_streams=50, dollars_per_month=5)
    issued = await issue(valkey.url, limits)
    async with counter_at(valkey.url, times) as counter:
        for _ in range(5):
            hold = await entered(counter, await counter.caller(issued))
            await hold.afford(0.001)
            hold.settle(NOTHING, 0.0005, "ok")
    for limit, used in (("requests_per_minute", 5), ("concurrent_streams", 0), ("dollars_per_month", 2_500_000)):
        found = await accounts_in(valkey.url, "acme", issued.record.id, limit)
        assert (found["held"], found["used"]) == (str(used), str(used)), limit


async def test_a_dead_gateways_streams_are_released_when_its_lease_expires(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(concurrent_streams=2))
    async with counter_at(valkey.url, times, running=False) as dead, counter_at(valkey.url, times) as alive:
        assert await dead.let_in(await dead.caller(issued))
        caller = await alive.caller(issued)
        await entered(alive, caller)
        assert (await refusal(alive, caller)).retry_after == 1.0
        times.pass_by(LEASE_SECONDS + 1)
        await entered(alive, caller)


async def test_streams_in_flight_keep_their_lease(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(concurrent_streams=1))
    async with counter_at(valkey.url, times) as one, counter_at(valkey.url, times) as other:
        hold = await one.tenancy.enter(await one.caller(issued), 1)
        caller = await other.caller(issued)
        for _ in range(4):
            before = one.metric("pointsman_quota_lease_renewals_total", outcome="done")
            times.pass_by(LEASE_SECONDS / 2.5)
            await until(lambda: one.metric("pointsman_quota_lease_renewals_total", outcome="done") > before)  # noqa: B023  # awaited
            await refusal(other, caller)
        hold.settle(NOTHING, 0, "ok")
        await entered(other, caller)


async def test_late_lease_messages_have_no_effect_and_held_leases_are_never_taken(valkey: Valkey) -> None:
    """A lease message that a gateway no longer waits for may arrive after later ones, and its answer may be lost."""
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        exchange = redis.register_script(read_script("pointsman_gateway.tenancy", "exchange_leases"))
        today = window_at(Window.DAY, int(time.time() * 1000))[0]

        async def say(number: int, used: int, wish: int, gateway: str = "g.1") -> list[int]:
            arguments: list[str | int] = ["day", gateway, 100, number, today, used, 0, wish, wish]
            return [int(n) for n in (await exchange(keys=["{a}"], args=[0, 1, 10_000, *arguments]))[3:]]

        assert await say(1, 0, 40) == [40, 60, 100]
        assert await say(3, 30, 50) == [80, 20, 70]
        for late in (2, 3, 1):
            assert await say(late, 0, 5) == [80, 20, 70]
        assert await say(1, 90, 0, gateway="h.1") == [90, -70, -20]
        assert await say(4, 30, 20) == [50, -40, -20]
        assert await say(5, 30, 0) == [30, -20, -20]


async def test_new_limits_apply_without_a_restart(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(requests_per_minute=1000))
    async with counter_at(valkey.url, times) as counter, register_at(valkey.url) as register:
        await entered(counter, await counter.caller(issued))
        await register.limit_key(issued.record.id, lambda _: Limits(requests_per_minute=1))

        async def is_refused() -> bool:
            return not await counter.let_in(await counter.caller(issued))

        await found(is_refused)
        await register.limit_tenant("acme", lambda _: Limits(tokens_per_minute=5))
        await register.limit_key(issued.record.id, lambda _: Limits())

        async def has_too_few_tokens() -> bool:
            try:
                await counter.tenancy.enter(await counter.caller(issued), 6)
            except ResourceExhausted as error:
                return error.code == "tokens_per_minute"
            return False

        await found(has_too_few_tokens)


async def test_a_request_larger_than_its_limit_is_rejected_at_once(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(tokens_per_minute=100))
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)
        with pytest.raises(
            ResourceExhausted, match="100 tokens a minute, and this request alone may need 101"
        ) as raised:
            counter.tenancy.enter_now(caller, 101)
        assert raised.value.retry_after is None


async def test_a_rejection_has_a_retry_time(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(requests_per_minute=1))
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)
        await entered(counter, caller)
        left = 60 - times.wall() % 60
        refused = await refusal(counter, caller)
        assert refused.retry_after == pytest.approx(left, abs=10)
        times.pass_by((refused.retry_after or 0) + 0.05)
        await entered(counter, caller)


async def test_headers_report_the_tighter_limit(valkey: Valkey, times: Times) -> None:
    issued = await issue(
        valkey.url, Limits(requests_per_minute=10, tokens_per_minute=1000), Limits(tokens_per_minute=500)
    )
    async with counter_at(valkey.url, times) as counter:
        hold = await entered(counter, await counter.caller(issued), 200)
        headers = dict(hold.headers)
        resets = [headers.pop(f"x-ratelimit-reset-{what}") for what in ("requests", "tokens")]
        assert headers == {
            "x-ratelimit-limit-requests": "10", "x-ratelimit-remaining-requests": "9",
            "x-ratelimit-limit-tokens": "500", "x-ratelimit-remaining-tokens": "300",
        }  # fmt: skip
        assert all(reset.endswith("s") for reset in resets)


def test_times_until_a_reset_are_rounded_up() -> None:
    """A client that waits as long as it is told does not come too early."""
    seconds = 0.25, 0.2501, 0.9996, 12, 12.4, 59.1, 60, 360
    assert [to_duration(each) for each in seconds] == ["250ms", "251ms", "1s", "12s", "13s", "1m0s", "1m0s", "6m0s"]


async def test_dollars_in_messages_have_no_exponent(valkey: Valkey, times: Times) -> None:
    issued = await issue(valkey.url, Limits(dollars_per_day=0.00002))
    async with counter_at(valkey.url, times) as counter:
        caller = await counter.caller(issued)
        hold = await entered(counter, caller)
        expected = "0.00002 dollars a day, and this request alone may need 0.0012"
        with pytest.raises(ResourceExhausted, match=expected):
            await hold.afford(0.0012)


async def test_a_key_without_limits_needs_no_lease_and_has_no_headers(valkey: Valkey) -> None:
    issued = await issue(valkey.url)
    async with counter_at(valkey.url) as counter:
        hold = counter.tenancy.enter_now(await counter.caller(issued), 10**9)
        assert hold is not None
        assert hold.afford_now(1000.0)
        assert dict(hold.headers) == {}


async def test_without_authentication_every_caller_is_admitted_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tenancy = OpenAccess()
    with caplog.at_level(logging.INFO):
        async with tenancy.running():
            caller = tenancy.identify_now("")
            assert caller is ANONYMOUS
            hold = tenancy.enter_now(caller, 10**9)
            assert hold is not None
            assert hold.afford_now(1e9)
            hold.settle(NOTHING, 1.0, "ok")
            assert dict(hold.headers) == dict(tenancy.headers(caller)) == {}
    assert "keys are off" in caplog.text


@pytest.mark.parametrize(
    "unix_ms",
    [0, 951_782_399_999, 951_782_400_000, 1_709_164_800_000, 1_735_689_599_999, 1_735_689_600_000, 4_107_542_400_000],
)
async def test_redis_and_the_gateway_agree_on_windows(valkey: Valkey, unix_ms: int) -> None:
    """The times include leap days, ends of years, and 2100, which has no leap day."""
    times = Times()
    times.pass_by(unix_ms / 1000 - times.wall())
    issued = await issue(valkey.url, Limits(requests_per_minute=9, dollars_per_day=9, dollars_per_month=9))
    async with counter_at(valkey.url, times, running=False) as counter:
        hold = await counter.tenancy.enter(await counter.caller(issued), 1)
        await hold.afford(1)
        now = int(times.wall() * 1000)
        for limit, window in (
            ("requests_per_minute", Window.MINUTE),
            ("dollars_per_day", Window.DAY),
            ("dollars_per_month", Window.MONTH),
        ):
            found = await accounts_in(valkey.url, "acme", issued.record.id, limit)
            assert found["window"] in {str(window_at(window, now - 2000)[0]), str(window_at(window, now)[0])}
    assert WHOLE_TENANT not in issued.record.id
