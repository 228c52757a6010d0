"""Reads the desired state as a consistent snapshot, and the Redis stream of changes, which is also the history of
changes.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pointsman_servicekit.bounded_redis import BoundedRedis, pending_cancellations, read_script
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.redis_clients import REDIS_ERRORS
from rpds import HashTrieMap

from pointsman_lora_server.domain import ON_EVERY_ENGINE, AdapterVersion, Change, DesiredState, Placement
from pointsman_lora_server.registry import schema
from pointsman_lora_server.registry.schema import RedisKeys

MAX_RECORDS_PER_CALL = 100
"""The largest number of version records that one call reads: about 100 kB, which takes far less than a call's time
limit."""

NO_CHANGE_ID = "0-0"
"""The id that is returned for the newest change if there are no changes."""

MAX_BLOCK_SECONDS = 4.0
"""The longest duration of one blocking read, in seconds. The Redis client closes a silent connection after 5
seconds."""

BLOCK_SLACK_SECONDS = 0.5
"""The number of seconds by which a blocking read may exceed its requested duration. Redis checks only ten times a
second which reads have timed out."""

_ATTEMPTS = 5
_PAGE = 500
_INTERNAL_KINDS = frozenset({"settled", "upcoming"})
"""Kinds of changes that only notify lora-servers, and are not shown in the history."""

_CHANGE_FIELDS = frozenset({"kind", "subject", "before", "after", "author", "reason"})

Value = TypeVar("Value")


class _Snapshot(NamedTuple):
    stamp: str
    change_id: str
    """The id of the newest change that the snapshot includes."""
    state: DesiredState
    tokens: "HashTrieMap[str, str]"
    """Version -> the token `made` of its phase record (see `RedisKeys.phases`)."""


_NOTHING_READ = _Snapshot("", "", DesiredState(versions=HashTrieMap(), phases=HashTrieMap()), HashTrieMap())


class SnapshotReader:
    """Reads the desired state from Redis. The first read, and a read after many changes, reads the whole state; others
    read only what has changed.

    Versions are stored in persistent maps: a new snapshot costs O(log n) for each change, and older snapshots stay
    valid.
    """

    def __init__(self, redis: BoundedRedis, keys: RedisKeys, default_placement: Placement = ON_EVERY_ENGINE) -> None:
        self._redis = redis
        self._keys = keys
        self._default_placement = default_placement
        self._run = redis.client.register_script(read_script(__package__, "read"))
        self._last = _NOTHING_READ

    async def read(self) -> DesiredState:
        """Returns the desired state; it is the same object as in the last call if nothing has changed.

        Raises Unavailable if Redis does not answer, or versions are deleted during each of several attempts, and
        FailedPrecondition ("unreadable_record") if a value in Redis cannot be parsed.
        """
        for _ in range(_ATTEMPTS):
            state = await self._try()
            if state is not None:
                return state
        raise Unavailable("versions are deleted faster than they are read", code="redis_unavailable", retry_after=1.0)

    async def _try(self) -> DesiredState | None:
        """Reads the desired state in several calls to Redis; returns None if a version was deleted between two of
        them.
        """
        at, last = self._keys, self._last
        keys = [at.phases, at.aliases, at.pins, at.placements, at.upcoming, at.stamp, at.changes]
        stamp, *parts = await self._redis.call(lambda: self._run(keys=keys, args=[last.stamp, last.change_id]))
        if not parts:
            return last.state
        change_id, is_partial, raw_phases, raw_aliases, pins, raw_placements, raw_upcoming = parts
        phases, tokens, deleted = schema.phases_from_json(raw_phases)
        versions = await self._records(tokens, last)
        if versions is None:
            return None
        before = last if is_partial else _NOTHING_READ
        aliases, changed_aliases = before.state.aliases, schema.aliases_from_json(raw_aliases)
        if changed_aliases:
            by_name = {alias.alias: alias for alias in aliases} | changed_aliases
            aliases = tuple(by_name[name] for name in sorted(by_name))
        changed = frozenset([*phases, *deleted, *changed_aliases])
        state = DesiredState(
            _merge(before.state.versions, versions, deleted),
            _merge(before.state.phases, phases, deleted),
            aliases,
            frozenset(pins),
            schema.placements_from_pairs(raw_placements),
            schema.upcoming_from_pairs(raw_upcoming),
            last.state.log.append(changed if is_partial else None),
            self._default_placement,
        )
        self._last = _Snapshot(stamp, change_id, state, _merge(before.tokens, tokens, deleted))
        return state

    async def _records(self, tokens: Mapping[str, str], last: _Snapshot) -> dict[str, AdapterVersion] | None:
        """Returns the records of the versions in `tokens`. Records whose token is equal in the snapshot `last` are
        taken from there, and all others are read from Redis.

        Returns None if a record is missing in Redis.
        """
        known = last.state.versions
        records = {name: known[name] for name, token in tokens.items() if last.tokens.get(name) == token}
        missing = [name for name in tokens if name not in records]
        for start in range(0, len(missing), MAX_RECORDS_PER_CALL):
            names = missing[start : start + MAX_RECORDS_PER_CALL]
            for name, raw in zip(names, await self._fetch(names), strict=True):
                if raw is None:
                    return None
                records[name] = schema.version_from_json(raw)
        return records

    async def _fetch(self, names: list[str]) -> list[str | None]:
        raw: list[str | None] = await self._redis.call(lambda: self._redis.client.hmget(self._keys.versions, names))
        return raw


def _merge(
    before: Mapping[str, Value], changed: Mapping[str, Value], deleted: Sequence[str]
) -> "HashTrieMap[str, Value]":
    assert isinstance(before, HashTrieMap)
    merged = before.update(changed)
    for name in deleted:
        merged = merged.discard(name)
    return merged


class ChangeStream:
    """The history of changes in Redis, from which lora-servers also learn of new changes.

    Redis keeps about the last 10,000 entries (`MAX_CHANGES` in lua/prelude.lua).
    """

    def __init__(self, redis: BoundedRedis, keys: RedisKeys) -> None:
        self._redis = redis
        self._key = keys.changes

    async def history(self, name: str, limit: int) -> list[Change]:
        """Returns the latest changes of the adapter `name`, or of all adapters if `name` is empty; at most `limit`,
        newest first.

        Changes of `_INTERNAL_KINDS` are left out. Raises Unavailable if Redis does not answer.
        """
        changes: list[Change] = []
        before = "+"
        while len(changes) < limit:
            page = await self._page(before)
            changes += [change for entry in page if (change := _change(entry)) and _is_shown(change, name)]
            if len(page) < _PAGE:
                break
            before = f"({page[-1][0]}"
        return changes[:limit]

    async def wait_for_change(self, last_id: str, seconds: float) -> str:
        """Waits until there is a newer change than the one with the id `last_id`; returns the id of the newest change.

        Waits for `seconds` at most, and never longer than `MAX_BLOCK_SECONDS`; then returns `last_id`. Returns at once
        if the newest change is not `last_id`, which is also the case if Redis was restarted and has lost that change.
        Raises Unavailable if the connection breaks, or if Redis does not answer for `BLOCK_SLACK_SECONDS` longer.
        """
        newest = await self._newest()
        if newest != last_id:
            return newest
        entries = await self._wait(last_id, min(seconds, MAX_BLOCK_SECONDS))
        return entries[-1][0] if entries else last_id

    async def _newest(self) -> str:
        entries = await self._redis.call(lambda: self._redis.client.xrevrange(self._key, count=1))
        return str(entries[0][0]) if entries else NO_CHANGE_ID

    async def _page(self, before: str) -> list[tuple[str, dict[str, str]]]:
        page: list[tuple[str, dict[str, str]]] = await self._redis.call(
            lambda: self._redis.client.xrevrange(self._key, max=before, count=_PAGE)
        )
        return page

    async def _wait(self, last_id: str, seconds: float) -> Any:
        """Waits for changes on a separate connection. Returns the new entries of the stream; empty if there are none
        after `seconds`.
        """
        cancellations = pending_cancellations()
        milliseconds = max(1, round(seconds * 1000))  # 0 would block for ever
        try:
            async with asyncio.timeout(seconds + BLOCK_SLACK_SECONDS):
                answer = await self._redis.client.xread({self._key: last_id}, block=milliseconds)
        except REDIS_ERRORS as error:
            raise Unavailable(
                f"Redis went away while its changes were followed: {error or 'it hangs'}",
                code="redis_unavailable",
                retry_after=1.0,
            ) from error
        if pending_cancellations() > cancellations:
            raise asyncio.CancelledError
        return answer[0][1] if answer else []


def _change(entry: tuple[str, dict[str, str]]) -> Change | None:
    """Converts an entry of the Redis stream to a `Change`; returns None if a field is missing."""
    id_, values = entry
    if not values.keys() >= _CHANGE_FIELDS:
        return None
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


def _is_shown(change: Change, name: str) -> bool:
    return change.kind not in _INTERNAL_KINDS and name in ("", change.subject.partition("@")[0])
