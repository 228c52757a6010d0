"""When the steps of simulated engines run: each engine on a machine of its own, or all on the cores of one machine."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from benchmarks.placement.engine import Job, SimulatedEngine

Fleet = Mapping[str, SimulatedEngine]


class Processors(Protocol):
    """Interface of what runs the engines' steps."""

    def start(self, name: str, now: float) -> None:
        """Begins with the steps of an engine that has got a job; does nothing if it runs already."""
        ...

    def advance(self, until: float) -> Iterator[Job]:
        """Runs steps until this time; yields the jobs that they finish."""
        ...


MakeProcessors = Callable[[Fleet], Processors]


class OwnMachines:
    """Each engine has a machine of its own."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._due = fleet, list[tuple[float, str]]()

    def start(self, name: str, now: float) -> None:
        if self._fleet[name].in_flight == 1:
            heapq.heappush(self._due, (self._fleet[name].now, name))

    def advance(self, until: float) -> Iterator[Job]:
        while self._due and self._due[0][0] <= until:
            _, name = heapq.heappop(self._due)
            yield from self._fleet[name].step()
            if self._fleet[name].in_flight:
                heapq.heappush(self._due, (self._fleet[name].now, name))


class SharedCores:
    """All engines share the cores of one machine (processor sharing): how fast each runs depends on how many are busy.

    An engine is busy while it generates, and while it loads an adapter.
    """

    def __init__(self, fleet: Fleet, speeds: Sequence[float]) -> None:
        """Takes, by the number of busy engines from 1, an engine's speed as a share of its speed alone."""
        self._fleet, self._speeds = fleet, speeds
        self._now = 0.0
        self._left: dict[str, float] = {}
        """Engine -> the seconds of its step that are left, at the speed of an engine alone."""
        self._waiting: dict[str, float] = {}
        """Engine whose jobs all wait for adapters -> when the first of these is loaded."""

    def start(self, name: str, now: float) -> None:
        if name not in self._left:
            self._begin(name, was_idle=True)

    def advance(self, until: float) -> Iterator[Job]:
        while True:
            speed = self._speed()
            ends = {name: self._now + left / speed for name, left in self._left.items()} | self._waiting
            loading = [engine.loading_until for engine in self._fleet.values() if engine.loading_until > self._now]
            name = min(ends, key=lambda each: ends[each], default="")
            at = min(ends[name] if name else until, *loading, until)
            self._left = {each: left - (at - self._now) * speed for each, left in self._left.items()}
            self._now = at
            if name and ends[name] <= at:
                has_generated = self._left.pop(name, None) is not None
                if has_generated:
                    yield from self._fleet[name].finish(at)
                self._begin(name, was_idle=not has_generated)
            elif at >= until:
                break
        self._publish_slowdown()

    def _begin(self, name: str, *, was_idle: bool) -> None:
        engine = self._fleet[name]
        engine.now = self._now
        if was_idle:
            engine.skip_stalls()
        self._waiting.pop(name, None)
        if not engine.in_flight:
            return
        engine.admit()
        if engine.running:
            self._left[name] = engine.begin()
        else:
            self._waiting[name] = engine.ready_at

    def _speed(self) -> float:
        busy = {name for name, engine in self._fleet.items() if engine.loading_until > self._now} | self._left.keys()
        return self._speeds[max(0, len(busy) - 1)]

    def _publish_slowdown(self) -> None:
        """Lets loads that begin now take as much longer as the cores are shared now."""
        for engine in self._fleet.values():
            engine.slowdown = 1.0 / self._speed()
