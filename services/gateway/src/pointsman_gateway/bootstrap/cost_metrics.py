"""Builds the Prometheus metrics of costs, and gives them the prices and paths of each new configuration."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from pointsman_gateway.bootstrap.catalog import paths_of
from pointsman_gateway.bootstrap.metric_labels import label_values
from pointsman_gateway.bootstrap.paths import to_path
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.domain import UNKNOWN
from pointsman_gateway.engines.engine_state import Engine
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.metering.cost_metrics import CounterfactualCosts, FixedCostMetrics, FixedCosts
from pointsman_gateway.metering.engine_hours import EngineCosts
from pointsman_gateway.metering.meter import Metering
from pointsman_gateway.metering.prometheus import GatewayMetrics


@dataclass(frozen=True, slots=True)
class CostMetrics:
    """The Prometheus collectors of the gateway's cost metrics; they stay registered across reloads of the
    configuration.
    """

    engine_costs: EngineCosts
    counterfactual: CounterfactualCosts
    fixed: FixedCostMetrics = field(default_factory=FixedCostMetrics)

    @classmethod
    def register(cls, registry: CollectorRegistry, metrics: GatewayMetrics) -> "CostMetrics":
        costs = cls(EngineCosts(), CounterfactualCosts(metrics.path_totals))
        for collector in (costs.engine_costs, costs.counterfactual, costs.fixed):
            registry.register(collector)
        return costs

    def apply_config(self, config: Config, engines: Engines, metering: Metering) -> None:
        """Makes the metrics use the prices and paths of a new configuration, instead of those of the earlier one."""
        paths = {name: to_path(name, path, config) for name, path in config.paths.paths.items()}
        default = config.tasks.default_path
        choices = {name: [paths[p] for p in paths_of(task, default)] for name, task in config.tasks.tasks.items()}
        policy = config.tasks.default_policy
        choices[UNKNOWN] = [paths[name] for name in dict.fromkeys([*(policy.paths if policy else ()), default])]
        self.counterfactual.apply_config(metering.expected_cost, choices)
        hourly = HourlyPrices(config.models, engines.all)
        self.engine_costs.apply_config(hourly.by_name, label_values(config)[0])
        self.fixed.apply_config(
            FixedCosts(
                config.models.prices_as_of,
                metering.pricing,
                tuple(paths.values()),
                engines.version_of,
                engines.trained,
                hourly.by_model,
            )
        )


@dataclass(frozen=True, slots=True)
class HourlyPrices:
    """The hourly prices in dollars of one configuration's engines; engines without such a price are left out.

    Each engine of a group has the price that is configured for the group.
    """

    models: ModelsFile
    engines: Callable[[], Iterable[Engine]]
    """Function that returns the present engines, including the members of groups."""

    def by_name(self) -> Mapping[str, float]:
        """Returns the price of each present engine that has one: name of the engine -> dollars per hour."""
        return {engine.name: price for engine, price in self._priced()}

    def by_model(self) -> Mapping[str, float]:
        """Returns what the present engines of each base model cost together: name of the model -> dollars per hour."""
        sums: dict[str, float] = {}
        for engine, price in self._priced():
            sums[engine.model] = sums.get(engine.model, 0.0) + price
        return sums

    def _priced(self) -> Iterator[tuple[Engine, float]]:
        for engine in self.engines():
            config = self.models.engines[engine.group or engine.name]
            is_placeholder = config.group is not None and not engine.group
            if config.usd_per_hour and not is_placeholder:
                yield engine, config.usd_per_hour
