"""What tells of money beside the receipts, and follows the configuration as it changes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from pointsman_gateway.bootstrap.stages import label_values, to_path
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.schema import ModelConfig, ModelsFile, TaskConfig
from pointsman_gateway.domain import UNKNOWN
from pointsman_gateway.domain.path import Catalog, CatalogModel, CatalogTask
from pointsman_gateway.engines.engines import Engine, Engines
from pointsman_gateway.metering.cost_metrics import CounterfactualCosts, FixedCostMetrics, FixedCosts
from pointsman_gateway.metering.engine_hours import EngineCosts
from pointsman_gateway.metering.meter import Metering
from pointsman_gateway.metering.prometheus import GatewayMetrics


@dataclass(frozen=True, slots=True)
class Money:
    """What stays while generations come and go."""

    accounts: EngineCosts
    counterfactual: CounterfactualCosts
    standing: FixedCostMetrics = field(default_factory=FixedCostMetrics)

    @classmethod
    def registered(cls, registry: CollectorRegistry, metrics: GatewayMetrics) -> "Money":
        money = cls(EngineCosts(), CounterfactualCosts(metrics.path_totals))
        for collector in (money.accounts, money.counterfactual, money.standing):
            registry.register(collector)
        return money

    def obey(self, config: Config, engines: Engines, metering: Metering) -> None:
        """What a new generation of the configuration says of prices and choices."""
        paths = {name: to_path(name, path, config) for name, path in config.paths.paths.items()}
        default = config.tasks.default_path
        choices = {name: [paths[path] for path in _choices(task, default)] for name, task in config.tasks.tasks.items()}
        self.counterfactual.apply_config(metering.expected_cost, choices | {UNKNOWN: [paths[default]]})
        hourly = Hourly(config.models, engines.all)
        self.accounts.apply_config(hourly.by_name, label_values(config)[0])
        self.standing.apply_config(
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
class Hourly:
    """What one generation's engines cost an hour; each member of a group costs what is written of the group."""

    models: ModelsFile
    engines: Callable[[], Iterable[Engine]]
    """Those that there are now."""

    def by_name(self) -> Mapping[str, float]:
        return {engine.name: price for engine, price in self._priced()}

    def by_model(self) -> Mapping[str, float]:
        """Of all engines of a base model together."""
        sums: dict[str, float] = {}
        for engine, price in self._priced():
            sums[engine.model] = sums.get(engine.model, 0.0) + price
        return sums

    def _priced(self) -> Iterator[tuple[Engine, float]]:
        for engine in self.engines():
            written = self.models.engines[engine.group or engine.name]
            stands_for_nobody = written.group is not None and not engine.group
            if written.usd_per_hour and not stands_for_nobody:
                yield engine, written.usd_per_hour


def _choices(task: TaskConfig, default: str) -> list[str]:
    """All paths that the task's requests may be answered along."""
    return list(dict.fromkeys([*task.policy.paths, *task.fallback, default]))


def to_catalogue(config: Config) -> Catalog:
    return Catalog(
        default_path=config.tasks.default_path,
        search_usd=config.models.retrieval.usd_per_search,
        tasks={name: _task(task, config) for name, task in config.tasks.tasks.items()},
        paths={name: to_path(name, path, config) for name, path in config.paths.paths.items()},
        models={name: _model(model) for name, model in config.models.models.items()},
    )


def _task(task: TaskConfig, config: Config) -> CatalogTask:
    in_order = (*task.policy.paths, *task.fallback, config.tasks.default_path)
    return CatalogTask(task.policy.name, tuple(dict.fromkeys(in_order)), _metric(task, config))


def _metric(task: TaskConfig, config: Config) -> dict[str, Any] | None:
    if task.metric is None:
        return None
    if task.metric.judge is None:
        return task.metric.model_dump(exclude_unset=True)
    judge = task.metric.judge
    return {"judge": {"model": judge.model, "prompt": config.prompts[judge.prompt] if judge.prompt else ""}}


def _model(model: ModelConfig) -> CatalogModel:
    return CatalogModel(model.context_window, model.usd_per_million_tokens.model_dump())
