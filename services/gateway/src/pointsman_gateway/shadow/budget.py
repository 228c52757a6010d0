"""What shadows may still cost today: dollars a task and UTC day, over all gateways."""

import time
from collections import deque
from dataclasses import replace
from functools import partial
from typing import Protocol

import msgspec
from pointsman_servicekit.bounded_redis import BoundedRedis

from pointsman_gateway.redaction import NotRedacted, Redaction
from pointsman_gateway.request_log.redis_schema import SECONDS_PER_DAY, today
from pointsman_gateway.shadow.scoring import Pair, Side

PICO_PER_DOLLAR = 10**12
"""Dollars are counted in whole numbers, which add up to the same in any order."""

SETTLE_INTERVAL_S = 1.0
"""Seconds between two looks at what all gateways have spent."""

MAX_AGE_S = 10.0
"""Seconds after which what was last heard of the others is too old to spend by."""

SpentByTask = dict[str, int]
"""Trillionths of a dollar by task."""


class BudgetStore(Protocol):
    """Adds up what all gateways spend."""

    async def add(self, day: str, more: SpentByTask) -> SpentByTask:
        """What has been spent on that day, `more` included. Raises Unavailable; `more` may then count twice."""
        ...


class DailyBudget:
    """Overspends a day's limit by at most what each gateway spends in `PERIOD`, and what is under way then.

    While the till is away nothing is spent. Without one the gateway stands alone, and counts for itself.
    """

    def __init__(self, till: BudgetStore | None) -> None:
        self._till = till
        self._day = today()
        self._told: SpentByTask = {}
        self._untold: SpentByTask = {}
        self._heard = float("-inf")

    def why_not(self, task: str, limit_usd: float) -> str:
        """Why nothing may be spent: "unsettled" (it is not known what the others did), "spent"; empty where it may."""
        self._turn_the_page()
        if self._till is not None and time.monotonic() - self._heard > MAX_AGE_S:
            return "unsettled"
        spent = self._told.get(task, 0) + self._untold.get(task, 0)
        return "spent" if spent >= limit_usd * PICO_PER_DOLLAR else ""

    def spend(self, task: str, usd: float) -> None:
        self._turn_the_page()
        self._untold[task] = self._untold.get(task, 0) + round(usd * PICO_PER_DOLLAR)

    async def settle(self) -> None:
        """Tells what was spent here, and hears what was spent elsewhere. Raises Unavailable."""
        self._turn_the_page()
        if self._till is None:
            return
        day, telling, self._untold = self._day, self._untold, {}
        try:
            told = await self._till.add(day, telling)
        except BaseException:
            if day == self._day:
                for task, amount in telling.items():
                    self._untold[task] = self._untold.get(task, 0) + amount
            raise
        if day == self._day:
            self._told, self._heard = told, time.monotonic()

    def _turn_the_page(self) -> None:
        if self._day != today():
            self._day, self._told, self._untold = today(), {}, {}


PAIR = "{pointsman}:shadow:pair:"
"""With a decision's id behind it: a pair, JSON."""
SPENT = "{pointsman}:shadow:spent:"
"""With a day behind it: a hash of trillionths of a dollar by task."""
PAIR_TTL_S = 14 * SECONDS_PER_DAY
MAX_CHARACTERS = 32 * 1024
"""Characters of both answers; longer ones are not kept."""
MAX_WAITING_PAIRS = 256
"""Pairs that are not written yet; the oldest go."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Pair).decode


class ShadowStore:
    """Implements the purse's `Till` and the scoring's `Keeps`."""

    def __init__(self, redis: BoundedRedis, redaction: Redaction) -> None:
        self._redis = redis
        self._redaction = redaction
        self._waiting: deque[Pair] = deque(maxlen=MAX_WAITING_PAIRS)

    def keep(self, pair: Pair) -> None:
        if len(pair.chosen.text) + len(pair.other.text) <= MAX_CHARACTERS:
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
            set_it = partial(self._redis.client.set, PAIR + kept.decision_id, _encode(kept), ex=PAIR_TTL_S)
            await self._redis.call(set_it)
            if self._waiting and self._waiting[0] is pair:
                self._waiting.popleft()

    async def pair(self, decision_id: str) -> Pair | None:
        """Hands it out, to nobody else any more. Raises Unavailable; it may then be gone."""
        found = await self._redis.call(lambda: self._redis.client.getdel(PAIR + decision_id))
        return _decode(found) if found else None

    async def add(self, day: str, more: SpentByTask) -> SpentByTask:
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
