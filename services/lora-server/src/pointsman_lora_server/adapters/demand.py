"""Measures how many tokens per second engines generate with each adapter version, and limits how many copies are loaded
per minute.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from pointsman_lora_server.domain import EngineReport, TokenRate, adapter_name

FAST_SECONDS, SLOW_SECONDS = 20.0, 120.0
"""Time constants, in seconds, of the two exponential moving averages of a version's tokens per second."""
MIN_RATE = 0.01
"""A version that generates fewer tokens per second than this counts as unused, and its averages are dropped."""
PEAK_HALF_LIFE_SECONDS = 86_400.0
"""Seconds in which an engine's highest observed rate (`DemandMeter.peak`) is halved, so that a wrong measurement loses
its effect within days."""


@dataclass(slots=True)
class DemandMeter:
    """Converts an engine's token counters into moving averages of tokens per second. Pass the counters to `record`
    periodically.
    """

    rates: dict[str, TokenRate] = field(default_factory=dict)
    """Adapter version or base model -> the moving averages of its tokens per second."""
    peak: float = 0.0
    """The highest number of tokens per second that the engine has generated with all models together, the base model
    included."""
    _counted: dict[str, float] = field(default_factory=dict)
    _at: float | None = None

    def record(self, tokens: Mapping[str, float], now: float) -> None:
        """Updates the averages with the engine's counters; `now` is the monotonic time in seconds.

        `tokens` maps each model or adapter version to the number of tokens generated with it since it was loaded. If a
        counter is lower than in the last call, it was reset to 0 in between.
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
    """Returns two dictionaries from version to load: by the average over `FAST_SECONDS`, and by that over
    `SLOW_SECONDS`.

    A load is the version's tokens per second on all engines, divided by `capacity`, the tokens per second that one
    engine can generate. If an engine reports tokens for a version that is not in `versions`, because its alias has
    moved, they are added to each version of the same adapter in `versions`.
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
    """Limits how many copies of versions are loaded per minute, so that engines do not spend too much time on loads.

    Unused allowance accumulates, up to the moves of one minute, but at least one move. Loads that replace the copies of
    an engine that has gone also use up allowance, but are made even if none is left.
    """

    moves_per_minute: float
    _left: float = 0.0
    _at: float | None = None

    def left(self, now: float) -> int:
        """Returns how many copies may be loaded now; `now` is the monotonic time in seconds."""
        if self._at is None:
            self._left = self.moves_per_minute
        else:
            more = self.moves_per_minute * (now - self._at) / 60.0
            self._left = min(max(1.0, self.moves_per_minute), self._left + more)
        self._at = now
        return int(self._left)

    def spend(self, moves: int) -> None:
        self._left = max(0.0, self._left - moves)
