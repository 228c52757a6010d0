"""Recent routing decisions of all gateways, read from the request log, and statistics of each path made from them."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import msgspec

from pointsman_gateway.domain.outcome import ROUTED, Fault
from pointsman_gateway.request_log.store import LogEntry

MAX_TEXT_CHARACTERS = 200
NOT_OURS = frozenset({Fault.NONE.value, Fault.CALLER.value, Fault.LIMITS.value})
"""Values of a receipt's `fault` with which a request does not count as failed: nobody, the caller or a limit is at
fault."""

MAX_ROWS = 5_000
MAX_READ = 2_000
"""Maximum number of new entries that one call of `RecentCache.read` reads, rounded up to whole pages. If there may be
more, the older cached rows are dropped, because the rows would have a gap."""
PAGE_SIZE = 100
"""Number of log entries that one call reads from Redis, so that neither Redis nor the event loop is blocked for
long."""
MAX_AGE_SECONDS = 0.5
"""Seconds after a read from Redis for which the cached rows are returned without another read."""

WINDOW_MS = 15 * 60 * 1000
BARS = 30
"""Number of equal intervals into which the window of `WINDOW_MS` milliseconds is divided; requests are counted for
each."""


class _DecisionFields(msgspec.Struct, frozen=True, gc=False):
    """The fields of a log entry that `DecisionRow` has unchanged."""

    id: str
    unix_ms: int
    tenant: str
    task: str
    path: str
    kind: str
    reason: str
    confidence: float
    outcome: str
    fault: str
    model: str
    requested: str
    cost_usd: float | None
    escalated_from: str


class DecisionRow(_DecisionFields, frozen=True, gc=False):
    """One logged request and the decision which path answers it, with the fields that the console lists or sums up."""

    entry_id: str
    """The entry's id in the Redis stream of decisions."""
    seconds: float
    """Seconds from the request's arrival to its end."""
    first_token: float
    """Seconds from the request's arrival to the first token of its answer; 0 if there was none."""
    prompt_tokens: int
    completion_tokens: int
    text: str
    """The beginning of the user's last message; empty if the request log does not store messages."""

    @property
    def is_request(self) -> bool:
        """Returns whether the caller requested an answer; False if it asked only which path would answer."""
        return self.outcome != ROUTED

    @property
    def failed(self) -> bool:
        """Returns whether the request failed, apart from failures that the caller or one of its limits caused."""
        return self.fault not in NOT_OURS


class _EntryFields(_DecisionFields, frozen=True):
    """The fields of a log entry from which a `DecisionRow` is made; other fields are ignored."""

    seconds: Mapping[str, float]
    usage: Mapping[str, int]
    messages: Sequence[Mapping[str, Any]] | None = None


_decode = msgspec.json.Decoder(_EntryFields).decode


def to_row(entry: LogEntry) -> DecisionRow | None:
    """Returns the row of an entry in the request log; None if the entry's JSON is invalid or lacks a needed field."""
    try:
        fields = _decode(entry.json)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return DecisionRow(
        **{name: getattr(fields, name) for name in _DecisionFields.__struct_fields__},
        entry_id=entry.entry_id,
        seconds=fields.seconds.get("total", 0.0),
        first_token=fields.seconds.get("first_token", 0.0),
        prompt_tokens=fields.usage.get("prompt_tokens", 0),
        completion_tokens=fields.usage.get("completion_tokens", 0),
        text=_text(fields.messages or ()),
    )


def unix_ms_of(entry_id: str) -> int:
    """Returns the Unix milliseconds at which a request log's entry was written, from its Redis stream id "MS-N".

    Raises ValueError if `entry_id` does not begin with a number.
    """
    return int(entry_id.partition("-")[0])


def _text(messages: Sequence[Mapping[str, Any]]) -> str:
    texts = [str(message.get("content") or "") for message in messages if message.get("role") == "user"]
    return " ".join(texts[-1][: 2 * MAX_TEXT_CHARACTERS].split())[:MAX_TEXT_CHARACTERS] if texts else ""


class EntrySource(Protocol):
    """Interface that reads entries of the request log in pages; `RequestLogReader` implements it."""

    async def before(self, entry_id: str, after: str, count: int) -> Sequence[LogEntry]:
        """Returns at most `count` log entries older than the entry `entry_id` and newer than the entry `after`, newest
        first.

        Both are ids in the Redis stream; an empty one sets no limit. Raises Unavailable if Redis does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class RecentDecisions:
    rows: Sequence[DecisionRow]
    """The decisions, oldest first."""
    since_unix_ms: int
    """The time, in Unix milliseconds, from which on `rows` has all decisions; 0 if `rows` has all of the request log.
    It is the time of the read if none of the newest entries could be read."""


class RecentCache:
    """A copy in memory of the newest decisions in the request log, at most `MAX_ROWS`; `read` brings it up to date."""

    def __init__(self, log: EntrySource, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._rows: deque[DecisionRow] = deque(maxlen=MAX_ROWS)
        """The cached decisions without gaps, the oldest first."""
        self._has_oldest = True
        """Whether the request log has no decisions that are older than the cached ones."""
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")

    async def read(self) -> RecentDecisions:
        """Returns the newest decisions, oldest first, and from when on they are complete.

        Reads Redis only if the last read is at least `MAX_AGE_SECONDS` ago. Raises Unavailable if Redis does not
        answer.
        """
        async with self._reading:
            if self._clock() - self._read_at >= MAX_AGE_SECONDS:
                await self._read_new()
                self._read_at = self._clock()
            return RecentDecisions(tuple(self._rows), self._since_unix_ms())

    def _since_unix_ms(self) -> int:
        if self._has_oldest:
            return 0
        return self._rows[0].unix_ms if self._rows else round(time.time() * 1000)

    async def _read_new(self) -> None:
        newest, before = self._rows[-1].entry_id if self._rows else "", ""
        new: list[DecisionRow] = []
        complete = False
        read = 0
        while read < MAX_READ and not complete:
            page = await self._log.before(before, newest, PAGE_SIZE)
            new += [row for entry in page if (row := to_row(entry)) is not None]
            read, complete = read + len(page), len(page) < PAGE_SIZE
            before = page[-1].entry_id if page else before
            await asyncio.sleep(0)
        if not complete:
            self._rows.clear()
        if not complete or len(self._rows) + len(new) > MAX_ROWS:
            self._has_oldest = False
        self._rows.extend(reversed(new))


@dataclass(frozen=True, slots=True)
class PathFigures:
    """Statistics of the requests that one path answered in a `DecisionWindow` (the last 15 minutes)."""

    requests: int
    share: float
    """The path's fraction of all requests in the window, 0 to 1."""
    failures: int
    """Number of failed requests, without those for which the caller or a limit was the cause."""
    cancelled: int
    escalated: int
    """Number of requests that this path answered because a validator had rejected the answer of another path."""
    p50_seconds: float | None
    """Median seconds from a request's arrival to its end, over complete answers; None if there are none."""
    p95_seconds: float | None
    """95th percentile of the seconds from a request's arrival to its end, over complete answers; None if there are
    none."""
    first_token_p50_seconds: float | None
    """Median seconds from a request's arrival to its first token, over complete answers; None if there are none."""
    usd_per_1k: float | None
    """Mean dollars for 1,000 requests, over the requests whose cost is known; None if there are none."""
    bars: tuple[int, ...]
    """The number of the path's requests in each of the window's `BARS` intervals, the newest last."""


@dataclass(frozen=True, slots=True)
class DecisionWindow:
    since_unix_ms: int
    """The start of the window in Unix milliseconds. The window has all decisions from this time to `until_unix_ms`."""
    until_unix_ms: int
    requests: int
    """Number of requests in the window that asked for an answer."""
    decisions: int
    """Number of all requests in the window, including those that asked only which path would answer."""


def window_of(rows: Sequence[DecisionRow], since_unix_ms: int, now_ms: int) -> DecisionWindow:
    """Returns the time window that ends at `now_ms` and begins `WINDOW_MS` earlier, with the numbers of its requests.

    `rows` are the decisions in it. All times are Unix milliseconds. The window begins at `since_unix_ms` if that is
    later, because not all earlier decisions are known.
    """
    requests = sum(row.is_request for row in rows)
    return DecisionWindow(max(since_unix_ms, now_ms - WINDOW_MS), now_ms, requests, len(rows))


def by_path(rows: Sequence[DecisionRow], window: DecisionWindow) -> Mapping[str, PathFigures]:
    grouped: dict[str, list[DecisionRow]] = {}
    for row in rows:
        if row.is_request:
            grouped.setdefault(row.path, []).append(row)
    return {path: _figures(group, window) for path, group in grouped.items()}


def _figures(rows: Sequence[DecisionRow], window: DecisionWindow) -> PathFigures:
    complete = [row for row in rows if row.outcome == "ok"]
    seconds = sorted(row.seconds for row in complete)
    known = [row.cost_usd for row in rows if row.cost_usd is not None]
    first_tokens = sorted(row.first_token for row in complete if row.first_token)
    return PathFigures(
        requests=len(rows),
        share=len(rows) / window.requests,
        failures=sum(row.failed for row in rows),
        cancelled=sum(row.outcome == "cancelled" for row in rows),
        escalated=sum(bool(row.escalated_from) for row in rows),
        p50_seconds=_quantile(seconds, 0.5),
        p95_seconds=_quantile(seconds, 0.95),
        first_token_p50_seconds=_quantile(first_tokens, 0.5),
        usd_per_1k=1000 * sum(known) / len(known) if known else None,
        bars=_bars(rows, window),
    )


def _quantile(ordered: Sequence[float], fraction: float) -> float | None:
    """Returns a quantile (nearest rank) of values in ascending order; None if there are no values."""
    return ordered[max(0, ceil(fraction * len(ordered)) - 1)] if ordered else None


def _bars(rows: Sequence[DecisionRow], window: DecisionWindow) -> tuple[int, ...]:
    bars, width = [0] * BARS, WINDOW_MS / BARS
    for row in rows:
        age = max(0, window.until_unix_ms - row.unix_ms)
        bars[BARS - 1 - min(BARS - 1, int(age / width))] += 1
    return tuple(bars)
