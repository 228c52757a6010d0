"""What the newest decisions come to, path by path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from pointsman_gateway.console.record import Record

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


def window_of(records: Sequence[Record], since_unix_ms: int, now_ms: int) -> Window:
    """Of records that lie in it; none that was noted after `since_unix_ms` is missing."""
    requests = sum(record.asked_for_an_answer for record in records)
    return Window(max(since_unix_ms, now_ms - WINDOW_MS), now_ms, requests, len(records))


def by_path(records: Sequence[Record], window: Window) -> Mapping[str, PathFigures]:
    sorted_out: dict[str, list[Record]] = {}
    for record in records:
        if record.asked_for_an_answer:
            sorted_out.setdefault(record.path, []).append(record)
    return {path: _figures(of, window) for path, of in sorted_out.items()}


def _figures(records: Sequence[Record], window: Window) -> PathFigures:
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


def _bars(records: Sequence[Record], window: Window) -> tuple[int, ...]:
    bars, width = [0] * BARS, WINDOW_MS / BARS
    for record in records:
        age = max(0, window.until_unix_ms - record.unix_ms)
        bars[BARS - 1 - min(BARS - 1, int(age / width))] += 1
    return tuple(bars)
