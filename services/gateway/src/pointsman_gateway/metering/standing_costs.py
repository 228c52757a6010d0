"""Dollars that pass with the hours, whoever asks: a path's own engines, and its adapter's training."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pointsman_gateway.domain import Path
from pointsman_gateway.metering.pricing import Pricing


@dataclass(frozen=True, slots=True)
class Standing:
    """What of one generation of the configuration costs something whether it is used or not."""

    prices_as_of: date
    pricing: Pricing
    paths: Sequence[Path]
    version_of: Callable[[Path], str]
    """Names the adapter's version that would answer along a path now."""
    adapters: Callable[[], Iterable[tuple[str, str]]]
    """Base model and version of all adapters whose training report is known."""
    engines_usd_per_hour: Callable[[], Mapping[str, float]]
    """Of the own engines that there are now, by their base model."""

    def fixed_usd_per_hour(self, path: Path) -> float:
        """Of engines whose model no other path uses, and of its adapter's training. An engine that several paths share
        would be paid for without any one of them."""
        alone = sum(other.model == path.model for other in self.paths) == 1
        of_engines = self.engines_usd_per_hour().get(path.model, 0.0) if alone else 0.0
        return of_engines + self.pricing.training_usd_per_hour(path.model, self.version_of(path))


class StandingCosts(Collector):
    def __init__(self) -> None:
        self._standing: Standing | None = None

    def obey(self, standing: Standing) -> None:
        """What holds from now on."""
        self._standing = standing

    def collect(self) -> Iterator[GaugeMetricFamily]:
        standing = self._standing
        if standing is None:
            return
        fixed = GaugeMetricFamily(
            "pointsman_fixed_usd_per_hour", "Dollars an hour that a path costs while nobody asks it.", labels=["path"]
        )
        for path in standing.paths:
            fixed.add_metric([path.name], standing.fixed_usd_per_hour(path))
        yield fixed
        training = GaugeMetricFamily(
            "pointsman_training_usd", "Dollars that the training of an adapter's version has cost.", labels=["adapter"]
        )
        for version, dollars in {v: standing.pricing.training_usd(m, v) for m, v in standing.adapters()}.items():
            training.add_metric([version], dollars)
        yield training
        day = datetime.combine(standing.prices_as_of, time(), UTC)
        told = "Unix time of the day on which the prices were last looked at."
        yield GaugeMetricFamily("pointsman_prices_as_of_timestamp_seconds", told, value=day.timestamp())

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing: all of it is made when somebody looks."""
        return iter(())
