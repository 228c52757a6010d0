"""Authentication: keys are looked up by their digest and cached for a time; revocations are received."""

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from pointsman_gateway.domain import Scope
from pointsman_gateway.tenancy.keys import KeyCacheConfig
from pointsman_gateway.tenancy.tasks import POLL_INTERVAL_SECONDS, POLL_TIMEOUT_SECONDS
from pointsman_servicekit.bounded_redis import CALL_TIMEOUT_SECONDS, MAX_ATTEMPTS, MAX_LATE_LOOK_SECONDS
from pointsman_servicekit.errors import Unauthenticated, Unavailable
from pointsman_servicekit.keys import records, redis_layout
from pointsman_servicekit.keys.key_store import IssuedKey
from pointsman_servicekit.keys.records import KeyScope, Limits, TenantRecord
from redis.asyncio import Redis

from tests.gateway.doubles.tenancy import Counter, Times, counter_at, issue, register_at
from tests.gateway.doubles.valkey import SlowLink, Valkey
from tests.gateway.doubles.waiting import found, until

WELL_FORMED = "pm_" + "A" * 8 + "_" + "b" * 32


async def refused(counter: Counter, text: str) -> str:
    with pytest.raises(Unauthenticated) as raised:
        await counter.tenancy.identify(text)
    assert text == "" or text not in raised.value.message
    return raised.value.code


async def revoke_silently(valkey: Valkey, issued: IssuedKey) -> None:
    """Revokes a key only in its record, without notifying gateways."""
    revoked = json.loads(issued.record.to_json()) | {"revoked": 1.0}
    async with Redis.from_url(valkey.url) as redis:
        await redis.hset(redis_layout.KEYS, issued.record.digest, json.dumps(revoked, separators=(",", ":")))


async def commands(url: str) -> int:
    async with Redis.from_url(url) as redis:
        stats = await redis.info("commandstats")
        return int(stats.get("cmdstat_hget", {}).get("calls", 0))


async def test_a_key_has_its_tenant_scope_and_priority(valkey: Valkey) -> None:
    issued = await issue(
        valkey.url, scope=KeyScope(tasks=("triage",), adapters=()), priority=7, name="desk", expires=4e9
    )
    async with counter_at(valkey.url) as counter:
        text = issued.credential.text
        assert counter.tenancy.identify_now(text) is None
        caller = await counter.tenancy.identify(text)
        assert counter.tenancy.identify_now(text) is caller
    assert (caller.key, caller.tenant, caller.priority) == (issued.record.id, "acme", 7)
    assert caller.scope == Scope(tasks=frozenset({"triage"}), adapters=frozenset())


async def test_redis_contains_no_secret(valkey: Valkey) -> None:
    issued = await issue(valkey.url, name="desk")
    secret = issued.credential.text.rsplit("_", 1)[1]
    async with Redis.from_url(valkey.url, decode_responses=True) as client:
        redis: Any = client
        read = {"string": redis.get, "hash": redis.hgetall, "stream": redis.xrange}
        kept = [str(await read[await redis.type(name)](name)) for name in await redis.keys("*")]
    assert issued.credential.prefix in "".join(kept)
    assert secret not in "".join(kept)
    assert records.digest_of(issued.credential.text) in "".join(kept)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "missing_key"),
        ("sk-123", "unknown_key"),
        ("x" * 2**20, "unknown_key"),
        (WELL_FORMED + "\n", "unknown_key"),
        ("pm_" + "Ä" * 8 + "_" + "b" * 32, "unknown_key"),
        ("pm_" + "\ud800" * 8 + "_" + "b" * 32, "unknown_key"),
        ("pm-" + WELL_FORMED[3:], "unknown_key"),
        (WELL_FORMED[:-1] + "!", "unknown_key"),
    ],
)
async def test_a_malformed_key_is_rejected_without_a_call_to_redis(valkey: Valkey, text: str, code: str) -> None:
    async with counter_at(valkey.url, running=False) as counter:
        valkey.kill()
        assert counter.tenancy.identify_now(text) is None
        assert await refused(counter, text) == code


async def test_unknown_expired_and_revoked_keys_have_different_errors(valkey: Valkey) -> None:
    times = Times()
    expiring = await issue(valkey.url, expires=times.wall() + 60)
    revoked = await issue(valkey.url)
    async with counter_at(valkey.url, times) as counter, register_at(valkey.url) as register:
        assert await counter.tenancy.identify(expiring.credential.text)
        times.pass_by(61)
        assert counter.tenancy.identify_now(expiring.credential.text) is None
        assert await refused(counter, expiring.credential.text) == "expired_key"
        await register.revoke(revoked.record.prefix)
        assert await refused(counter, revoked.credential.text) == "revoked_key"
        assert await refused(counter, WELL_FORMED) == "unknown_key"
        another_secret = expiring.credential.text[:12] + "x" * 32
        assert await refused(counter, another_secret) == "unknown_key"
        assert counter.metric("pointsman_key_lookups_total", outcome="refused") == 4


async def test_a_revocation_reaches_all_gateways(valkey: Valkey) -> None:
    issued = await issue(valkey.url)
    text = issued.credential.text
    async with counter_at(valkey.url) as one, counter_at(valkey.url) as other, register_at(valkey.url) as register:
        for counter in (one, other):
            await counter.tenancy.identify(text)
        await register.revoke(issued.record.id)
        for counter in (one, other):
            await until(lambda: counter.tenancy.identify_now(text) is None)  # noqa: B023  # awaited
            assert await refused(counter, text) == "revoked_key"


async def test_a_revocation_with_a_lost_message_is_found_by_polling(valkey: Valkey) -> None:
    issued = await issue(valkey.url)
    text = issued.credential.text
    async with counter_at(valkey.url) as counter, Redis.from_url(valkey.url) as redis:
        await counter.tenancy.identify(text)
        await revoke_silently(valkey, issued)
        await redis.incr(redis_layout.EPOCH)
        await until(lambda: counter.tenancy.identify_now(text) is None)


def test_polling_finds_a_revocation_within_a_second() -> None:
    assert POLL_INTERVAL_SECONDS <= 0.5
    longest_call = MAX_ATTEMPTS * CALL_TIMEOUT_SECONDS + MAX_LATE_LOOK_SECONDS
    assert POLL_INTERVAL_SECONDS + 2 * longest_call <= 1.0


async def test_a_revocation_is_found_although_redis_answers_too_late_for_requests(valkey: Valkey) -> None:
    issued = await issue(valkey.url)
    text = issued.credential.text
    async with SlowLink(valkey).running() as link, counter_at(link.url, deadline=CALL_TIMEOUT_SECONDS) as counter:
        await counter.tenancy.identify(text)
        link.delay = 1.5 * CALL_TIMEOUT_SECONDS
        async with register_at(valkey.url) as register:
            await register.revoke(issued.record.id)
        await until(lambda: counter.tenancy.identify_now(text) is None)


async def test_a_revocation_is_found_although_its_epoch_is_not_new(valkey: Valkey) -> None:
    """This happens after a crash of Redis, which has lost earlier changes and continues counting from there."""
    issued = await issue(valkey.url)
    text = issued.credential.text
    async with SlowLink(valkey).running() as link, counter_at(link.url, deadline=CALL_TIMEOUT_SECONDS) as counter:
        await counter.tenancy.identify(text)
        link.delay = 10 * POLL_TIMEOUT_SECONDS
        with pytest.raises(Unavailable):
            await counter.tenancy.tasks.poll()
        await revoke_silently(valkey, issued)
        link.delay = 0.0
        await until(lambda: counter.tenancy.identify_now(text) is None)


@pytest.mark.parametrize("how", ["hangs", "dies"])
async def test_without_redis_cached_keys_stay_valid_for_a_while(valkey: Valkey, how: str) -> None:
    times = Times()
    known, unknown = await issue(valkey.url), await issue(valkey.url)
    async with counter_at(valkey.url, times, deadline=CALL_TIMEOUT_SECONDS) as counter:
        await counter.tenancy.identify(known.credential.text)
        await until(lambda: counter.tenancy.identify_now(known.credential.text))
        valkey.hang() if how == "hangs" else valkey.kill()
        with pytest.raises(Unavailable) as raised:
            await counter.tenancy.identify(unknown.credential.text)
        assert raised.value.code == "keys_unavailable"
        times.pass_by(890)
        assert counter.tenancy.identify_now(known.credential.text)
        times.pass_by(20)
        assert counter.tenancy.identify_now(known.credential.text) is None
        with pytest.raises(Unavailable):
            await counter.tenancy.identify(known.credential.text)
        if how == "hangs":
            valkey.go_on()
        else:
            await valkey.start()
        await until(lambda: counter.tenancy.tasks.leases and counter.tenancy.identify_now(known.credential.text))


async def test_revocations_during_an_outage_apply_afterwards(valkey: Valkey) -> None:
    issued = await issue(valkey.url)
    text = issued.credential.text
    async with AsyncExitStack() as life:
        counter = await life.enter_async_context(counter_at(valkey.url))
        await counter.tenancy.identify(text)
        valkey.kill()
        with pytest.raises(Unavailable):
            await counter.tenancy.tasks.poll()
        await valkey.start()
        async with register_at(valkey.url) as register:
            await register.revoke(issued.record.id)
        await until(lambda: counter.tenancy.identify_now(text) is None)

        async def is_refused() -> bool:
            with suppress(Unavailable):  # requests do not call Redis for a second
                return await refused(counter, text) == "revoked_key"
            return False

        await found(is_refused)


async def test_concurrent_requests_with_a_new_key_share_one_lookup(valkey: Valkey) -> None:
    issued = await issue(valkey.url)
    async with counter_at(valkey.url) as counter:
        before = await commands(valkey.url)
        callers = await asyncio.gather(*(counter.tenancy.identify(issued.credential.text) for _ in range(300)))
        assert len(set(map(id, callers))) == 1
        assert await commands(valkey.url) - before == 2  # the key's record, and its tenant's


async def test_the_key_cache_is_bounded_and_evicts_the_least_used(valkey: Valkey) -> None:
    copies = KeyCacheConfig(max_keys=20, evicted_at_once=5)
    issued = [await issue(valkey.url, Limits(requests_per_minute=100), tenant=f"t{number}") for number in range(30)]
    async with counter_at(valkey.url, copies=copies) as counter:
        for one in issued:
            await counter.tenancy.identify(one.credential.text)
            assert await found(lambda: _there(counter, issued[0].credential.text))
        assert counter.metric("pointsman_key_cache_size") <= 20
        assert counter.tenancy.identify_now(issued[1].credential.text) is None
        assert await counter.let_in(await counter.caller(issued[1]))


async def _there(counter: Counter, text: str) -> object:
    return counter.tenancy.identify_now(text)


@pytest.mark.parametrize("kept", ["{", '{"v":2}', '{"v":1,"id":"key-1"}', "[]"])
async def test_an_unreadable_record_is_rejected(valkey: Valkey, kept: str, caplog: pytest.LogCaptureFixture) -> None:
    async with counter_at(valkey.url) as counter, Redis.from_url(valkey.url) as redis:
        await redis.hset(redis_layout.KEYS, records.digest_of(WELL_FORMED), kept)
        assert await refused(counter, WELL_FORMED) == "unknown_key"
        assert "cannot be read" in caplog.text


async def test_an_unreadable_record_does_not_affect_others(valkey: Valkey) -> None:
    issued, broken = await issue(valkey.url), await issue(valkey.url)
    async with counter_at(valkey.url) as counter, register_at(valkey.url) as register:
        for one in (issued, broken):
            await counter.tenancy.identify(one.credential.text)
        async with Redis.from_url(valkey.url) as redis:
            await redis.hset(redis_layout.KEYS, broken.record.digest, "{")
        await register.revoke(issued.record.id)
        await until(lambda: counter.tenancy.identify_now(issued.credential.text) is None)
        await until(lambda: counter.tenancy.identify_now(broken.credential.text) is None)


def test_a_tenants_record_is_read_as_it_was_written() -> None:
    record = TenantRecord("acme", Limits(dollars_per_day=0.1, requests_per_minute=5))
    assert TenantRecord.from_json(record.to_json()) == record


async def test_a_key_without_an_operator_field_is_not_an_operators_key(valkey: Valkey) -> None:
    plain, operator = await issue(valkey.url), await issue(valkey.url, operator=True)
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        assert "operator" not in json.loads(await redis.hget(redis_layout.KEYS, plain.record.digest) or "null")
    async with counter_at(valkey.url) as counter:
        assert [(await counter.caller(issued)).is_operator for issued in (plain, operator)] == [False, True]
    async with register_at(valkey.url) as register:
        for issued in (plain, operator):
            assert (await register.revoke(issued.record.id)).revoked is not None
