"""The console reads the newest decisions without gaps, in bounded memory, and only while it is open."""

import json
import time
from collections.abc import Sequence

from pointsman_gateway.console.decisions import (
    BARS,
    MAX_READ,
    MAX_ROWS,
    WINDOW_MS,
    DecisionRow,
    RecentCache,
    by_path,
    to_row,
    window_of,
)
from pointsman_gateway.request_log.store import LogEntry

NOW = 1_700_000_000_000


def entry(number: int, **fields: object) -> str:
    given = {
        "id": f"dec_{number}", "unix_ms": NOW + number, "task": "chat", "path": "small_talk", "kind": "prompt",
        "reason": "policy:fixed", "confidence": 0.9, "outcome": "ok", "model": "tiny", "requested": "auto",
        "cost_usd": 1e-6, "seconds": {"total": 0.5, "first_token": 0.1}, "escalated_from": "",
        "usage": {"prompt_tokens": 20, "completion_tokens": 2, "cached_tokens": 0}, "fault": "none", "tenant": "",
    }  # fmt: skip
    return json.dumps(given | fields)


class Stream:
    """Implements `EntrySource` with a list of entries."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.calls = 0

    async def before(self, entry_id: str, after: str, count: int) -> Sequence[LogEntry]:
        self.calls += 1
        highest = int(entry_id.partition("-")[0]) if entry_id else len(self.entries) + 1
        lowest = int(after.partition("-")[0]) if after else 0
        numbers = range(highest - 1, lowest, -1)[:count]
        return [LogEntry(f"{at}-0", self.entries[at - 1]) for at in numbers]

    def grow(self, count: int) -> None:
        self.entries += [entry(len(self.entries) + number + 1) for number in range(count)]


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


def record(seconds: float = 0.5, age_ms: int = 0, **fields: object) -> DecisionRow:
    times = {"seconds": {"total": seconds, "first_token": seconds / 10}, "unix_ms": NOW - age_ms}
    read = to_row(LogEntry("1-0", entry(1, **(times | fields))))
    assert read is not None
    return read


async def test_each_read_returns_new_entries_once() -> None:
    stream, names = Stream(), []
    recent = RecentCache(stream, Clock())
    for count in (250, 0, 1, 300):
        stream.grow(count)
        seen = await recent.read()
        names = [r.id for r in seen.rows]
        assert names == [f"dec_{number + 1}" for number in range(len(stream.entries))]
        assert seen.since_unix_ms == 0


async def test_after_a_gap_the_older_entries_are_dropped() -> None:
    stream = Stream()
    recent = RecentCache(stream, Clock())
    stream.grow(10)
    await recent.read()
    stream.grow(MAX_READ + 50)
    seen = await recent.read()
    assert len(seen.rows) == MAX_READ
    assert seen.rows[-1].id == f"dec_{len(stream.entries)}"
    assert seen.since_unix_ms == seen.rows[0].unix_ms


async def test_without_a_readable_entry_among_the_newest_there_are_no_rows_until_one_comes() -> None:
    stream = Stream()
    recent = RecentCache(stream, Clock())
    stream.grow(10)
    stream.entries += ["{"] * MAX_READ
    before = round(time.time() * 1000)
    seen = await recent.read()
    assert seen.rows == ()
    assert before <= seen.since_unix_ms <= round(time.time() * 1000)
    stream.grow(1)
    seen = await recent.read()
    assert [row.unix_ms for row in seen.rows] == [seen.since_unix_ms]


async def test_the_memory_is_bounded() -> None:
    stream = Stream()
    recent = RecentCache(stream, Clock())
    for _ in range(MAX_ROWS // MAX_READ + 1):
        stream.grow(MAX_READ - 100)
        seen = await recent.read()
    assert len(seen.rows) <= MAX_ROWS
    stream.grow(MAX_READ - 100)
    seen = await recent.read()
    assert (len(seen.rows), seen.since_unix_ms) == (MAX_ROWS, seen.rows[0].unix_ms)


async def test_concurrent_readers_share_one_query() -> None:
    stream = Stream()
    stream.grow(5)
    recent = RecentCache(stream, lambda: 1.0)
    await recent.read()
    calls = stream.calls
    await recent.read()
    assert stream.calls == calls


def test_an_unreadable_entry_is_skipped() -> None:
    assert to_row(LogEntry("1-0", "{")) is None
    assert to_row(LogEntry("1-0", '{"v": 9}')) is None


def test_latencies_are_those_of_complete_answers() -> None:
    records = [record(float(number)) for number in range(1, 101)]
    records += [
        record(900.0, outcome="cancelled"),
        record(900.0, outcome="engine_error", fault="engine"),
        record(outcome="routed"),
    ]
    records += [record(1.0, path="other", escalated_from="small_talk")]
    window = window_of(records, 0, NOW)
    figures = by_path(records, window)
    small_talk = figures["small_talk"]
    assert (window.requests, window.decisions) == (103, 104)
    assert (small_talk.p50_seconds, small_talk.p95_seconds, small_talk.first_token_p50_seconds) == (50.0, 95.0, 5.0)
    assert (small_talk.requests, small_talk.failures, small_talk.cancelled) == (102, 1, 1)
    assert small_talk.share + figures["other"].share == 1
    assert (figures["other"].escalated, small_talk.escalated) == (1, 0)


def test_requests_are_counted_by_their_time_within_the_window() -> None:
    records = [record(age_ms=age) for age in (0, 1000, WINDOW_MS // 2, WINDOW_MS - 1, WINDOW_MS)]
    bars = by_path(records, window_of(records, 0, NOW))["small_talk"].bars
    assert (len(bars), bars[-1], bars[BARS // 2 - 1], bars[0]) == (BARS, 2, 1, 2)


def test_only_the_start_of_a_text_is_used() -> None:
    found = record(messages=[{"role": "user", "content": "first"}, {"role": "user", "content": "a\n b" * 500}])
    assert found.text.startswith("a b")
    assert len(found.text) <= 200
