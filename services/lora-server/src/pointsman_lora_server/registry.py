"""The desired state in Redis: versions, aliases with their revisions, and which versions an engine should hold."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, TypeVar

from pointsman_servicekit.errors import FailedPrecondition, NotFound, Unavailable
from redis.asyncio import Redis
from redis.exceptions import RedisError

from pointsman_lora_server.domain import AdapterVersion, Alias, DesiredState

DEADLINE = 0.05
"""Seconds a call: a slow Redis is treated as a dead one."""

TRIES = 3
"""Every call here may be made twice without harm, and on a busy machine one can miss the deadline by chance."""

# An alias is kept as "REVISION VERSION". Asking for what is already so succeeds, so that a call can be repeated safely.
# A version that its last alias left is not wanted any more: it stays where it is loaded, and is not loaded again.
_MOVE = """
local versions, aliases, wanted = KEYS[1], KEYS[2], KEYS[3]
local alias, version, expected = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HEXISTS', versions, version) == 0 then return {'unknown', ''} end
local before = redis.call('HGET', aliases, alias)
local revision, current = 0, ''
if before then
  local space = string.find(before, ' ', 1, true)
  revision, current = tonumber(string.sub(before, 1, space - 1)), string.sub(before, space + 1)
end
redis.call('SADD', wanted, version)
if current == version then return {'done', tostring(revision)} end
if expected ~= '' and current ~= expected then return {'moved', current} end
redis.call('HSET', aliases, alias, string.format('%d %s', revision + 1, version))
if current ~= '' then
  local left = true
  for _, value in ipairs(redis.call('HVALS', aliases)) do
    if string.sub(value, string.find(value, ' ', 1, true) + 1) == current then left = false end
  end
  if left then redis.call('SREM', wanted, current) end
end
return {'done', tostring(revision + 1)}
"""

_T = TypeVar("_T")


class Registry:
    """Each method raises Unavailable ("redis_unavailable") where Redis does not answer in time."""

    def __init__(self, redis: Redis, base_model: str) -> None:
        """`redis` must decode answers. Engines of one base model share their adapters, so the keys hold its name."""
        self._redis: Any = redis  # its types say neither what is decoded nor what is awaited
        prefix = f"{{pointsman:lora:{base_model}}}"  # braces: one slot of a cluster, for the script
        self._versions, self._aliases, self._wanted = (f"{prefix}:{key}" for key in ("versions", "aliases", "wanted"))
        self._move = self._redis.register_script(_MOVE)

    async def record(self, version: AdapterVersion) -> AdapterVersion:
        """Makes the version known and wanted; returns it as it was first recorded."""

        async def call() -> str:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hsetnx(self._versions, version.version, json.dumps(asdict(version)))
                pipe.sadd(self._wanted, version.version)
                pipe.hget(self._versions, version.version)
                return str((await pipe.execute())[2])

        return _version(await _in_time(call))

    async def reject(self, version: str) -> None:
        """Keeps the version known, and wants it in no engine."""
        await _in_time(lambda: self._redis.srem(self._wanted, version))

    async def read(self) -> DesiredState:
        async def call() -> tuple[dict[str, str], dict[str, str], set[str]]:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hgetall(self._versions)
                pipe.hgetall(self._aliases)
                pipe.smembers(self._wanted)
                versions, aliases, wanted = await pipe.execute()
                return versions, aliases, wanted

        raw_versions, raw_aliases, wanted = await _in_time(call)
        versions = {name: _version(raw) for name, raw in raw_versions.items()}
        aliases = tuple(_alias(name, raw) for name, raw in sorted(raw_aliases.items()))
        aliased = {alias.version for alias in aliases}
        first = sorted(
            (versions[name] for name in wanted if name in versions),
            key=lambda version: (version.version not in aliased, -version.created_unix_ms, version.version),
        )
        return DesiredState(versions, aliases, tuple(version.version for version in first))

    async def version(self, version: str) -> AdapterVersion:
        """Raises NotFound where it was never registered."""
        raw = await _in_time(lambda: self._redis.hget(self._versions, version))
        if raw is None:
            raise _unknown(version)
        return _version(raw)

    async def move(self, alias: str, version: str, expected: str = "") -> Alias:
        """Points `alias` to `version`, atomically.

        Raises NotFound, or FailedPrecondition where it does not point to `expected` (empty: wherever it points).
        """
        keys = [self._versions, self._aliases, self._wanted]
        outcome, value = await _in_time(lambda: self._move(keys=keys, args=[alias, version, expected]))
        if outcome == "unknown":
            raise _unknown(version)
        if outcome == "moved":
            raise moved(alias, value, expected)
        return Alias(alias, version, int(value))


def moved(alias: str, current: str, expected: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"'{alias}' points to {current or 'nothing'}, not to {expected}: someone moved it since it was read",
        code="alias_moved",
        param="expected_version",
    )


def _unknown(version: str) -> NotFound:
    return NotFound(f"no version '{version}' is registered; List names those that are", code="unknown_version")


def _version(raw: str) -> AdapterVersion:
    values = json.loads(raw)
    return AdapterVersion(**(values | {"target_modules": tuple(values["target_modules"])}))


def _alias(alias: str, raw: str) -> Alias:
    revision, _, version = raw.partition(" ")
    return Alias(alias, version, int(revision))


async def _in_time(call: Callable[[], Awaitable[_T]]) -> _T:
    failure: Exception | None = None
    for _ in range(TRIES):
        try:
            async with asyncio.timeout(DEADLINE):
                return await call()
        except (TimeoutError, RedisError, OSError) as error:
            failure = error
    raise Unavailable(
        f"Redis does not answer: {failure or f'nothing within {DEADLINE * 1000:.0f} ms'}",
        code="redis_unavailable",
        retry_after=1.0,
    ) from failure
