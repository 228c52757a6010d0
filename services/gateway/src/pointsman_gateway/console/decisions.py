"""A decision of the journal, as far as lists and figures need it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import msgspec

from pointsman_gateway.domain.outcome import OUTCOMES, ROUTED, Fault
from pointsman_gateway.request_log.store import LogEntry

LONGEST_TEXT = 200
"""Characters of a request that a list shows."""

NOT_OURS = frozenset({Fault.NONE.value, Fault.CALLER.value, Fault.LIMITS.value})


class DecisionRow(msgspec.Struct, frozen=True, gc=False):
    place: str
    """In the journal."""
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
    cost_usd: float
    seconds: float
    """Arrival to end; 0 where nothing was answered."""
    first_token: float
    """0 where none came."""
    prompt_tokens: int
    completion_tokens: int
    escalated_from: str
    text: str
    """How the last message of a user begins, where the journal keeps it."""

    @property
    def asked_for_an_answer(self) -> bool:
        return self.outcome != ROUTED

    @property
    def failed(self) -> bool:
        """By our fault: not where the caller was wrong, hung up, or had used up what is theirs."""
        return self.fault not in NOT_OURS


class _EntryFields(msgspec.Struct):
    """What is read of it; what else it holds is passed over."""

    id: str
    unix_ms: int
    task: str
    path: str
    kind: str
    reason: str
    confidence: float
    outcome: str
    model: str
    requested: str
    cost_usd: float
    seconds: Mapping[str, float]
    usage: Mapping[str, int]
    escalated_from: str
    fault: str = ""
    tenant: str = ""
    """Of entries from before it was kept: none, so that nobody with a key sees them."""
    messages: Sequence[Mapping[str, Any]] | None = None


_decode = msgspec.json.Decoder(_EntryFields).decode


def to_row(kept: LogEntry) -> DecisionRow | None:
    """None where it cannot be read, being of a later version."""
    try:
        entry = _decode(kept.json)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    return DecisionRow(
        place=kept.entry_id,
        id=entry.id,
        unix_ms=entry.unix_ms,
        tenant=entry.tenant,
        task=entry.task,
        path=entry.path,
        kind=entry.kind,
        reason=entry.reason,
        confidence=entry.confidence,
        outcome=entry.outcome,
        fault=entry.fault or OUTCOMES.get(entry.outcome, Fault.GATEWAY.value),
        model=entry.model,
        requested=entry.requested,
        cost_usd=entry.cost_usd,
        seconds=entry.seconds.get("total", 0.0),
        first_token=entry.seconds.get("first_token", 0.0),
        prompt_tokens=entry.usage.get("prompt_tokens", 0),
        completion_tokens=entry.usage.get("completion_tokens", 0),
        escalated_from=entry.escalated_from,
        text=_text(entry.messages or ()),
    )


def _text(messages: Sequence[Mapping[str, Any]]) -> str:
    said = [str(message.get("content") or "") for message in messages if message.get("role") == "user"]
    return " ".join(said[-1][: 2 * LONGEST_TEXT].split())[:LONGEST_TEXT] if said else ""


MAX_ROWS = 5_000
MAX_READ = 2_000
"""At one look. Where more have come since the last one, what was known before is let go of: it no longer joins up."""
PAGE_SIZE = 100
"""So that no call keeps Redis, or this process, for long."""
MAX_AGE_S = 0.5
"""Seconds in which a second look sees what the first one saw."""


class Journal(Protocol):
    """Reads backwards."""

    async def before(self, place: str, after: str, count: int) -> Sequence[LogEntry]:
        """At most `count` entries between two places, both excluded, newest first. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class RecentDecisions:
    records: Sequence[DecisionRow]
    """Oldest first."""
    since_unix_ms: int
    """No decision is missing that was noted later; 0 where the journal holds nothing older."""


class RecentCache:
    def __init__(self, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._clock = clock
        self._records: deque[DecisionRow] = deque(maxlen=MAX_ROWS)
        """Oldest first, without gaps."""
        self._from_the_first = True
        """Whether nothing in the journal is older."""
        self._looking = asyncio.Lock()
        self._looked = float("-inf")

    async def look(self) -> RecentDecisions:
        """Raises Unavailable."""
        async with self._looking:
            if self._clock() - self._looked >= MAX_AGE_S:
                await self._read()
                self._looked = self._clock()
            return RecentDecisions(tuple(self._records), 0 if self._from_the_first else self._records[0].unix_ms)

    async def _read(self) -> None:
        newest, place = self._records[-1].place if self._records else "", ""
        came: list[DecisionRow] = []
        joined = False
        read = 0
        while read < MAX_READ and not joined:
            page = await self._journal.before(place, newest, PAGE_SIZE)
            came += [record for kept in page if (record := to_row(kept)) is not None]
            read, joined = read + len(page), len(page) < PAGE_SIZE
            place = page[-1].entry_id if page else place
            await asyncio.sleep(0)
        if not joined:
            self._records.clear()
        if not joined or len(self._records) + len(came) > MAX_ROWS:
            self._from_the_first = False
        self._records.extend(reversed(came))


WINDOW_MS = 15 * 60 * 1000
BARS = 30
"""Parts of the window in which requests are counted."""


@dataclass(frozen=True, slots=True)
class PathFigures:
    """Of the requests that a path ended with."""

    requests: int
    share: float
    """Of all requests in the window."""
    failures: int
    cancelled: int
    escalated: int
    """Those that came here because another path's answer was refused."""
    p50_seconds: float | None
    """Of answers that came to their end; None where there is none."""
    p95_seconds: float | None
    first_token_p50_seconds: float | None
    usd_per_1k: float | None
    bars: tuple[int, ...]
    """Requests in each part of the window, the newest last."""


@dataclass(frozen=True, slots=True)
class Window:
    since_unix_ms: int
    """No decision between then and now is missing."""
    until_unix_ms: int
    requests: int
    decisions: int
    """Requests, and those that asked for the decision alone."""


def window_of(records: Sequence[DecisionRow], since_unix_ms: int, now_ms: int) -> Window:
    """Of records that lie in it; none that was noted after `since_unix_ms` is missing."""
    requests = sum(record.asked_for_an_answer for record in records)
    return Window(max(since_unix_ms, now_ms - WINDOW_MS), now_ms, requests, len(records))


def by_path(records: Sequence[DecisionRow], window: Window) -> Mapping[str, PathFigures]:
    sorted_out: dict[str, list[DecisionRow]] = {}
    for record in records:
        if record.asked_for_an_answer:
            sorted_out.setdefault(record.path, []).append(record)
    return {path: _figures(of, window) for path, of in sorted_out.items()}


def _figures(records: Sequence[DecisionRow], window: Window) -> PathFigures:
    whole = [record for record in records if record.outcome == "ok"]
    seconds = sorted(record.seconds for record in whole)
    first = sorted(record.first_token for record in whole if record.first_token)
    return PathFigures(
        requests=len(records),
        share=len(records) / window.requests,
        failures=sum(record.failed for record in records),
        cancelled=sum(record.outcome == "cancelled" for record in records),
        escalated=sum(bool(record.escalated_from) for record in records),
        p50_seconds=_quantile(seconds, 0.5),
        p95_seconds=_quantile(seconds, 0.95),
        first_token_p50_seconds=_quantile(first, 0.5),
        usd_per_1k=1000 * sum(record.cost_usd for record in records) / len(records),
        bars=_bars(records, window),
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """By nearest rank."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else None


def _bars(records: Sequence[DecisionRow], window: Window) -> tuple[int, ...]:
    bars, width = [0] * BARS, WINDOW_MS / BARS
    for record in records:
        age = max(0, window.until_unix_ms - record.unix_ms)
        bars[BARS - 1 - min(BARS - 1, int(age / width))] += 1
    return tuple(bars)
