"""Measures how many tokens per second engines generate with each version, and limits how often copies move."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pointsman_lora_server.domain import EngineReport, TokenRate, adapter_name

FAST_SECONDS, SLOW_SECONDS = 20.0, 120.0
"""Time constants of the two moving averages."""
MIN_RATE = 0.01
"""Tokens per second below which a version counts as unused, and is forgotten."""
PEAK_HALF_LIFE_SECONDS = 86_400.0
"""Time in which the highest observed rate is halved, so that a wrong one is forgotten within days."""


@dataclass(slots=True)
class DemandMeter:
    """Turns an engine's token counters into rates; `record` is called again and again."""

    rates: dict[str, TokenRate] = field(default_factory=dict)
    """Version -> its moving averages."""
    peak: float = 0.0
    """The highest rate of all versions together, base model included, that the engine has shown."""
    _counted: dict[str, float] = field(default_factory=dict)
    _at: float | None = None

    def record(self, tokens: Mapping[str, float], now: float) -> None:
        """Takes the tokens of each model since it was loaded, at the monotonic time `now` in seconds.

        A counter that is lower than before has begun anew.
        """
        if self._at is None or now <= self._at:
            self._counted, self._at = dict(tokens), now if self._at is None else self._at
            return
        seconds = now - self._at
        rates = {name: _growth(count, self._counted.get(name, 0.0)) / seconds for name, count in tokens.items()}
        self.peak = max(self.peak * 0.5 ** (seconds / PEAK_HALF_LIFE_SECONDS), sum(rates.values()))
        fast, slow = math.exp(-seconds / FAST_SECONDS), math.exp(-seconds / SLOW_SECONDS)
        updated = {}
        for name in {*rates, *self.rates}:
            before, rate = self.rates.get(name, TokenRate()), rates.get(name, 0.0)
            after = TokenRate(before.fast * fast + rate * (1 - fast), before.slow * slow + rate * (1 - slow))
            if max(after.fast, after.slow) >= MIN_RATE:
                updated[name] = after
        self.rates, self._counted, self._at = updated, dict(tokens), now


def _growth(count: float, before: float) -> float:
    return count - before if count >= before else count


def version_loads(
    reports: Iterable[EngineReport], versions: Collection[str], capacity: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns two dicts from version to load: the first by the average over 20 s, the second by that over 2 minutes.

    A load is the version's tokens per second on all engines, divided by `capacity`, the tokens per second that one
    engine can generate. Requests for a version that is not in `versions` because its alias has moved count for the
    adapter's versions that are.
    """
    loads: dict[str, tuple[float, float]] = dict.fromkeys(versions, (0.0, 0.0))
    moved: dict[str, tuple[float, float]] = {}
    for report in reports:
        for version, rate in report.rates.items():
            of, name = (loads, version) if version in loads else (moved, adapter_name(version))
            fast, slow = of.get(name, (0.0, 0.0))
            of[name] = fast + rate.fast / capacity, slow + rate.slow / capacity
    for version, (fast, slow) in loads.items() if moved else ():
        more_fast, more_slow = moved.get(adapter_name(version), (0.0, 0.0))
        loads[version] = fast + more_fast, slow + more_slow
    return {v: fast for v, (fast, _) in loads.items()}, {v: slow for v, (_, slow) in loads.items()}


@dataclass(slots=True)
class MoveBudget:
    """Limits how many copies are loaded per minute, so that engines are not busy with loads.

    An unused allowance accumulates, up to that of one minute, and to one move at least. Loads that replace the copies
    of an engine that is gone do not count.
    """

    moves_per_minute: float
    _left: float = 0.0
    _at: float | None = None

    def left(self, now: float) -> int:
        """Returns how many moves may be made at the monotonic time `now` in seconds."""
        if self._at is None:
            self._left = self.moves_per_minute
        else:
            more = self.moves_per_minute * (now - self._at) / 60.0
            self._left = min(max(1.0, self.moves_per_minute), self._left + more)
        self._at = now
        return int(self._left)

    def spend(self, moves: int) -> None:
        self._left = max(0.0, self._left - moves)
