"""Pairs that wait for the right answer, and what was spent today: in Redis."""

from collections import deque
from dataclasses import replace
from functools import partial

import msgspec
from pointsman_servicekit.bounded_redis import BoundedRedis

from pointsman_gateway.redaction import NotRedacted, Redaction
from pointsman_gateway.request_log.redis_schema import SECONDS_PER_DAY
from pointsman_gateway.shadow.pairs import Pair, Side
from pointsman_gateway.shadow.purse import Spent

PAIR = "{pointsman}:shadow:pair:"
"""With a decision's id behind it: a pair, JSON."""
SPENT = "{pointsman}:shadow:spent:"
"""With a day behind it: a hash of trillionths of a dollar by task."""
KEPT_SECONDS = 14 * SECONDS_PER_DAY
LONGEST_TEXT = 32 * 1024
"""Characters of both answers; longer ones are not kept."""
MOST_WAITING = 256
"""Pairs that are not written yet; the oldest go."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Pair).decode


class ShadowStore:
    """Implements the purse's `Till` and the scoring's `Keeps`."""

    def __init__(self, redis: BoundedRedis, redaction: Redaction) -> None:
        self._redis = redis
        self._redaction = redaction
        self._waiting: deque[Pair] = deque(maxlen=MOST_WAITING)

    def keep(self, pair: Pair) -> None:
        if len(pair.chosen.text) + len(pair.other.text) <= LONGEST_TEXT:
            self._waiting.append(pair)

    async def write(self) -> None:
        """Writes the pairs that wait. Raises Unavailable; they then wait on."""
        while self._waiting:
            pair = self._waiting[0]
            try:
                kept = self._redacted(pair)
            except NotRedacted:
                self._waiting.popleft()
                continue
            set_it = partial(self._redis.client.set, PAIR + kept.decision_id, _encode(kept), ex=KEPT_SECONDS)
            await self._redis.call(set_it)
            if self._waiting and self._waiting[0] is pair:
                self._waiting.popleft()

    async def pair(self, decision_id: str) -> Pair | None:
        """Hands it out, to nobody else any more. Raises Unavailable; it may then be gone."""
        found = await self._redis.call(lambda: self._redis.client.getdel(PAIR + decision_id))
        return _decode(found) if found else None

    async def add(self, day: str, more: Spent) -> Spent:
        async def added() -> dict[str, str]:
            async with self._redis.client.pipeline(transaction=True) as pipe:
                for task, amount in more.items():
                    pipe.hincrby(SPENT + day, task, amount)
                pipe.expire(SPENT + day, 2 * SECONDS_PER_DAY)
                pipe.hgetall(SPENT + day)
                return dict((await pipe.execute())[-1])

        return {task: int(amount) for task, amount in (await self._redis.call(added)).items()}

    def _redacted(self, pair: Pair) -> Pair:
        """Raises NotRedacted."""
        return replace(pair, chosen=self._side(pair.chosen), other=self._side(pair.other))

    def _side(self, side: Side) -> Side:
        return replace(side, text=self._redaction.text(side.text))
