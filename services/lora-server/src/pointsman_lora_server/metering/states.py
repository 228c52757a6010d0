"""How the engine and the versions stand, as seen when the metrics are asked for."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pointsman_lora_server.domain import DesiredState, EngineState, EngineStatus, VersionState, state_of


class VersionStateCollector(Collector):
    """Labels are states, and never names: there may be any number of versions."""

    def __init__(
        self,
        desired: Callable[[], DesiredState],
        engine: Callable[[], EngineState],
        slots: int,
        registry: CollectorRegistry,
    ) -> None:
        """`desired` and `engine` are asked at each scrape, from another thread: what they return never changes."""
        self._desired = desired
        self._engine = engine
        self._slots = slots
        self._before: Mapping[str, VersionState] | None = None
        self._reached: Counter[VersionState] = Counter()
        registry.register(self)

    def observe(self) -> None:
        """Counts the states that versions have reached since the last look; what lies between two looks is missed."""
        now = self._states()
        if self._before is not None:
            self._reached.update(state for name, state in now.items() if self._before.get(name) is not state)
        self._before = now

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise collect at once, before there is anything."""
        return []

    def collect(self) -> Iterable[Metric]:
        engine, desired = self._engine(), self._desired()
        up = engine.status is EngineStatus.READY
        yield GaugeMetricFamily("pointsman_lora_engine_up", "1 where the engine answers.", value=int(up))
        yield CounterMetricFamily(
            "pointsman_lora_engine_restarts", "Starts of the engine after its first.", value=engine.restarts
        )
        yield GaugeMetricFamily("pointsman_lora_slots", "Adapters that the engine can hold.", value=self._slots)
        yield GaugeMetricFamily(
            "pointsman_lora_resident", "Adapters that the engine holds.", value=len(engine.resident)
        )
        yield GaugeMetricFamily(
            "pointsman_lora_pinned", "Versions that every engine must hold.", value=len(desired.pins)
        )
        versions = GaugeMetricFamily(
            "pointsman_lora_versions", "Versions, by how they stand with this engine.", labels=["state"]
        )
        reached = CounterMetricFamily(
            "pointsman_lora_transitions", "Times that a version reached the state.", labels=["state"]
        )
        standing = Counter(self._states().values())
        for state in VersionState:
            versions.add_metric([state.value], standing[state])
            reached.add_metric([state.value], self._reached[state])
        yield versions
        yield reached

    def _states(self) -> dict[str, VersionState]:
        desired, engine = self._desired(), self._engine()
        return {name: state_of(name, desired, engine) for name in desired.standings}
