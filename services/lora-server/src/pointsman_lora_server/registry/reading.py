"""The whole desired state at one moment, read again only as far as it has changed."""

from collections.abc import Mapping

from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import Unavailable

from pointsman_lora_server.domain import AdapterVersion, DesiredState
from pointsman_lora_server.registry import records, scripts
from pointsman_lora_server.registry.layout import Layout

AT_ONCE = 100
"""Records in one answer: about 100 kB, so that no call comes near its deadline on a busy machine."""

_TRIES = 5


class Reading:
    def __init__(self, redis: BoundedRedis, layout: Layout) -> None:
        self._redis = redis
        self._layout = layout
        self._run = redis.client.register_script(scripts.READ)
        self._seen = "", DesiredState()
        self._records: Mapping[str, tuple[str, AdapterVersion]] = {}

    async def read(self) -> DesiredState:
        """Where nothing has changed since, what was read before: then it is cheap. Raises Unavailable."""
        for _ in range(_TRIES):
            state = await self._try()
            if state is not None:
                return state
        raise Unavailable("versions are deleted faster than they are read", code="redis_unavailable", retry_after=1.0)

    async def _try(self) -> DesiredState | None:
        """None where a version was deleted between two calls."""
        at = self._layout
        keys = [at.standings, at.aliases, at.pins, at.placements, at.coming, at.stamp]
        stamp, seen = self._seen
        now, *found = await self._redis.call(lambda: self._run(keys=keys, args=[stamp]))
        if not found:
            return seen
        raw_standings, raw_aliases, pins, raw_placements, raw_coming = found
        standings, made = records.standings_from_json(raw_standings)
        known = await self._complete(made)
        if known is None:
            return None
        versions = {name: version for name, (_, version) in known.items()}
        state = DesiredState(
            versions,
            standings,
            records.aliases_from_json(raw_aliases),
            frozenset(pins),
            records.placements_from_pairs(raw_placements),
            records.coming_from_pairs(raw_coming),
        )
        self._seen, self._records = (now, state), known
        return state

    async def _complete(self, made: Mapping[str, str]) -> dict[str, tuple[str, AdapterVersion]] | None:
        """Of the versions in `made`: a record is read once, as long as its version is not deleted and made anew."""
        known = {name: self._records[name] for name in made if self._records.get(name, ("",))[0] == made[name]}
        missing = [name for name in made if name not in known]
        for start in range(0, len(missing), AT_ONCE):
            names = missing[start : start + AT_ONCE]
            for name, raw in zip(names, await self._fetch(names), strict=True):
                if raw is None:
                    return None
                known[name] = (made[name], records.version_from_json(raw))
        return known

    async def _fetch(self, names: list[str]) -> list[str | None]:
        found: list[str | None] = await self._redis.call(lambda: self._redis.client.hmget(self._layout.versions, names))
        return found
