"""Recent decisions of all gateways, read from the request log on demand, and figures per path computed from them."""

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

MAX_ROWS = 5_000
MAX_READ = 2_000
"""New entries that one refresh reads; if there are more, the cache is emptied, because it would have a gap."""
PAGE_SIZE = 100
"""Entries per call, so that neither Redis nor the event loop is blocked for long."""
MAX_AGE_SECONDS = 0.5
"""Seconds for which the cache is returned without reading again."""

WINDOW_MS = 15 * 60 * 1000
BARS = 30
"""Intervals of the window in which requests are counted."""


class _DecisionFields(msgspec.Struct, frozen=True, gc=False):
    """The fields that a row takes from the log entry as they are."""

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
    """The fields of a decision that lists and figures need."""

    entry_id: str
    """In the stream of decisions."""
    seconds: float
    """Seconds from arrival to end; 0 without an answer."""
    first_token: float
    """Seconds from arrival to the first token; 0 if there was none."""
    prompt_tokens: int
    completion_tokens: int
    text: str
    """The beginning of the user's last message, if the request log stores messages."""

    @property
    def is_request(self) -> bool:
        """Returns whether an answer was requested, and not the decision only."""
        return self.outcome != ROUTED

    @property
    def failed(self) -> bool:
        """Returns whether the request failed through the system's fault, not the caller's or a limit's."""
        return self.fault not in NOT_OURS


class _EntryFields(_DecisionFields, frozen=True):
    """The fields of a log entry that the console reads; other fields are ignored."""

    seconds: Mapping[str, float]
    usage: Mapping[str, int]
    messages: Sequence[Mapping[str, Any]] | None = None


_decode = msgspec.json.Decoder(_EntryFields).decode


def to_row(entry: LogEntry) -> DecisionRow | None:
    """Converts a log entry to a row; None if its JSON lacks a needed field or is invalid."""
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


def _text(messages: Sequence[Mapping[str, Any]]) -> str:
    texts = [str(message.get("content") or "") for message in messages if message.get("role") == "user"]
    return " ".join(texts[-1][: 2 * MAX_TEXT_CHARACTERS].split())[:MAX_TEXT_CHARACTERS] if texts else ""


class EntrySource(Protocol):
    async def before(self, entry_id: str, after: str, count: int) -> Sequence[LogEntry]:
        """Returns at most `count` entries older than `entry_id` and newer than `after`, newest first; "" is no bound.

        Raises Unavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class RecentDecisions:
    rows: Sequence[DecisionRow]
    """Oldest first."""
    since_unix_ms: int
    """All decisions after this time are included; 0 if the request log has no older ones."""


class RecentCache:
    """Caches the newest decisions, up to `MAX_ROWS`; each read adds those that are new in the request log."""

    def __init__(self, log: EntrySource, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._rows: deque[DecisionRow] = deque(maxlen=MAX_ROWS)
        """Oldest first, without gaps."""
        self._has_oldest = True
        """Whether the request log has no older decisions."""
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")

    async def read(self) -> RecentDecisions:
        """Returns the newest decisions, at most `MAX_AGE_SECONDS` old; raises Unavailable."""
        async with self._reading:
            if self._clock() - self._read_at >= MAX_AGE_SECONDS:
                await self._read_new()
                self._read_at = self._clock()
            return RecentDecisions(tuple(self._rows), 0 if self._has_oldest else self._rows[0].unix_ms)

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
    """Figures of the requests that a path answered most recently."""

    requests: int
    share: float
    """Fraction of all requests in the window."""
    failures: int
    cancelled: int
    escalated: int
    """Requests escalated to this path."""
    p50_seconds: float | None
    """Of complete answers; None if there are none."""
    p95_seconds: float | None
    first_token_p50_seconds: float | None
    usd_per_1k: float | None
    bars: tuple[int, ...]
    """Requests per interval, the newest last."""


@dataclass(frozen=True, slots=True)
class DecisionWindow:
    since_unix_ms: int
    """All decisions from then until `until_unix_ms` are included."""
    until_unix_ms: int
    requests: int
    decisions: int
    """Requests, including those for the decision only."""


def window_of(rows: Sequence[DecisionRow], since_unix_ms: int, now_ms: int) -> DecisionWindow:
    """Returns the time window up to `now_ms`, at most `WINDOW_MS` long, with the number of its `rows`.

    It begins later if `rows` have all decisions only after `since_unix_ms`.
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
    """Returns a quantile by nearest rank; None if there are no values."""
    return ordered[max(0, ceil(fraction * len(ordered)) - 1)] if ordered else None


def _bars(rows: Sequence[DecisionRow], window: DecisionWindow) -> tuple[int, ...]:
    bars, width = [0] * BARS, WINDOW_MS / BARS
    for row in rows:
        age = max(0, window.until_unix_ms - row.unix_ms)
        bars[BARS - 1 - min(BARS - 1, int(age / width))] += 1
    return tuple(bars)
