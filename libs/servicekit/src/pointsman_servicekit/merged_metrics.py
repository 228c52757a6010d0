"""Merges the metrics of several processes of one service, so that one page describes all of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Exemplar, Metric

Combine = Callable[[Iterable[float]], float]


Dump = Sequence[Sequence[Any]]
"""The metrics of one process as lists that can be written as JSON. Each metric has name, documentation, type, unit and
samples. A sample has name, labels, value, and an exemplar (labels, value, Unix seconds) or None.
"""


CUMULATIVE = ("counter", "histogram", "summary")
"""The types of metrics whose samples are added up. The sums include processes that have ended."""


PROCESS_GAUGES: Mapping[str, Combine] = {
    "process_virtual_memory_bytes": sum,
    "process_resident_memory_bytes": sum,
    "process_open_fds": sum,
    "process_max_fds": sum,
    "process_start_time_seconds": min,
}
"""The functions that combine the values of several processes, for the gauges of prometheus_client's own collectors."""


def dump_metrics(registry: CollectorRegistry) -> Dump:
    return [
        [family.name, family.documentation, family.type, family.unit, [_dump_sample(one) for one in family.samples]]
        for family in registry.collect()
    ]


def _dump_sample(sample: Any) -> list[Any]:
    exemplar = sample.exemplar
    traced = None if exemplar is None else [exemplar.labels, exemplar.value, exemplar.timestamp]
    return [sample.name, sample.labels, sample.value, traced]


class _Series:
    """The values of one series (a sample's name with its labels), one for each process that has it."""

    __slots__ = ("exemplar", "labels", "name", "values")

    def __init__(self, name: str, labels: dict[str, str]) -> None:
        self.name, self.labels = name, labels
        self.values: list[float] = []
        self.exemplar: Sequence[Any] | None = None


def merge(dumps: Iterable[Dump], gauges: Mapping[str, Combine]) -> list[Metric]:
    """Combines the metrics of several processes, sample by sample.

    Counters, histograms and summaries are added up; of their creation times the earliest is taken. `gauges` maps the
    name of a gauge to the function that combines its values; of all other gauges the largest value is taken. The latest
    exemplar is kept.
    """
    families: dict[str, Metric] = {}
    series: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], _Series]] = {}
    for dump in dumps:
        for name, documentation, kind, unit, samples in dump:
            families.setdefault(name, Metric(name, documentation, kind, unit))
            _collect(series.setdefault(name, {}), samples)
    for name, family in families.items():
        for one in series[name].values():
            value = _combination(family.type, one.name, gauges)(one.values)
            exemplar = None if one.exemplar is None else Exemplar(*one.exemplar)
            family.add_sample(one.name, one.labels, value, exemplar=exemplar)
    return list(families.values())


def _collect(series: dict[tuple[str, tuple[tuple[str, str], ...]], _Series], samples: Iterable[Sequence[Any]]) -> None:
    for name, labels, value, exemplar in samples:
        key = name, tuple(sorted(labels.items()))
        one = series.get(key)
        if one is None:
            one = series[key] = _Series(name, labels)
        one.values.append(value)
        if exemplar is not None and (one.exemplar is None or (exemplar[2] or 0) > (one.exemplar[2] or 0)):
            one.exemplar = exemplar


def _combination(kind: str, sample: str, gauges: Mapping[str, Combine]) -> Combine:
    if sample.endswith("_created"):  # when the series began
        return min
    return sum if kind in CUMULATIVE else gauges.get(sample, max)


class MergedMetrics:
    """Combines the metrics of all processes of a service, including processes that have ended.

    Without the ended processes, a counter would fall when a process ends, and Prometheus would count its remaining
    value as new. Increments after a process's last dump are lost.
    """

    def __init__(self, gauges: Mapping[str, Combine]) -> None:
        """Takes `gauges`: name of a gauge -> function that combines the gauge's values in all processes. Of a gauge
        that is not named, the largest value is taken.

        The gauges in `PROCESS_GAUGES` are combined by the functions given there.
        """
        self._gauges = {**PROCESS_GAUGES, **gauges}
        self._ended: Dump = []

    def retire(self, last: Dump) -> None:
        """Adds the counters, histograms and summaries of a process that has ended to the totals; `last` is its last
        dump.
        """
        cumulative = [family for family in last if family[2] in CUMULATIVE]
        self._ended = dump_metrics(CollectedMetrics(merge([self._ended, cumulative], {})))  # type: ignore[arg-type]  # it only collects

    def page(self, dumps: Iterable[Dump], more: Iterable[Metric] = ()) -> "CollectedMetrics":
        """Returns the merged metrics of running processes (`dumps`) and ended ones, followed by `more`, unmerged.

        The result is a registry for prometheus_client's encoders.
        """
        return CollectedMetrics([*merge([*dumps, self._ended], self._gauges), *more])


class CollectedMetrics:
    """A fixed list of metrics, with the method `collect` that prometheus_client's encoders call on a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
