"""Counts the results of requests to aliases with a canary, summed over all gateways."""

import json
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pointsman_servicekit.bounded_redis import BoundedRedis

from pointsman_lora_server.domain import Alias
from pointsman_lora_server.registry import scripts
from pointsman_lora_server.registry.schema import RedisKeys


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """Requests to one version. `invalid` answers were rejected by a validator; errors have no latency."""

    requests: int = 0
    errors: int = 0
    invalid: int = 0
    milliseconds: Mapping[int, int] = field(default_factory=dict)
    """Latencies of whole answers: bucket k counts those of 2^((k-1)/4) to 2^(k/4) ms, bucket 0 those up to 1 ms. See
    `CANARY_LATENCY_BUCKETS` in pointsman_servicekit.statistics."""


@dataclass(frozen=True, slots=True)
class CanaryOutcomes:
    """What one gateway counted since its last report. `revision` is the alias's revision when the requests were
    sent."""

    alias: str
    revision: int
    version: str
    counts: RequestCounts


class CanaryCounters:
    def __init__(self, redis: BoundedRedis, keys: RedisKeys) -> None:
        self._redis = redis
        self._keys = keys
        self._add = redis.client.register_script(scripts.ADD_OUTCOMES)

    async def add_outcomes(self, outcomes: Sequence[CanaryOutcomes]) -> None:
        """Adds the counts. Those of an earlier revision, or of a version that the alias does not point to, are dropped.

        Raises Unavailable.
        """
        if not outcomes:
            return
        counts_keys = [self._keys.counts(each.alias, each.revision) for each in outcomes]
        keys = [self._keys.aliases, self._keys.done(secrets.token_hex(8)), *counts_keys]
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
        await self._redis.call(lambda: self._add(keys=keys, args=[payload]))

    async def canary_counts(self, alias: Alias) -> Mapping[str, RequestCounts]:
        """The counts by version, for this revision of the alias. Raises Unavailable."""
        hash_key = self._keys.counts(alias.alias, alias.revision)
        raw: Mapping[str, str] = await self._redis.call(lambda: self._redis.client.hgetall(hash_key))
        counters: dict[str, dict[str, int]] = defaultdict(dict)
        for key, number in raw.items():
            version, _, counter = key.partition(" ")
            counters[version][counter] = int(number)
        return {version: _from_counters(each) for version, each in counters.items()}


def _to_counters(counts: RequestCounts) -> dict[str, int]:
    """The counters that are not 0. A latency bucket is named by its number."""
    named = {"requests": counts.requests, "errors": counts.errors, "invalid": counts.invalid}
    counters = named | {str(bucket): number for bucket, number in counts.milliseconds.items()}
    return {name: number for name, number in counters.items() if number}


def _from_counters(counters: Mapping[str, int]) -> RequestCounts:
    return RequestCounts(
        requests=counters.get("requests", 0),
        errors=counters.get("errors", 0),
        invalid=counters.get("invalid", 0),
        milliseconds={int(name): number for name, number in sorted(counters.items()) if name.isdecimal()},
    )
