"""All metrics of the lora-server."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pointsman_lora_server.domain import EngineState, EngineStatus

LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Implements `LoadMeter`."""

    def __init__(self, state: Callable[[], EngineState]) -> None:
        """`state` is what is true now; it is asked at each scrape, from another thread."""
        self.registry = CollectorRegistry()
        self._loads = Counter(
            "pointsman_lora_loads", "Adapters brought into the engine.", ["result"], registry=self.registry
        )
        self._seconds = Histogram(
            "pointsman_lora_load_seconds",
            "From the store's check to the first answer.",
            buckets=LOAD_SECONDS,
            registry=self.registry,
        )
        for result in ("loaded", "failed"):
            self._loads.labels(result)
        self.registry.register(_EngineCollector(state))

    @contextmanager
    def loading(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except BaseException:
            self._loads.labels("failed").inc()
            raise
        self._loads.labels("loaded").inc()
        self._seconds.observe(time.perf_counter() - started)


class _EngineCollector(Collector):
    def __init__(self, state: Callable[[], EngineState]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        state = self._state()
        up = state.status is EngineStatus.READY
        yield GaugeMetricFamily("pointsman_lora_engine_up", "1 where the engine answers.", value=int(up))
        yield GaugeMetricFamily("pointsman_lora_resident", "Adapters that the engine holds.", value=len(state.resident))
        yield CounterMetricFamily(
            "pointsman_lora_engine_restarts", "Starts of the engine after its first.", value=state.restarts
        )
