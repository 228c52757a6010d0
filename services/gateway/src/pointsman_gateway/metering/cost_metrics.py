"""Metrics of costs that are in no receipt: what requests would have cost on other paths, and fixed costs per hour."""

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
    """Totals of the requests of one task that were routed to one path: answers, tokens, and costs in picodollars
    (1e-12 dollars).
    """

    answered: int = 0
    tokens: int = 0
    """Tokens of the answered requests' own messages."""
    paid: int = 0
    """Picodollars of the answered requests, without the training of adapters."""
    lost: int = 0
    """Picodollars of requests without an answer."""

    def __sub__(self, before: "PathTotals") -> "PathTotals":
        return PathTotals(
            self.answered - before.answered,
            self.tokens - before.tokens,
            self.paid - before.paid,
            self.lost - before.lost,
        )


class PathCosts(Protocol):
    """Interface that estimates the cost of requests on a path; `CostEstimator` implements it."""

    def picodollars(self, path: Path, requests: int, tokens: int) -> float | None:
        """Returns the expected cost, in 1e-12 dollars, of `requests` requests whose own messages have `tokens` tokens
        together; None before the path's first answer, or if the price is unknown.
        """
        ...

    def is_priced(self, path: Path) -> bool:
        """Returns whether the price of the path's model is known."""
        ...


class CounterfactualCosts(Collector):
    """Computes, for each path of a task, what all requests of the task would have cost if this path had answered them.

    A request that the path itself answered counts at its actual cost without adapter training, and a request that
    another path answered at the estimate for this path. A request without an answer counts at its actual cost. The
    costs are computed from the requests' total number of tokens when the metrics are read, not in each request.
    """

    def __init__(self, totals: Callable[[], Iterable[tuple[str, str, PathTotals]]]) -> None:
        """Takes `totals`, which returns (task, path, totals since the start of the process) for each task and path."""
        self._totals = totals
        self._costs: PathCosts | None = None
        self._paths_by_task: Mapping[str, Sequence[Path]] = {}
        self._picodollars: dict[tuple[str, str], float] = {}
        """The metric's value by task and path, in picodollars."""
        self._priced: dict[tuple[str, str, str], PathTotals] = {}
        """The totals already included, by task, the path that was used, and the path of the series."""

    def apply_config(self, costs: PathCosts, paths_by_task: Mapping[str, Sequence[Path]]) -> None:
        """Computes the costs of the requests so far with the old estimator, and then sets a new configuration's.

        `costs` estimates the cost of requests on a path. `paths_by_task` has, by task name, the paths that the task may
        use.
        """
        self.update()
        self._costs, self._paths_by_task = costs, paths_by_task

    def collect(self) -> Iterator[CounterMetricFamily]:
        self.update()
        documentation = "What all requests of a task would have cost on one path."
        family = CounterMetricFamily(COUNTERFACTUAL_METRIC, documentation, labels=["task", "path"])
        for (task, path), picodollars in self._picodollars.items():
            family.add_metric([task, path], picodollars / PICODOLLARS)
        yield family

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Returns no metric descriptions, so that registering this collector with Prometheus does not compute any
        costs.
        """
        return iter(())

    def update(self) -> None:
        """Adds the cost of the requests since the last update, for each task and each of its paths.

        Requests on a path that has no estimate yet are added by the first update after it has one.
        """
        for task, used_path, totals in self._totals():
            for path in self._paths_by_task.get(task, ()):
                self._price(task, used_path, totals, path)

    def _price(self, task: str, used_path: str, totals: PathTotals, path: Path) -> None:
        key = (task, used_path, path.name)
        priced = self._priced.get(key)
        new = totals - priced if priced else totals
        if path.name == used_path:
            cost: float | None = new.paid if self._costs and self._costs.is_priced(path) else None
        else:
            cost = self._costs.picodollars(path, new.answered, new.tokens) if self._costs else None
        if cost is None:
            return
        self._picodollars[task, path.name] = self._picodollars.get((task, path.name), 0.0) + cost + new.lost
        self._priced[key] = totals


@dataclass(frozen=True, slots=True)
class FixedCosts:
    """The costs of one configuration that do not depend on requests: engines paid by the hour, and training of
    adapters.
    """

    prices_as_of: date | None
    """The day on which somebody last checked the prices; None if nothing has a price."""
    pricing: Pricing
    paths: Sequence[Path]
    version_of: Callable[[Path], str]
    """Returns the adapter version that the path's alias names now, without a canary; "" if the path has no adapter."""
    trained_adapters: Callable[[], Iterable[tuple[str, str]]]
    """Returns a (base model, version) pair for each adapter version whose training report is known."""
    engines_usd_per_hour: Callable[[], Mapping[str, float]]
    """Returns dollars per hour of the current engines, by base model."""

    def usd_per_hour(self, path: Path) -> float:
        """Returns the dollars per hour of the path's adapter training, and of its model's engines if no other path uses
        that model: engines that several paths share would be needed without this path too.
        """
        exclusive = sum(other.model == path.model for other in self.paths) == 1
        engines = self.engines_usd_per_hour().get(path.model, 0.0) if exclusive else 0.0
        return engines + self.pricing.training_usd_per_hour(path.model, self.version_of(path))


class FixedCostMetrics(Collector):
    def __init__(self) -> None:
        self._costs: FixedCosts | None = None

    def apply_config(self, costs: FixedCosts) -> None:
        self._costs = costs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        costs = self._costs
        if costs is None:
            return
        fixed = GaugeMetricFamily(
            "pointsman_fixed_usd_per_hour", "What a path costs per hour while it is idle.", labels=["path"]
        )
        for path in costs.paths:
            fixed.add_metric([path.name], costs.usd_per_hour(path))
        yield fixed
        training = GaugeMetricFamily(
            "pointsman_training_usd", "Cost of the training of an adapter version.", labels=["adapter"]
        )
        for version, dollars in {v: costs.pricing.training_usd(m, v) for m, v in costs.trained_adapters()}.items():
            training.add_metric([version], dollars)
        yield training
        if costs.prices_as_of is None:
            return
        day = datetime.combine(costs.prices_as_of, time(), UTC)
        documentation = "Unix time of the day on which somebody last checked the prices."
        yield GaugeMetricFamily("pointsman_prices_as_of_timestamp_seconds", documentation, value=day.timestamp())

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Returns no metric descriptions, so that registering this collector with Prometheus does not compute any
        costs.
        """
        return iter(())
