"""The stream of changes: everyone's history, and how each lora-server hears of the next one."""

import asyncio
from typing import Any

from pointsman_servicekit.bounded_redis import BoundedRedis, pending_cancellations
from pointsman_servicekit.errors import Unavailable
from redis.exceptions import RedisError

from pointsman_lora_server.domain import Change
from pointsman_lora_server.registry.layout import Layout

NONE_YET = "0-0"
"""The id of the newest change where there is none."""

LONGEST_WAIT = 4.0
"""Seconds that one blocking read takes: the client gives a silent connection up after 5."""

LATE = 0.5
"""Seconds that Redis may take beyond that: it looks ten times a second whose time is up."""

_PAGE = 500
_SIGNALS = frozenset({"settled", "coming"})
"""Kinds of which lora-servers must hear, and no person."""


class Changes:
    def __init__(self, redis: BoundedRedis, layout: Layout) -> None:
        self._redis = redis
        self._key = layout.changes

    async def history(self, name: str, limit: int) -> list[Change]:
        """Of the adapter `name`, or of all where that is empty; the newest first. Raises Unavailable."""
        found: list[Change] = []
        before = "+"
        while len(found) < limit:
            page = await self._page(before)
            found += [change for change in map(_change, page) if _is_of(change, name)]
            if len(page) < _PAGE:
                break
            before = f"({page[-1][0]}"
        return found[:limit]

    async def since(self, last_id: str, seconds: float) -> str:
        """Waits for a change after `last_id`, `seconds` at most and perhaps less; returns the id of the newest.

        At once where the newest is another than `last_id`: also where Redis was started again and has lost it. Raises
        Unavailable at once where Redis goes away meanwhile, and half a second after that time where it hangs.
        """
        newest = await self._newest()
        if newest != last_id:
            return newest
        found = await self._wait(last_id, min(seconds, LONGEST_WAIT))
        return found[-1][0] if found else last_id

    async def _newest(self) -> str:
        entries = await self._redis.call(lambda: self._redis.client.xrevrange(self._key, count=1))
        return str(entries[0][0]) if entries else NONE_YET

    async def _page(self, before: str) -> list[tuple[str, dict[str, str]]]:
        page: list[tuple[str, dict[str, str]]] = await self._redis.call(
            lambda: self._redis.client.xrevrange(self._key, max=before, count=_PAGE)
        )
        return page

    async def _wait(self, last_id: str, seconds: float) -> Any:
        """On a connection that no call with a deadline shares."""
        cancellations = pending_cancellations()
        milliseconds = max(1, round(seconds * 1000))  # 0 would be for ever
        try:
            async with asyncio.timeout(seconds + LATE):
                answer = await self._redis.client.xread({self._key: last_id}, block=milliseconds)
        except (TimeoutError, RedisError, OSError) as error:
            raise Unavailable(
                f"Redis went away while its changes were followed: {error or 'it hangs'}",
                code="redis_unavailable",
                retry_after=1.0,
            ) from error
        if pending_cancellations() > cancellations:
            raise asyncio.CancelledError
        return answer[0][1] if answer else []


def _change(entry: tuple[str, dict[str, str]]) -> Change:
    id_, values = entry
    return Change(
        id=id_,
        at_unix_ms=int(id_.partition("-")[0]),
        kind=values["kind"],
        subject=values["subject"],
        before=values["before"],
        after=values["after"],
        author=values["author"],
        reason=values["reason"],
    )


def _is_of(change: Change, name: str) -> bool:
    return change.kind not in _SIGNALS and name in ("", change.subject.partition("@")[0])
