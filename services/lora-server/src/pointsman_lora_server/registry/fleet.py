"""State of lora-servers in Redis in addition to the desired state: leases, the engines' reports, and request counts of
canaries.

A lease names the process that works on an adapter version. A report lists the versions that an engine holds. The counts
are the outcomes of requests to aliases with a canary, summed over all gateways.
"""

import json
import logging
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence

from pointsman_servicekit.bounded_redis import BoundedRedis, read_script
from pointsman_servicekit.canary_reports import CanaryReport, RequestCounts

from pointsman_lora_server.domain import Alias, EngineState, EngineStatus, FleetState
from pointsman_lora_server.registry import schema
from pointsman_lora_server.registry.schema import RedisKeys

log = logging.getLogger(__name__)


class Leases:
    """Locks in Redis that expire, so that a process that dies does not block others for long.

    Methods raise Unavailable if Redis does not answer.
    """

    def __init__(self, redis: BoundedRedis, keys: RedisKeys) -> None:
        self._redis = redis
        self._keys = keys
        self._acquire = redis.client.register_script(read_script(__package__, "acquire_lease"))
        self._release = redis.client.register_script(read_script(__package__, "release_lease"))

    async def acquire(self, key: str, owner: str, seconds: float) -> bool:
        """Acquires the lease `key` for `seconds`, or extends it if `owner` has it already. Returns False if another
        owner has it.
        """
        keys, arguments = [self._keys.lease(key)], [owner, _milliseconds(seconds)]
        return bool(await self._redis.call(lambda: self._acquire(keys=keys, args=arguments)))

    async def release(self, key: str, owner: str) -> None:
        """Releases the lease `key` if `owner` has it; otherwise does nothing."""
        await self._redis.call(lambda: self._release(keys=[self._keys.lease(key)], args=[owner]))


class EngineReports:
    """Stores and reads reports in Redis in which each lora-server says which adapter versions its engine holds.

    Methods raise Unavailable if Redis does not answer.
    """

    def __init__(self, redis: BoundedRedis, keys: RedisKeys) -> None:
        self._redis = redis
        self._keys = [keys.engines]
        self._report = redis.client.register_script(read_script(__package__, "report_engine"))
        self._read_fleet = redis.client.register_script(read_script(__package__, "read_fleet"))
        self._engines_holding = redis.client.register_script(read_script(__package__, "engines_holding"))

    async def report_engine(self, engine: str, state: EngineState, seconds: float) -> None:
        """Stores the report of `engine`: the versions in `state.resident`, and whether the engine is READY. The report
        expires after `seconds`.
        """
        is_up = "1" if state.status is EngineStatus.READY else ""
        arguments = [engine, " ".join(sorted(state.resident)), _milliseconds(seconds), is_up]
        await self._redis.call(lambda: self._report(keys=self._keys, args=arguments))

    async def read_fleet(self) -> FleetState:
        """Returns the engines with a report that has not expired and says that they are READY, and the versions that
        each holds.
        """
        reports = list(await self._redis.call(lambda: self._read_fleet(keys=self._keys)))
        pairs = zip(reports[::2], reports[1::2], strict=True)
        return FleetState({engine: frozenset(held.split()) for engine, held in pairs})

    async def engines_holding(self, version: str) -> list[str]:
        """Returns the sorted names of the engines whose report lists the version and has not expired.

        Engines that are not READY are included.
        """
        return list(await self._redis.call(lambda: self._engines_holding(keys=self._keys, args=[version])))


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


class CanaryCounters:
    """Counts the outcomes of requests to aliases with a canary, in Redis.

    Methods raise Unavailable if Redis does not answer.
    """

    def __init__(self, redis: BoundedRedis, keys: RedisKeys) -> None:
        self._redis = redis
        self._keys = keys
        self._add = redis.client.register_script(schema.change_script("add_outcomes"))

    async def add_outcomes(self, outcomes: Sequence[CanaryReport]) -> None:
        """Adds request outcomes that gateways report to the counts of their aliases. Counts are deleted 7 days after
        the last addition.

        An outcome is ignored if it belongs to another revision of the alias than the current one, or to a version that
        is neither the alias's stable version nor its canary.
        """
        if not outcomes:
            return
        counts_keys = [self._keys.counts(each.alias, each.revision) for each in outcomes]
        call_id = secrets.token_hex(8)
        keys = [*self._keys.of_change(call_id), *counts_keys]
        payload = json.dumps(
            [
                {
                    "alias": each.alias,
                    "revision": each.revision,
                    "version": each.version,
                    "counts": _to_counters(each.counts),
                }
                for each in outcomes
            ]
        )
        await self._redis.call(lambda: self._add(keys=keys, args=[call_id, "", "", payload]))

    async def canary_counts(self, alias: Alias) -> Mapping[str, RequestCounts]:
        """Returns version -> request counts for the current revision of the alias; empty if nothing was counted.

        Values in Redis that are not counts are logged and left out.
        """
        hash_key = self._keys.counts(alias.alias, alias.revision)
        raw: Mapping[str, str] = await self._redis.call(lambda: self._redis.client.hgetall(hash_key))
        counters: dict[str, dict[str, int]] = defaultdict(dict)
        for key, number in raw.items():
            version, _, counter = key.partition(" ")
            if number.isdecimal():
                counters[version][counter] = int(number)
            else:
                log.error("field %.200r of %s in Redis is no count, and is left out: %.100r", key, hash_key, number)
        return {version: _from_counters(each) for version, each in counters.items()}


def _to_counters(counts: RequestCounts) -> dict[str, int]:
    """Returns counter name -> value, without zeros. The name of a latency bucket is its number."""
    named = {name: getattr(counts, name) for name in ("requests", "errors", "invalid", "rated", "rating")}
    counters = named | {str(bucket): number for bucket, number in counts.milliseconds.items()}
    return {name: number for name, number in counters.items() if number}


def _from_counters(counters: Mapping[str, int]) -> RequestCounts:
    return RequestCounts(
        requests=counters.get("requests", 0),
        errors=counters.get("errors", 0),
        invalid=counters.get("invalid", 0),
        rated=counters.get("rated", 0),
        rating=counters.get("rating", 0),
        milliseconds={int(name): number for name, number in sorted(counters.items()) if name.isdecimal()},
    )
