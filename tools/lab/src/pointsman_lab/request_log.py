"""Read the request log page by page: decisions, feedback, and the evidence about each path."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

from pointsman_gateway.domain import AUTO, UNKNOWN, Labels, Message, Path, Request, Sampling
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.entry import VERSION
from pointsman_gateway.request_log.evidence import Counts, EvidenceStore, from_fields
from pointsman_gateway.request_log.redis_schema import last_days
from pointsman_servicekit.errors import InvalidArgument, Unavailable
from pointsman_servicekit.keys import layout
from pointsman_servicekit.keys.records import TenantRecord
from redis.asyncio import Redis
from redis.exceptions import RedisError

from pointsman_lab.recorded import Recorded

PAGE_SIZE = 100
"""Entries per read; each contains at most 64 KiB of text."""
REDIS_TIMEOUT_SECONDS = 5.0
"""Seconds to wait for each Redis reply. Generous, because this is offline, but bounded, so that a dead server is
reported."""

_AGE = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}

Answer = TypeVar("Answer")


def seconds_of(age: str) -> int:
    """Parse a duration such as "24h" to seconds (86400). Raises InvalidArgument."""
    written = _AGE.fullmatch(age.strip())
    if written is None:
        raise InvalidArgument(f"'{age}' is no age; write 30m, 24h or 7d", code="bad_age")
    return int(written[1]) * _SECONDS[written[2]]


@dataclass(frozen=True, slots=True)
class TaskCorrection:
    """Feedback that a decision should have been another task."""

    recorded: Recorded
    right_task: str


class History:
    """A reader of the request log. Each method raises Unavailable ("redis_unavailable") if Redis does not reply."""

    def __init__(self, redis: Redis, url: str) -> None:
        """Use `redis`, which must decode replies to text."""
        self._redis: Any = redis  # redis-py's types state neither which replies are decoded nor which are awaitable
        self._url = url

    async def count(self, seconds: float) -> int:
        """Estimate the number of decisions in the last `seconds`, assuming a uniform rate."""
        total = int(await self._ask(self._redis.xlen(redis_schema.DECISIONS)))
        ends = [
            await self._ask(read(redis_schema.DECISIONS, count=1))
            for read in (self._redis.xrange, self._redis.xrevrange)
        ]
        if not total or not all(ends):
            return 0
        first, last = (_unix_ms(entry[0][0]) for entry in ends)
        begin = await self._begin(seconds)
        if begin <= first:
            return total
        return max(0, round(total * (last - begin) / max(last - first, 1)))

    async def decisions(self, seconds: float) -> AsyncIterator[Recorded]:
        """Yield the decisions of the last `seconds`, oldest first, without those that arrive during the call."""
        async for _, fields in self.entries(redis_schema.DECISIONS, seconds):
            recorded = to_recorded(fields["entry"])
            if recorded is not None:
                yield recorded

    async def other_tasks(self, seconds: float) -> AsyncIterator[TaskCorrection]:
        """Yield the feedback of the last `seconds` that names another task than the decision's."""
        async for _, fields in self.entries(redis_schema.FEEDBACK, seconds):
            recorded = to_recorded(fields["entry"]) if fields["right_task"] else None
            if recorded is not None and fields["right_task"] != recorded.labels.task:
                yield TaskCorrection(recorded, fields["right_task"])

    async def evidence(self, days: list[str]) -> dict[str, Counts]:
        return {day: from_fields(await self._ask(self._redis.hgetall(redis_schema.EVIDENCE + day))) for day in days}

    async def tenants(self) -> dict[str, TenantRecord]:
        """Return all tenants. Raises FailedPrecondition if a record cannot be parsed."""
        read = await self._ask(self._redis.hgetall(layout.TENANTS))
        return {name: TenantRecord.from_json(text) for name, text in read.items()}

    async def forget(self, stream: str, places: Sequence[str]) -> None:
        """Delete entries permanently."""
        for start in range(0, len(places), PAGE_SIZE):
            await self._ask(self._redis.xdel(stream, *places[start : start + PAGE_SIZE]))

    async def entries(self, stream: str, seconds: float = inf) -> AsyncIterator[tuple[str, dict[str, str]]]:
        """Yield entry ids and fields, oldest first, without entries that arrive during the call."""
        newest = await self._ask(self._redis.xrevrange(stream, count=1))
        if not newest:
            return
        last, place = newest[0][0], str(await self._begin(seconds))
        while page := await self._ask(self._redis.xrange(stream, place, last, count=PAGE_SIZE)):
            for entry in page:
                yield entry
            place = f"({page[-1][0]}"

    async def _begin(self, seconds: float) -> int:
        """Return the first entry id of the window. Entry ids use Redis's clock."""
        if seconds == inf:
            return 0
        now, _ = await self._ask(self._redis.time())
        return max(0, int((now - seconds) * 1000))

    async def _ask(self, answer: Awaitable[Answer]) -> Answer:
        try:
            return await answer
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis at {self._url} does not answer: {error}", code="redis_unavailable") from error


@asynccontextmanager
async def open_history(url: str) -> AsyncIterator[History]:
    try:
        client = Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        )
    except ValueError as error:
        raise InvalidArgument(f"'{url}' is no address of Redis: {error}", code="bad_redis_url") from error
    async with client:
        yield History(client, _without_password(url))


def _without_password(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//", url)


def _unix_ms(place: str) -> int:
    return int(place.partition("-")[0])


def to_recorded(entry: str) -> Recorded | None:
    """Parse an entry. Return None for an entry of another format version."""
    body = json.loads(entry)
    if body["v"] != VERSION:
        return None
    answered = body["outcome"] == "ok"
    first = _preferred_path(body)
    return Recorded(
        id=body["id"],
        request=_request(body),
        labels=_labels(body),
        path=first,
        fingerprint=body["fingerprint"] if first == body["path"] else "",
        generation=body["generation"],
        user_digest=body["user_digest"],
        expected_cost_usd=body["expected_cost_usd"],
        answered_by=(body["escalated_from"] or body["path"]) if answered else "",
        cost_usd=body["cost_usd"] if answered else 0.0,
    )


def _preferred_path(body: dict[str, Any]) -> str:
    """Return the path that the policy wanted: if it was unavailable, failed or rejected, it is the first of the other
    paths in the list."""
    went_elsewhere = body["reason"] in ("availability", "fallback") or body["reason"].startswith("escalated:")
    return str(body["considered"][0]["path"] if went_elsewhere and body["considered"] else body["path"])


def _request(body: dict[str, Any]) -> Request:
    kept = body["messages"] or [{"role": "user", "content": ""}]
    messages = tuple(
        Message(
            message["role"],
            message["content"],
            {key: value for key, value in message.items() if key not in ("role", "content")},
        )
        for message in kept
    )
    asked_for = {"response_format": {"type": body["response_format"]}} if body["response_format"] else {}
    return Request(
        body["requested"], messages, Sampling(extra=asked_for), metadata=body["metadata"], user=body["user"] or ""
    )


def _labels(body: dict[str, Any]) -> Labels:
    return Labels(
        task=body["task"],
        confidence=body["confidence"],
        probabilities=tuple((task, probability) for task, probability in body["probabilities"]),
        abstained=body["task"] == UNKNOWN and body["requested"] == AUTO,
        stage=body["stage"],
        margin=body["margin"],
        familiarity=body["familiarity"],
        notes=tuple(body["notes"]),
    )


async def read_evidence(history: History, window: int) -> EvidenceStore:
    """Read the evidence of the last `window` days. An adapter alias stands for its most recent version."""
    board, latest = EvidenceStore(window), _LatestVersion()
    for day, counts in (await history.evidence(last_days(window)[::-1])).items():
        board.read(day, counts)
        latest.versions |= {(cell.path, cell.fingerprint): cell.version for cell in counts}
    board.versions = latest.of
    return board


class _LatestVersion:
    def __init__(self) -> None:
        self.versions: dict[tuple[str, str], str] = {}

    def of(self, path: Path) -> str:
        return self.versions.get((path.name, path.fingerprint), "")
