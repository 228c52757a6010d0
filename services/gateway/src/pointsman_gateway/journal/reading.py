"""The journal, read back: the newest decisions, and one of them with what was said of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import NotFound
from pointsman_servicekit.prompt_redis import PromptRedis

from pointsman_gateway.journal import keys


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry of the journal."""

    place: str
    """In the stream; of two the later one is the greater, once split at "-" and read as numbers."""
    json: str
    """docs/routing.md says what is in it."""


@dataclass(frozen=True, slots=True)
class KeptDecision:
    """One decision, with what people said of it."""

    entry: Mapping[str, Any]
    said: Mapping[str, str]
    """`rating`, `correction`, `right_task`, `right_answer`, those that were said."""


class JournalReader:
    """Each method raises Unavailable ("redis_unavailable") where Redis does not answer in time."""

    def __init__(self, redis: PromptRedis) -> None:
        """`redis` should be another one than the journal's own: a long read must not count as an outage there."""
        self._redis = redis

    async def before(self, place: str, after: str, count: int) -> Sequence[Kept]:
        """At most `count` entries between two places, both excluded, newest first; empty places: no bound."""
        highest, lowest = f"({place}" if place else "+", f"({after}" if after else "-"
        read = await self._redis.call(
            lambda: self._redis.client.xrevrange(keys.DECISIONS, highest, lowest, count=count)
        )
        return [Kept(at, fields["entry"]) for at, fields in read]

    async def find(self, decision_id: str) -> KeptDecision:
        """Raises NotFound ("unknown_decision")."""
        said = await self._at(keys.FEEDBACK, keys.FEEDBACK_INDEX, decision_id)
        kept = said or await self._at(keys.DECISIONS, keys.INDEX, decision_id)
        if kept is None:
            message = f"no decision '{decision_id[:128]}' is in the journal, or no longer"
            raise NotFound(message, code="unknown_decision", param="decision_id")
        things = ("rating", "correction", "right_task", "right_answer")
        return KeptDecision(json.loads(kept["entry"]), {t: kept[t] for t in things if kept.get(t)})

    async def _at(self, stream: str, index: str, decision_id: str) -> Mapping[str, str] | None:
        place = await self._redis.call(lambda: self._redis.client.hget(index, decision_id))
        if not place:
            return None
        found = await self._redis.call(lambda: self._redis.client.xrange(stream, place, place))
        return found[0][1] if found else None
