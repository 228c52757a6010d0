"""A Prometheus metric of the adapter version that each path uses, so that dashboards show when an alias has moved."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class PathAdapters(Collector):
    """The gauge `pointsman_path_adapter_info`, with one series for each path with an adapter, read at each scrape."""

    def __init__(self, versions: Callable[[], Mapping[str, str]]) -> None:
        """Takes `versions`, which returns the adapter version by the path's name, "" for a path without an adapter."""
        self._versions = versions

    def collect(self) -> Iterable[Metric]:
        documentation = "Always 1; the adapter version that the path uses now, canaries aside."
        family = GaugeMetricFamily("pointsman_path_adapter_info", documentation, labels=["path", "adapter"])
        for path, version in self._versions().items():
            if version:
                family.add_metric([path, version], 1)
        yield family

    def describe(self) -> Iterator[Metric]:
        """Returns no metrics: Prometheus' registry calls this at registration, when there is no configuration yet."""
        return iter(())
