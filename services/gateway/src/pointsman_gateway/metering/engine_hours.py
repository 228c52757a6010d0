"""Allocates the hourly price of engines to the paths that use them; the rest is idle.

At each moment the price is divided evenly among the answers that the engine works on: while n answers are in progress,
each is charged 1/n of the time. One number for all answers, the virtual time, advances by 1/n of the time that passes
(A. K. Parekh and R. G. Gallager, "A generalized processor sharing approach to flow control", IEEE/ACM Transactions on
Networking 1 (1993)). An answer is charged the virtual time at its end minus that at its start. All charges and the idle
time add up to the time that has passed.

An answer's time in progress is known only after its end, when the engine reports how long it worked on the answer,
without the queue. So the time since the start of the oldest unfinished answer is allocated later, but at most
`MAX_LAG_SECONDS` later. An answer that takes longer than that counts as in progress all the time.
"""

import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from heapq import heappop, heappush

from pointsman_servicekit.process import Schedule, running_periodically
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pointsman_gateway.domain.path import IDLE, OTHER
from pointsman_gateway.metering.pricing import SECONDS_PER_HOUR

MAX_LAG_SECONDS = 30.0
ENGINE_COST_METRIC = "pointsman_engine_cost_usd"
ALLOCATION_INTERVAL_SECONDS = 1.0
"""Seconds between two allocations; a scrape allocates too."""

HourlyPrices = Callable[[], Mapping[str, float]]
"""A function that returns the dollars per hour of the current engines that have a price, by the engine's name. The
names change, because members join and leave groups of engines."""


class BusyInterval:
    """The time in which an engine works on one answer for a path, in monotonic seconds.

    If a part of this time is charged before the answer ends, `start` moves to the end of that part.
    """

    __slots__ = ("allocator", "path", "start")

    def __init__(self, allocator: "EngineCostAllocator", path: str, start: float) -> None:
        self.allocator = allocator
        self.path = path
        self.start = start


class EngineCostAllocator:
    """Divides the cost of one engine that is paid by the hour among the paths whose answers it generates.

    All times are seconds on one monotonic clock.
    """

    def __init__(self, usd_per_hour: float, start: float, max_lag: float = MAX_LAG_SECONDS) -> None:
        self.dollars: dict[str, float] = {IDLE: 0.0}
        """Dollars by path, and under `IDLE`, of all time allocated so far."""
        self.start = self.allocated_until = start
        self.usd_per_hour = usd_per_hour
        self._max_lag = max_lag
        self._open: dict[BusyInterval, None] = {}
        """Intervals whose end is not known, the oldest first."""
        self._closed: list[tuple[float, float, str]] = []
        """Start, end and path of intervals that are not allocated yet."""
        self._in_progress: list[tuple[float, str, float]] = []
        """A heap of the answers in progress at `allocated_until`: the end, the path, and the virtual time up to which
        the answer's share is charged."""
        self._virtual_time = 0.0

    def begin(self, path: str, now: float) -> BusyInterval:
        interval = BusyInterval(self, path, now)
        self._open[interval] = None
        return interval

    def end(self, interval: BusyInterval, now: float, inference: float | None = None) -> None:
        """Ends the interval of an answer that is complete, at the time `now` in monotonic seconds.

        `inference` is the number of seconds that the engine reports to have worked on the answer. Only this many
        seconds before `now` are charged for the answer; if it is None, the whole interval is.
        """
        del self._open[interval]
        start = interval.start
        if inference is not None and now - inference > start:
            start = now - inference
        if now > start:
            self._closed.append((start, now, interval.path))

    def allocate(self, now: float) -> None:
        """Divides the engine's cost among paths, up to the start of the oldest answer in progress, or up to `now` if
        no answer is in progress.

        An answer that has been in progress for longer than `max_lag` seconds does not delay the allocation: its time is
        charged up to `now` minus `max_lag`. `now` is in monotonic seconds.
        """
        latest = now - self._max_lag
        for interval in self._open:
            if interval.start >= latest:
                break
            self._closed.append((interval.start, latest, interval.path))
            interval.start = latest
        oldest = next(iter(self._open), None)
        self._allocate_until(now if oldest is None else oldest.start)

    def set_price(self, usd_per_hour: float, now: float) -> None:
        self._max_lag, max_lag = 0.0, self._max_lag
        self.allocate(now)
        self._max_lag, self.usd_per_hour = max_lag, usd_per_hour

    def _allocate_until(self, until: float) -> None:
        closed = self._closed
        closed.sort()
        due = bisect_left(closed, (until,))
        for start, end, path in closed[:due]:
            self._advance(start)
            heappush(self._in_progress, (end, path, self._virtual_time))
        del closed[:due]
        self._advance(until)
        for _, path, allocated in self._in_progress:
            self._charge(path, self._virtual_time - allocated)
        self._in_progress = [(end, path, self._virtual_time) for end, path, _ in self._in_progress]

    def _advance(self, until: float) -> None:
        """Advances the allocated time to `until`, and charges the answers that end by then."""
        in_progress = self._in_progress
        while in_progress and in_progress[0][0] <= until:
            self._elapse(in_progress[0][0])
            _, path, allocated = heappop(in_progress)
            self._charge(path, self._virtual_time - allocated)
        self._elapse(until)

    def _elapse(self, until: float) -> None:
        seconds = until - self.allocated_until
        if seconds <= 0:
            return
        if self._in_progress:
            self._virtual_time += seconds / len(self._in_progress)
        else:
            self._charge(IDLE, seconds)
        self.allocated_until = until

    def _charge(self, path: str, seconds: float) -> None:
        self.dollars[path] = self.dollars.get(path, 0.0) + seconds * self.usd_per_hour / SECONDS_PER_HOUR


class EngineCosts(Collector):
    """The cost allocators of all engines that have or had an hourly price, and the metric of the dollars that they
    allocate.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._allocators: dict[str, EngineCostAllocator] = {}
        self._paths: frozenset[str] = frozenset()
        self._prices: HourlyPrices = dict

    def apply_config(self, prices: HourlyPrices, paths: Collection[str]) -> None:
        """Sets the engines' hourly prices, and the names of paths that may be label values; others count as `OTHER`."""
        self._prices, self._paths = prices, frozenset(paths)
        self._apply_prices(self._clock())

    def allocator(self, engine: str) -> EngineCostAllocator:
        """Returns an engine's allocator; raises KeyError if the engine never had a price."""
        return self._allocators[engine]

    def begin(self, engine: str, path: str) -> BusyInterval | None:
        allocator = self._allocators.get(engine)
        if allocator is None:
            return None
        return allocator.begin(path if path in self._paths else OTHER, self._clock())

    def end(self, interval: BusyInterval, inference: float | None) -> None:
        interval.allocator.end(interval, self._clock(), inference)

    def allocate(self) -> None:
        now = self._clock()
        self._apply_prices(now)
        for allocator in self._allocators.values():
            allocator.allocate(now)

    def _apply_prices(self, now: float) -> None:
        """Applies the current prices from `now` on. A removed engine gets the price 0, and keeps its series."""
        prices = self._prices()
        for name in self._allocators.keys() | prices.keys():
            price, allocator = prices.get(name, 0.0), self._allocators.get(name)
            if allocator is None:
                self._allocators[name] = EngineCostAllocator(price, now)
            elif allocator.usd_per_hour != price:
                allocator.set_price(price, now)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Allocates costs every `ALLOCATION_INTERVAL_SECONDS` for the length of the block."""
        async with running_periodically(self._allocate, Schedule(ALLOCATION_INTERVAL_SECONDS), "allocate engine costs"):
            yield

    async def _allocate(self) -> None:
        self.allocate()

    def collect(self) -> Iterator[CounterMetricFamily]:
        self.allocate()
        documentation = "Cost of engines with an hourly price, by the path that used them."
        family = CounterMetricFamily(ENGINE_COST_METRIC, documentation, labels=["engine", "path"])
        for engine, allocator in self._allocators.items():
            for path, dollars in allocator.dollars.items():
                family.add_metric([engine, path], dollars)
        yield family

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Returns no metric descriptions, so that registering this collector with Prometheus does not allocate any
        costs.
        """
        return iter(())
