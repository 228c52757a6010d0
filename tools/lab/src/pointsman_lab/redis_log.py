"""The request log in Redis, which is read page by page."""

import re
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from typing import Any, TypeVar

from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.evidence import Counts, from_fields
from pointsman_servicekit.errors import InvalidArgument, Unavailable
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.records import TenantRecord
from pointsman_servicekit.redis_clients import REDIS_ERRORS, RedisClient, open_client

from pointsman_lab.request_log import RequestLog

PAGE_SIZE = 100
"""Entries read at once; each holds at most 64 KiB of text."""
TIMEOUT_SECONDS = 5.0
"""Seconds in which Redis must answer each call; longer than in the gateway, since no request waits for the answer."""

Reply = TypeVar("Reply")


class RedisRequestLog(RequestLog):
    """The request log in Redis."""

    def __init__(self, redis: RedisClient, url: str) -> None:
        self._redis = redis.client
        self._url = url

    async def count(self, seconds: float) -> int:
        """Estimates the number of decisions in the last `seconds`, as if they had arrived at a constant rate."""
        stream = redis_schema.DECISIONS
        total = int(await self._reply(self._redis.xlen(stream)))
        ends = [await self._reply(read(stream, count=1)) for read in (self._redis.xrange, self._redis.xrevrange)]
        if not total or not all(ends):
            return 0
        first, last = (_unix_ms(entry[0][0]) for entry in ends)
        begin = await self._begin(seconds)
        if begin <= first:
            return total
        return max(0, round(total * (last - begin) / max(last - first, 1)))

    async def evidence(self, days: list[str]) -> dict[str, Counts]:
        return {
            day: from_fields(await self._reply(self._redis.hgetall(redis_schema.EVIDENCE + day)))[0] for day in days
        }

    async def tenants(self) -> dict[str, TenantRecord]:
        """Returns the stored records of all tenants (limits, consent to training and others), by tenant name.

        Raises FailedPrecondition if this version cannot read the format in which a tenant is stored.
        """
        read = await self._reply(self._redis.hgetall(redis_layout.TENANTS))
        return {name: TenantRecord.from_json(text) for name, text in read.items()}

    async def complete_since(self, stream: str) -> float:
        if not await self._reply(self._redis.exists(stream)):
            return 0.0
        about: Any = await self._reply(self._redis.xinfo_stream(stream))
        first = about["first-entry"]
        if about["entries-added"] <= about["length"] or not first:
            return 0.0
        return _unix_ms(first[0]) / 1000

    async def delete(self, stream: str, entry_ids: Sequence[str]) -> None:
        """Deletes the entries with these ids from a Redis stream; deleted entries cannot be restored."""
        for start in range(0, len(entry_ids), PAGE_SIZE):
            await self._reply(self._redis.xdel(stream, *entry_ids[start : start + PAGE_SIZE]))

    async def entries(self, stream: str, seconds: float = inf) -> AsyncIterator[tuple[str, dict[str, str]]]:
        newest = await self._reply(self._redis.xrevrange(stream, count=1))
        if not newest:
            return
        last, start = newest[0][0], str(await self._begin(seconds))
        while page := await self._reply(self._redis.xrange(stream, start, last, count=PAGE_SIZE)):
            for entry in page:
                yield entry
            start = f"({page[-1][0]}"

    async def _begin(self, seconds: float) -> int:
        """Returns the time `seconds` ago in Unix milliseconds, by the clock of Redis.

        Redis makes the ids of the log's entries from its own clock.
        """
        if seconds == inf:
            return 0
        now, _ = await self._reply(self._redis.time())
        return max(0, int((now - seconds) * 1000))

    async def _reply(self, reply: Awaitable[Reply]) -> Reply:
        try:
            return await reply
        except REDIS_ERRORS as error:
            raise Unavailable(f"Redis at {self._url} does not answer: {error}", code="redis_unavailable") from error


@asynccontextmanager
async def open_redis_log(url: str) -> AsyncIterator[RedisRequestLog]:
    """Opens the request log in Redis. Raises InvalidArgument ("bad_redis_url") if `url` is not a URL of Redis."""
    async with AsyncExitStack() as stack:
        try:
            opened = open_client(url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS)
            client = await stack.enter_async_context(opened)
        except ValueError as error:
            message = f"'{_without_password(url)}' is not an address of Redis: {error}"
            raise InvalidArgument(message, code="bad_redis_url") from error
        yield RedisRequestLog(client, _without_password(url))


def _without_password(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//", url)


def _unix_ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
