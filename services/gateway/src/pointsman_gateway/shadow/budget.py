"""Limits the cost of shadow requests per day over all gateways, and stores their cost, their answers and the answers'
scores in Redis.
"""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

import msgspec
from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.redaction import NotRedacted, Redaction
from pointsman_gateway.request_log.export_log import NO_EXPORT, SCORES, ExportSink
from pointsman_gateway.request_log.exported_records import score_records
from pointsman_gateway.request_log.redis_schema import PAIR_SCORES, SECONDS_PER_DAY, today
from pointsman_gateway.shadow.pair import Pair, PairScores, Side

log = logging.getLogger(__name__)

PICO_PER_DOLLAR = 10**12
"""Picodollars in a dollar. Costs are counted in whole picodollars, which give the same sum in any order."""

SETTLE_INTERVAL_SECONDS = 1.0
"""Seconds between two calls of `DailyBudget.settle`."""

MAX_AGE_SECONDS = 10.0
"""Seconds after the last successful `DailyBudget.settle` for which shadow requests may still start."""

SpentByTask = dict[str, int]
"""Picodollars by the name of a task. The cost of a task's judge is counted under a name of its own
(`judge.budget_name`)."""

PAIR = "{pointsman}:shadow:pair:"
"""Prefix of a Redis key; a decision's id follows. The value is a pair of answers as JSON, until a right answer scores
it."""
JUDGED = "{pointsman}:shadow:judged:"
"""Prefix of a Redis key; a decision's id follows. The value is a pair of answers, as JSON, that a language model has
scored, until it is compared with feedback."""
SPENT = "{pointsman}:shadow:spent:"
"""Prefix of a Redis key; a UTC day (YYYYMMDD) follows. The value is a hash with picodollars by task."""
PAIR_TTL_SECONDS = 14 * SECONDS_PER_DAY
MAX_CHARACTERS = 32 * 1024
"""Maximum number of characters of the two answers of a pair together; a longer pair is not stored."""
MAX_WAITING_PAIRS = 256
"""Maximum number of pairs that wait to be written to Redis, and of pairs' scores; further ones replace the oldest."""
MAX_PAIR_SCORES = 20_000
"""Maximum number of pairs' scores in Redis; the oldest are deleted."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Pair).decode


class BudgetStore(Protocol):
    """Interface of the store in which gateways sum the cost of their shadow requests; `ShadowStore` implements it."""

    async def add(self, day: str, more: SpentByTask) -> SpentByTask:
        """Adds picodollars by task to the sums of a UTC day (YYYYMMDD); returns the day's sums of all gateways by task.

        `more` is what this gateway has spent since the last call; the returned sums include it. Raises Unavailable if
        the store fails; the store may have added `more` or not in this case.
        """
        ...


class DailyBudget:
    """Limits the dollars spent on shadow requests per task and UTC day, over all gateways that share a store.

    `settle` must be called every `SETTLE_INTERVAL_SECONDS`: it exchanges the sums with the store. The limit can be
    exceeded by the spending of gateways between two calls, and by requests in progress. Nothing may be spent if the
    last successful call was more than `MAX_AGE_SECONDS` ago. If the store is None, the gateway counts only its own
    spending.
    """

    def __init__(self, store: BudgetStore | None) -> None:
        self._store = store
        self._day = today()
        self._reported: SpentByTask = {}
        """The sums of all gateways after the last `settle`."""
        self._unreported: SpentByTask = {}
        self._settled_at = float("-inf")

    def denial_reason(self, task: str, limit_usd: float) -> str:
        """Returns why the task may spend nothing more today; empty if it may.

        The reason is "spent" if `limit_usd` (dollars per UTC day) is reached, or "unsettled" if the spending of other
        gateways is unknown.
        """
        self._start_new_day()
        if self._store is not None and time.monotonic() - self._settled_at > MAX_AGE_SECONDS:
            return "unsettled"
        spent = self._reported.get(task, 0) + self._unreported.get(task, 0)
        return "spent" if spent >= limit_usd * PICO_PER_DOLLAR else ""

    def spend(self, task: str, usd: float) -> None:
        self._start_new_day()
        self._unreported[task] = self._unreported.get(task, 0) + round(usd * PICO_PER_DOLLAR)

    async def settle(self) -> None:
        """Adds this gateway's spending since the last call to the sums in the store, and reads the sums of all
        gateways. Does nothing without a store.

        Raises Unavailable if the store fails; then the next call on the same UTC day adds the amounts again.
        """
        self._start_new_day()
        if self._store is None:
            return
        day, reporting, self._unreported = self._day, self._unreported, {}
        try:
            total = await self._store.add(day, reporting)
        except BaseException:
            if day == self._day:
                for task, amount in reporting.items():
                    self._unreported[task] = self._unreported.get(task, 0) + amount
            raise
        if day == self._day:
            self._reported, self._settled_at = total, time.monotonic()

    def _start_new_day(self) -> None:
        if self._day != today():
            self._day, self._reported, self._unreported = today(), {}, {}


class ShadowStore:
    """Stores in Redis the cost of shadow requests, pairs of answers (the caller's and the shadow request's), and the
    scores of both answers.

    Pairs and scores wait in memory until `write`, which must be called regularly. Implements `BudgetStore`, `PairStore`
    and `PairSource`.
    """

    def __init__(self, redis: BoundedRedis, redaction: Redaction, export: ExportSink = NO_EXPORT) -> None:
        self._redis = redis
        self._export = export
        self._redaction = redaction
        self._waiting: deque[Pair] = deque(maxlen=MAX_WAITING_PAIRS)
        self._scores: deque[PairScores] = deque(maxlen=MAX_WAITING_PAIRS)

    def keep(self, pair: Pair) -> None:
        if len(pair.chosen.text) + len(pair.other.text) <= MAX_CHARACTERS:
            self._waiting.append(pair)

    def keep_scores(self, scores: PairScores) -> None:
        self._scores.append(scores)
        self._export.append(SCORES, score_records(scores.decision_id, scores.scores))

    async def write(self, on_written: Callable[[str], Awaitable[None]]) -> None:
        """Writes all waiting scores and pairs of answers to Redis, and awaits `on_written` with the decision id of each
        written pair.

        Texts are redacted first; a pair whose redaction fails is dropped. Raises Unavailable if Redis fails; unwritten
        scores and pairs keep waiting.
        """
        await self._write_scores()
        while self._waiting:
            pair = self._waiting[0]
            try:
                redacted = self._redact(pair)
            except NotRedacted:
                self._waiting.popleft()
                continue
            key = (PAIR if redacted.judged is None else JUDGED) + redacted.decision_id
            await self._redis.call(partial(self._redis.client.set, key, _encode(redacted), ex=PAIR_TTL_SECONDS))
            if self._waiting and self._waiting[0] is pair:
                self._waiting.popleft()
            await on_written(redacted.decision_id)

    async def _write_scores(self) -> None:
        """Writes the waiting scores; raises Unavailable if Redis fails.

        Scores may be written twice if Redis does not answer in time; readers use the last ones of each decision.
        """
        add = partial(self._redis.client.xadd, PAIR_SCORES, maxlen=MAX_PAIR_SCORES)
        while self._scores:
            scores = self._scores[0]
            fields = {"decision": scores.decision_id, "scores": _encode(scores.scores)}
            await self._redis.call(partial(add, fields))
            if self._scores and self._scores[0] is scores:
                self._scores.popleft()

    async def pair(self, decision_id: str) -> Pair | None:
        """Removes and returns the decision's pair of answers that waits for a right answer.

        Returns None if there is no such pair, or if it cannot be read. Raises Unavailable if Redis fails; the pair may
        be lost then.
        """
        return await self._take(PAIR + decision_id)

    async def judged(self, decision_id: str) -> Pair | None:
        """Removes and returns the decision's pair of answers that a language model has scored.

        Returns None if there is no such pair, or if it cannot be read. Raises Unavailable if Redis fails; the pair may
        be lost then.
        """
        return await self._take(JUDGED + decision_id)

    async def _take(self, key: str) -> Pair | None:
        found = await self._redis.call(lambda: self._redis.client.getdel(key))
        try:
            return _decode(found) if found else None
        except (msgspec.MsgspecError, RecursionError) as error:
            log.error("the pair at %s in Redis is dropped, since it cannot be read: %s", key, error)
            return None

    async def add(self, day: str, more: SpentByTask) -> SpentByTask:
        async def add_all() -> dict[str, str]:
            async with self._redis.client.pipeline(transaction=True) as pipe:
                for task, amount in more.items():
                    pipe.hincrby(SPENT + day, task, amount)
                pipe.expire(SPENT + day, 2 * SECONDS_PER_DAY)
                pipe.hgetall(SPENT + day)
                return dict((await pipe.execute())[-1])

        amounts = await self._redis.call(add_all)
        try:
            return {task: int(amount) for task, amount in amounts.items()}
        except ValueError as error:
            # Nothing is spent while the total is unknown.
            raise Unavailable(
                f"the spending at {SPENT + day} in Redis cannot be read: {error}", code="unreadable_record"
            ) from error

    def _redact(self, pair: Pair) -> Pair:
        """Returns the pair with both texts redacted; raises NotRedacted if that fails."""
        return replace(pair, chosen=self._redact_side(pair.chosen), other=self._redact_side(pair.other))

    def _redact_side(self, side: Side) -> Side:
        return replace(side, text=self._redaction.text(side.text))
