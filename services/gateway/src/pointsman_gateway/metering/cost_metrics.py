"""What each task's requests would have cost, had all of them been sent along one path.

Nothing of it is reckoned while requests wait. What a request would cost along a path is linear in its length: what many
would cost follows from the sum of their lengths, whenever somebody looks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pointsman_gateway.domain import PICODOLLARS, Path
from pointsman_gateway.metering.pricing import Pricing

COUNTERFACTUAL_METRIC = "pointsman_counterfactual_cost_usd"


@dataclass(frozen=True, slots=True)
class PathTotals:
    """The requests of one task that were sent along one path, added up."""

    answered: int = 0
    tokens: int = 0
    """Of their own, of those that were answered."""
    paid: int = 0
    """Picodollars that they cost, without the training of adapters."""
    lost: int = 0
    """Picodollars that those cost which were not answered."""

    def __sub__(self, before: "PathTotals") -> "PathTotals":
        return PathTotals(
            self.answered - before.answered,
            self.tokens - before.tokens,
            self.paid - before.paid,
            self.lost - before.lost,
        )


class Costs(Protocol):
    """Knows what answers along a path are like."""

    def picodollars(self, path: Path, requests: int, tokens: int) -> float | None:
        """None where nothing is known of the path yet."""
        ...


class CounterfactualCosts(Collector):
    """Requests that were answered along a path count there at what they cost; others at what they would have. What was
    spent on a request without an answer would have been spent on any path."""

    def __init__(self, sent: Callable[[], Iterable[tuple[str, str, PathTotals]]]) -> None:
        """`sent` by task and path."""
        self._sent = sent
        self._costs: Costs | None = None
        self._choices: Mapping[str, Sequence[Path]] = {}
        self._told: dict[tuple[str, str], float] = {}
        """Picodollars, by task and the one path."""
        self._seen: dict[tuple[str, str, str], PathTotals] = {}
        """What has been priced, by task, the path it took, and the one path."""

    def obey(self, costs: Costs, choices: Mapping[str, Sequence[Path]]) -> None:
        """`choices` are the paths that each task may take, by the configuration that serves."""
        self.look()
        self._costs, self._choices = costs, choices

    def collect(self) -> Iterator[CounterMetricFamily]:
        self.look()
        told = "Dollars that all requests of a task would have cost along one path."
        family = CounterMetricFamily(COUNTERFACTUAL_METRIC, told, labels=["task", "path"])
        for (task, path), picodollars in self._told.items():
            family.add_metric([task, path], picodollars / PICODOLLARS)
        yield family

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Nothing, so that registering it reckons nothing."""
        return iter(())

    def look(self) -> None:
        """Prices what has been sent since the last look. A path that nothing is known of waits until something is."""
        for task, taken, sent in self._sent():
            for path in self._choices.get(task, ()):
                self._price(task, taken, sent, path)

    def _price(self, task: str, taken: str, sent: PathTotals, path: Path) -> None:
        place = (task, taken, path.name)
        seen = self._seen.get(place)
        more = sent - seen if seen else sent
        if path.name == taken:
            cost: float | None = more.paid
        else:
            cost = self._costs.picodollars(path, more.answered, more.tokens) if self._costs else None
        if cost is None:
            return
        self._told[task, path.name] = self._told.get((task, path.name), 0.0) + cost + more.lost
        self._seen[place] = sent


@dataclass(frozen=True, slots=True)
class FixedCosts:
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


class FixedCostMetrics(Collector):
    def __init__(self) -> None:
        self._standing: FixedCosts | None = None

    def obey(self, standing: FixedCosts) -> None:
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
