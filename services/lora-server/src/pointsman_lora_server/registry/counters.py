"""Counts of what came of requests to aliases with a canary, added up over all gateways."""

import json
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence

from pointsman_servicekit.bounded_redis import BoundedRedis

from pointsman_lora_server.domain import Alias
from pointsman_lora_server.registry import scripts
from pointsman_lora_server.registry.layout import Layout
from pointsman_lora_server.registry.outcomes import Counts, Outcomes


class CanaryCounters:
    def __init__(self, redis: BoundedRedis, layout: Layout) -> None:
        self._redis = redis
        self._layout = layout
        self._count = redis.client.register_script(scripts.COUNT)

    async def count(self, outcomes: Sequence[Outcomes]) -> None:
        """Adds them; those of a revision that is past, or of a version that its alias does not aim at, are dropped.

        Raises Unavailable.
        """
        if not outcomes:
            return
        counts = [self._layout.counts(each.alias, each.revision) for each in outcomes]
        keys = [self._layout.aliases, self._layout.done(secrets.token_hex(8)), *counts]
        said = json.dumps(
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
        await self._redis.call(lambda: self._count(keys=keys, args=[said]))

    async def counts(self, alias: Alias) -> Mapping[str, Counts]:
        """By version, of this revision of the alias. Raises Unavailable."""
        key = self._layout.counts(alias.alias, alias.revision)
        raw: Mapping[str, str] = await self._redis.call(lambda: self._redis.client.hgetall(key))
        counters: dict[str, dict[str, int]] = defaultdict(dict)
        for field, number in raw.items():
            version, _, counter = field.partition(" ")
            counters[version][counter] = int(number)
        return {version: _from_counters(each) for version, each in counters.items()}


def _to_counters(counts: Counts) -> dict[str, int]:
    """Those that are not 0; a time's bucket is named by its number."""
    named = {"requests": counts.requests, "errors": counts.errors, "invalid": counts.invalid}
    counters = named | {str(bucket): number for bucket, number in counts.milliseconds.items()}
    return {name: number for name, number in counters.items() if number}


def _from_counters(counters: Mapping[str, int]) -> Counts:
    return Counts(
        requests=counters.get("requests", 0),
        errors=counters.get("errors", 0),
        invalid=counters.get("invalid", 0),
        milliseconds={int(name): number for name, number in sorted(counters.items()) if name.isdecimal()},
    )
