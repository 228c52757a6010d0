"""Reads the journal back, page by page: decisions, what was said of them, and the evidence of each path."""

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
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.records import TenantRecord
from redis.asyncio import Redis
from redis.exceptions import RedisError

from pointsman_lab.recorded import Recorded

PAGE = 100
"""Entries read at once; each has 64 KiB of text at most."""
PATIENCE = 5.0
"""Seconds for each answer of Redis: nobody waits here, but a dead one must be told."""

_AGE = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60}

Answer = TypeVar("Answer")


def seconds_of(age: str) -> int:
    """ "24h" -> 86400. Raises InvalidArgument."""
    written = _AGE.fullmatch(age.strip())
    if written is None:
        raise InvalidArgument(f"'{age}' is no age; write 30m, 24h or 7d", code="bad_age")
    return int(written[1]) * _SECONDS[written[2]]


@dataclass(frozen=True, slots=True)
class Said:
    """That a decision should have been another task."""

    recorded: Recorded
    right_task: str


class History:
    """Each method raises Unavailable ("redis_unavailable") where Redis does not answer."""

    def __init__(self, redis: Redis, url: str) -> None:
        """`redis` must decode answers."""
        self._redis: Any = redis  # its types say neither what is decoded nor what is awaited
        self._url = url

    async def count(self, seconds: float) -> int:
        """About how many decisions there are of the last `seconds`: as if they had come evenly."""
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
        """Those of the last `seconds`, oldest first; none that comes while they are read."""
        async for _, fields in self.entries(redis_schema.DECISIONS, seconds):
            recorded = to_recorded(fields["entry"])
            if recorded is not None:
                yield recorded

    async def other_tasks(self, seconds: float) -> AsyncIterator[Said]:
        """Of what was said in the last `seconds`, what names another task than the one that was decided."""
        async for _, fields in self.entries(redis_schema.FEEDBACK, seconds):
            recorded = to_recorded(fields["entry"]) if fields["right_task"] else None
            if recorded is not None and fields["right_task"] != recorded.labels.task:
                yield Said(recorded, fields["right_task"])

    async def evidence(self, days: list[str]) -> dict[str, Counts]:
        return {day: from_fields(await self._ask(self._redis.hgetall(redis_schema.EVIDENCE + day))) for day in days}

    async def tenants(self) -> dict[str, TenantRecord]:
        """Raises FailedPrecondition where a record cannot be read."""
        read = await self._ask(self._redis.hgetall(redis_layout.TENANTS))
        return {name: TenantRecord.from_json(text) for name, text in read.items()}

    async def forget(self, stream: str, places: Sequence[str]) -> None:
        """Removes entries for good."""
        for start in range(0, len(places), PAGE):
            await self._ask(self._redis.xdel(stream, *places[start : start + PAGE]))

    async def entries(self, stream: str, seconds: float = inf) -> AsyncIterator[tuple[str, dict[str, str]]]:
        """Their places and fields, oldest first; none that comes while they are read."""
        newest = await self._ask(self._redis.xrevrange(stream, count=1))
        if not newest:
            return
        last, place = newest[0][0], str(await self._begin(seconds))
        while page := await self._ask(self._redis.xrange(stream, place, last, count=PAGE)):
            for entry in page:
                yield entry
            place = f"({page[-1][0]}"

    async def _begin(self, seconds: float) -> int:
        """By Redis's clock, which is the one that names the entries."""
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
        client = Redis.from_url(url, decode_responses=True, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
    except ValueError as error:
        raise InvalidArgument(f"'{url}' is no address of Redis: {error}", code="bad_redis_url") from error
    async with client:
        yield History(client, _without_password(url))


def _without_password(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//", url)


def _unix_ms(place: str) -> int:
    return int(place.partition("-")[0])


def to_recorded(entry: str) -> Recorded | None:
    """None for an entry of another version, which means something else."""
    body = json.loads(entry)
    if body["v"] != VERSION:
        return None
    answered = body["outcome"] == "ok"
    first = _wanted_first(body)
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


def _wanted_first(body: dict[str, Any]) -> str:
    """What the policy wanted: a path that was away, failed or was not accepted is told of first among the others."""
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
    """Of the last `window` days. An adapter's version is the one that answered along the path most lately."""
    board, latest = EvidenceStore(window), _Latest()
    for day, counts in (await history.evidence(last_days(window)[::-1])).items():
        board.read(day, counts)
        latest.versions |= {(cell.path, cell.fingerprint): cell.version for cell in counts}
    board.versions = latest.of
    return board


class _Latest:
    def __init__(self) -> None:
        self.versions: dict[tuple[str, str], str] = {}

    def of(self, path: Path) -> str:
        return self.versions.get((path.name, path.fingerprint), "")
