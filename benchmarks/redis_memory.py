"""Measures how much of Redis's memory keys, tenants and receipts take: `python -m benchmarks.redis_memory [COUNT]`.

It compares Valkey's `used_memory` before and after COUNT of each are written by the classes that the services use.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from pointsman_servicekit.keys.key_store import KeyStore, NewKey
from pointsman_servicekit.keys.records import Limits
from pointsman_servicekit.redis_clients import RedisClient, open_client

from tests.gateway.doubles.request_logs import run_request_log
from tests.gateway.doubles.tenancy import register_at
from tests.gateway.doubles.valkey import running_valkey

COUNT = 10_000
LIMITS = Limits(requests_per_minute=600, tokens_per_minute=100_000, dollars_per_day=5)


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with running_valkey(Path(folder) / "valkey") as valkey, open_client(valkey.url) as redis:
            async with register_at(valkey.url) as store:
                await _report("a key", redis, count, lambda: _create_keys(store, count))
                await _report("a tenant with limits and one key", redis, count, lambda: _create_tenants(store, count))
            await _report("a receipt in the request log", redis, count, lambda: _write_receipts(valkey.url, count))


async def _report(name: str, redis: RedisClient, count: int, write: Callable[[], Awaitable[None]]) -> None:
    before = await _used(redis)
    await write()
    print(f"{name}: {(await _used(redis) - before) / count:.0f} bytes", flush=True)


async def _used(redis: RedisClient) -> int:
    return int((await redis.client.info("memory"))["used_memory"])


async def _create_keys(store: KeyStore, count: int) -> None:
    for number in range(count):
        await store.create(NewKey(name=f"key-{number}", tenant="team", limits=LIMITS))


async def _create_tenants(store: KeyStore, count: int) -> None:
    for number in range(count):
        await store.create(NewKey(name="first", tenant=f"team-{number}", limits=LIMITS))
        await store.limit_tenant(f"team-{number}", lambda _: LIMITS)


async def _write_receipts(url: str, count: int) -> None:
    async with run_request_log(url) as log:
        for first in range(0, count, 1000):
            log.note(*(f"{number:032x}" for number in range(first, first + 1000)))
            await log.written()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else COUNT))
