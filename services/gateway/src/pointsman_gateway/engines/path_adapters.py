"""A metric of the adapter versions that paths use, from which dashboards see that an alias has moved."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class PathAdapters(Collector):
    """Reads the version of each path at each scrape; there is one series for each path with an adapter."""

    def __init__(self, versions: Callable[[], Mapping[str, str]]) -> None:
        """Takes `versions`, which returns each path's adapter version, "" without an adapter."""
        self._versions = versions

    def collect(self) -> Iterable[Metric]:
        documentation = "Always 1; the adapter version that the path uses now, canaries aside."
        family = GaugeMetricFamily("pointsman_path_adapter_info", documentation, labels=["path", "adapter"])
        for path, version in self._versions().items():
            if version:
                family.add_metric([path, version], 1)
        yield family

    def describe(self) -> Iterator[Metric]:
        """Describes no metrics: the registry calls this at registration, before there is a configuration."""
        return iter(())
