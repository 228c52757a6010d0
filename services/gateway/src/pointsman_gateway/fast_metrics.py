"""Counters and histograms as plain numbers, turned into Prometheus's families only when they are scraped.

A request touches some fifteen of them on one thread; with the client library's own, each with its lock and its labels,
that took a third of the time that the gateway spends on a request.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily

Labels = tuple[str, ...]
Value = TypeVar("Value")
SORT_THRESHOLD = 24
"""Numbers that are counted faster one by one than in order."""

Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Histogram:
    """One series of a histogram."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the buckets' upper edges, ascending, without the infinite one."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, tuple[str, float, float]] = {}
        """By bucket: trace, value and Unix time of the last observation that had one."""

    def observe(self, value: float, trace_id: str = "") -> None:
        """`trace_id` names a recorded trace in which this was observed; empty where there is none."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        if trace_id:
            self.exemplify(value, trace_id, time.time())

    def add(self, values: Sequence[float]) -> None:
        """Many at once."""
        if len(values) < SORT_THRESHOLD:
            for value in values:
                self.observe(value)
            return
        ordered, begun = sorted(values), 0
        for bucket, bound in enumerate(self.bounds):
            ended = bisect_right(ordered, bound, begun)
            self.counts[bucket] += ended - begun
            begun = ended
        self.counts[-1] += len(ordered) - begun
        self.sum += sum(ordered)

    def exemplify(self, value: float, trace_id: str, unix: float) -> None:
        self.exemplars[bisect_left(self.bounds, value)] = (trace_id, value, unix)

    def buckets(self) -> list[Bucket]:
        """Upper edge, how many are at or below it, and one of those that are in no lower one."""
        total, buckets = 0, list[Bucket]()
        for number, edge in enumerate([*map(_edge, self.bounds), "+Inf"]):
            total += self.counts[number]
            kept = self.exemplars.get(number)
            if kept is None:
                buckets.append((edge, float(total)))
            else:
                trace_id, value, unix = kept
                buckets.append((edge, float(total), Exemplar({"trace_id": trace_id}, value, unix)))
        return buckets


def _edge(bound: float) -> str:
    return str(float(bound))


class Family(Generic[Value]):
    """The series of one metric, by the values of its labels; made when they are first asked for."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], make: Callable[[], Value], per: int = 1
    ) -> None:
        """`per`: how many of what is counted make one of what is shown: dollars are counted in whole parts of one."""
        self.name = name
        self.per = per
        self.documentation = documentation
        self.labels = labels
        self._make = make
        self.cells: dict[Labels, Value] = {}

    def cell(self, *labels: str) -> Value:
        cell = self.cells.get(labels)
        if cell is None:
            cell = self.cells[labels] = self._make()
        return cell


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0
        """Stays whole, and so exact, as long as only whole numbers are added."""

    def add(self, numbers: Sequence[float]) -> None:
        self.value += sum(numbers)

    def exemplify(self, number: float, trace_id: str, unix: float) -> None:
        """Counters have none."""


def counter(name: str, documentation: str, labels: Sequence[str], per: int = 1) -> Family[Count]:
    return Family(name, documentation, labels, Count, per)


def histogram(name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]) -> Family[Histogram]:
    edges = tuple(map(float, bounds))  # to compare a float with a whole number takes longer
    return Family(name, documentation, labels, lambda: Histogram(edges))


def nothing_waits() -> None:
    pass


class FastCollector:
    """Implements the client library's `Collector`."""

    def __init__(
        self,
        counters: Sequence[Family[Count]],
        histograms: Sequence[Family[Histogram]],
        settle: Callable[[], None] = nothing_waits,
    ) -> None:
        """`settle` counts what is yet to be counted; it is called before anybody reads."""
        self._counters = counters
        self._histograms = histograms
        self._settle = settle

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        self._settle()
        for counted in self._counters:
            counts = CounterMetricFamily(counted.name, counted.documentation, labels=counted.labels)
            for labels, count in counted.cells.items():
                counts.add_metric(labels, count.value / counted.per)
            yield counts
        for observed in self._histograms:
            spread = HistogramMetricFamily(observed.name, observed.documentation, labels=observed.labels)
            for labels, cell in observed.cells.items():
                spread.add_metric(labels, cell.buckets(), cell.sum)
            yield spread


Row = tuple[float, ...]


class Series(Protocol):
    """Something that numbers are counted in."""

    def add(self, numbers: Sequence[float]) -> None: ...

    def exemplify(self, number: float, trace_id: str, unix: float) -> None:
        """`number` was seen in the recorded trace of that name; it is counted by `add`."""
        ...


class SeriesBatch:
    """The requests of one sort."""

    __slots__ = ("_columns", "rows")

    def __init__(self, columns: Sequence[str], cells: Iterable[tuple[str, Series]]) -> None:
        """`columns` are the names of a row's numbers, `cells` say in what each is to be counted. Raises KeyError for a
        cell of another column."""
        by_name: dict[str, list[Series]] = {name: [] for name in columns}
        for name, cell in cells:
            by_name[name].append(cell)
        self._columns = list(by_name.values())
        self.rows: list[Row] = []
        """Those that wait."""

    def settle(self) -> None:
        """Counts those that wait."""
        if not self.rows:
            return
        for cells, numbers in zip(self._columns, zip(*self.rows, strict=True), strict=True):
            for cell in cells:
                cell.add(numbers)
        self.rows.clear()

    def exemplify(self, row: Row, trace_id: str, unix: float) -> None:
        """`row` was seen in the recorded trace of that name; it is counted as the others."""
        for cells, number in zip(self._columns, row, strict=True):
            for cell in cells:
                cell.exemplify(number, trace_id, unix)
