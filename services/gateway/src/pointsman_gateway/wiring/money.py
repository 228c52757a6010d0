"""What tells of money beside the receipts, and follows the configuration as it changes."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from pointsman_gateway.backends.engines import Engines
from pointsman_gateway.config.load import Config
from pointsman_gateway.config.schema import TaskConfig
from pointsman_gateway.domain import UNKNOWN
from pointsman_gateway.metering.counterfactual import Counterfactual
from pointsman_gateway.metering.engine_accounts import EngineAccounts
from pointsman_gateway.metering.prometheus import Metrics
from pointsman_gateway.metering.stage import Metering
from pointsman_gateway.metering.standing_costs import Standing, StandingCosts
from pointsman_gateway.wiring.line import label_values, to_path


@dataclass(frozen=True, slots=True)
class Money:
    """What stays while generations come and go."""

    accounts: EngineAccounts
    counterfactual: Counterfactual
    standing: StandingCosts = field(default_factory=StandingCosts)

    @classmethod
    def registered(cls, registry: CollectorRegistry, metrics: Metrics) -> "Money":
        money = cls(EngineAccounts(), Counterfactual(metrics.sent))
        for collector in (money.accounts, money.counterfactual, money.standing):
            registry.register(collector)
        return money

    def obey(self, config: Config, engines: Engines, metering: Metering) -> None:
        """What a new generation of the configuration says of prices and choices."""
        paths = {name: to_path(name, path, config) for name, path in config.paths.paths.items()}
        default = config.tasks.default_path
        choices = {name: [paths[path] for path in _choices(task, default)] for name, task in config.tasks.tasks.items()}
        self.counterfactual.obey(metering.expected_cost, choices | {UNKNOWN: [paths[default]]})
        by_the_hour = {name: engine.dollars_per_hour for name, engine in config.models.engines.items()}
        self.accounts.obey({name: price for name, price in by_the_hour.items() if price}, label_values(config)[0])
        self.standing.obey(
            Standing(config.models, metering.pricing, tuple(paths.values()), engines.version_of, engines.trained)
        )


def _choices(task: TaskConfig, default: str) -> list[str]:
    """All paths that the task's requests may be answered along."""
    return list(dict.fromkeys([*task.policy.paths, *task.fallback, default]))
