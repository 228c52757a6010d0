"""Reads the audit log from Redis, and records the versions of the configuration in it."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from typing import Any

from pointsman_servicekit.audit.entries import Actor, AuditedChange, AuditEntry, from_json, to_json
from pointsman_servicekit.bounded_redis import BoundedRedis, read_script

log = logging.getLogger(__name__)

AUDIT = "{pointsman}:audit"
"""The Redis stream of administrative changes; each entry has the field `entry` (JSON).

Its name has the same hash tag, `{pointsman}`, as the records of API keys, so that one script can change a key and add
the entry, in a Redis cluster too.
"""
MAX_ENTRIES = 100_000
"""Approximate maximum number of entries in the stream `AUDIT`; if there are more, the oldest are dropped."""
CONFIGURATION = "{pointsman}:audit:configuration"
"""A Redis hash with the configuration that was recorded last: `revision`, and `values` (JSON)."""
ADAPTER_CHANGES = "{pointsman:adapters:*}:changes"
"""Pattern for the streams in which the lora-servers keep the history of their adapters (`RedisKeys.changes`)."""
ADAPTER_KINDS = ("alias", "canary", "rollback", "registered", "retired", "deleted", "pin", "placement")
"""The kinds of entries in the streams `ADAPTER_CHANGES` for changes that a person has made. Entries of other kinds are
for steps that a lora-server takes by itself.
"""

EXPORTED = "{pointsman}:audit:exported"
"""A Redis hash from the name of a stream of changes to the id of the stream's last entry that was exported."""
EXPORT_LEASE = "{pointsman}:audit:export_lease"
"""A Redis string with the name of the gateway process that has the right to export changes now."""

_PAGE = 500
_SCANNED_KEYS = 1000
"""How many of its keys Redis examines in one call of the search for the streams `ADAPTER_CHANGES`."""


class AuditLog:
    """The audit log in Redis. Each method raises Unavailable ("redis_unavailable") if Redis does not answer."""

    def __init__(self, redis: BoundedRedis, wall: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._wall = wall
        self._record = redis.client.register_script(read_script(__package__, "record_configuration"))
        self._set_exported = redis.client.register_script(read_script(__package__, "set_exported"))
        self._lease_export = redis.client.register_script(read_script(__package__, "lease_export"))

    async def read(self, seconds: float, kinds: Collection[str] = (), limit: int = 1000) -> list[AuditEntry]:
        """Returns the changes of the last `seconds` seconds, the newest first, at most `limit`.

        `kinds` are some of `KINDS`; empty for all. Changes of adapters are read from the lora-servers' history, if the
        lora-servers use the same Redis. Entries that cannot be read are logged and left out.
        """
        oldest = max(0, int((self._wall() - seconds) * 1000))
        found: list[AuditEntry] = []
        names = [AUDIT]
        if not kinds or "alias" in kinds:
            names = await self.streams()
        for name in names:
            parse = _own_entry if name == AUDIT else _adapter_entry
            count = 0
            async for entry_id, fields in self._newest_first(name, oldest):
                entry = parse(name, entry_id, fields)
                if entry is not None and (not kinds or entry.changed.kind in kinds):
                    found.append(entry)
                    count += 1
                if count >= limit:
                    break
        found.sort(key=lambda entry: -entry.unix_ms)
        return found[:limit]

    async def configuration(self) -> tuple[str, str]:
        """Returns (revision, values) of the configuration that `record_configuration` stored last.

        `values` is the text that was passed to it. Both are empty if none was stored yet.
        """
        found = await self._redis.call(lambda: self._redis.client.hmget(CONFIGURATION, ["revision", "values"]))
        return found[0] or "", found[1] or ""

    async def record_configuration(
        self, actor: Actor, replaced: str, revision: str, values: str, changes: Sequence[AuditedChange]
    ) -> bool:
        """Adds the changes that led to `revision`, and stores the configuration's `values` for the next comparison.

        `replaced` is the revision before. Returns False, and adds nothing, if another revision than `replaced` was
        recorded last, because another gateway has recorded a newer one.
        """
        entries = [to_json(actor, changed) for changed in changes]
        arguments = [replaced, revision, values, MAX_ENTRIES, *entries]
        return bool(await self._redis.call(lambda: self._record(keys=[CONFIGURATION, AUDIT], args=arguments)))

    async def streams(self) -> list[str]:
        """Returns the names of all Redis streams with changes: the stream of this log, and the streams with the
        lora-servers' history.
        """
        return [AUDIT, *await self._adapter_streams()]

    async def not_exported(self, stream: str) -> tuple[list[tuple[str, AuditEntry]], str]:
        """Returns the oldest changes of a stream that are not exported yet, and the id to pass to `set_exported`
        afterwards.

        There are at most `_PAGE` changes, each as a pair of an id that no other change has, and the change. The id for
        `set_exported` is empty if all changes are exported.
        """
        after = await self._redis.call(lambda: self._redis.client.hget(EXPORTED, stream))
        page = await self._redis.call(
            lambda: self._redis.client.xrange(stream, f"({after}" if after else "-", "+", count=_PAGE)
        )
        parse = _own_entry if stream == AUDIT else _adapter_entry
        found = [(f"{stream}:{name}", entry) for name, fields in page if (entry := parse(stream, name, fields))]
        return found, page[-1][0] if page else ""

    async def set_exported(self, stream: str, entry_id: str) -> None:
        """Stores the id of the last exported entry of a stream; does nothing if the id of a later entry is stored."""
        await self._redis.call(lambda: self._set_exported(keys=[EXPORTED], args=[stream, entry_id]))

    async def lease_export(self, holder: str, seconds: float) -> bool:
        """Takes or renews, for `seconds` seconds, the right to export changes; returns False if another process has the
        right.

        `holder` is a name of this process that no other process has.
        """
        arguments = [holder, int(seconds * 1000)]
        return bool(await self._redis.call(lambda: self._lease_export(keys=[EXPORT_LEASE], args=arguments)))

    async def end_export(self, holder: str) -> None:
        """Gives up the right to export changes (`lease_export`), if the process `holder` has it."""
        await self.lease_export(holder, 0)

    async def _adapter_streams(self) -> list[str]:
        """Searches all keys of Redis, with a time limit for each call and not for the whole search."""
        from redis.asyncio import RedisCluster  # it takes 7 MB, which a gateway without Redis does not need

        client = self._redis.client
        nodes: list[dict[str, Any]] = [{}]
        if isinstance(client, RedisCluster):
            await self._redis.call(client.initialize)
            nodes = [{"target_nodes": node} for node in client.get_primaries()]
        return sorted({name for node in nodes async for name in self._scan(node)})

    async def _scan(self, node: dict[str, Any]) -> AsyncIterator[str]:
        cursor = 0
        while True:
            options = {"cursor": cursor, "match": ADAPTER_CHANGES, "count": _SCANNED_KEYS, **node}
            cursor, names = await self._redis.call(partial(self._redis.client.scan, **options))
            for name in names:
                yield name
            if isinstance(cursor, dict):  # by node
                (cursor,) = cursor.values()
            if not cursor:
                return

    async def _newest_first(self, stream: str, oldest_ms: int) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        before = "+"
        while True:
            page = await self._page(stream, before, oldest_ms)
            for entry_id, fields in page:
                yield entry_id, fields
            if len(page) < _PAGE:
                return
            before = f"({page[-1][0]}"

    async def _page(self, stream: str, before: str, oldest_ms: int) -> list[tuple[str, dict[str, Any]]]:
        page: list[tuple[str, dict[str, Any]]] = await self._redis.call(
            lambda: self._redis.client.xrevrange(stream, before, str(oldest_ms), count=_PAGE)
        )
        return page


def _own_entry(stream: str, entry_id: str, fields: dict[str, Any]) -> AuditEntry | None:
    try:
        return from_json(fields.get("entry", ""), _unix_ms(entry_id))
    except ValueError as error:
        log.error("the entry %s of %s in Redis cannot be read: %s", entry_id, stream, error)
        return None


def _adapter_entry(stream: str, entry_id: str, fields: dict[str, Any]) -> AuditEntry | None:
    """Converts an entry of a lora-server's history; None for a step that a lora-server took by itself."""
    kind = fields.get("kind", "")
    if kind not in ADAPTER_KINDS:
        return None
    before, after = ({"is": value} if (value := fields.get(side)) else {} for side in ("before", "after"))
    base = stream.removeprefix("{pointsman:adapters:").partition("}")[0]
    changed = AuditedChange("alias", kind, fields.get("subject", ""), before, after)
    actor = Actor(fields.get("author", ""), f"lora-server of {base}")
    return AuditEntry(_unix_ms(entry_id), actor, changed, fields.get("reason", ""))


def _unix_ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
