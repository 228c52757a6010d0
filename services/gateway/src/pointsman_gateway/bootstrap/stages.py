"""Builds the validators of a task."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pointsman_gateway.bootstrap.persistence import cached
from pointsman_gateway.cache.stage import CacheResources
from pointsman_gateway.classification.cascade import CascadeClassifier
from pointsman_gateway.classification.stage import Classification, RuleMatcher
from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.config.schema import EngineConfig, PathConfig, StrategyConfig, TaskConfig
from pointsman_gateway.domain import AUTO, PATH_PREFIX, UNKNOWN, Path, Sampling, Vector
from pointsman_gateway.engines.engine_client import EngineClient
from pointsman_gateway.engines.engines import Engine, Engines
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.engines.stage import AdapterLoading, EngineBackend
from pointsman_gateway.extensions import Found, Search, Strategy, StrategyContext
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.metering.canary import CanaryOutcomes
from pointsman_gateway.metering.engine_hours import EngineCosts
from pointsman_gateway.metering.gen_ai import OPENAI, VLLM
from pointsman_gateway.metering.meter import Metering
from pointsman_gateway.metering.pricing import ExpectedCost, PathStatistics, Pricing
from pointsman_gateway.pipeline.pipeline import Line
from pointsman_gateway.prompts.stage import Prompts
from pointsman_gateway.prompts.templates import PromptTemplates
from pointsman_gateway.routing.path_state import ALWAYS_FRESH, Evidence, Freshness, NoEvidence
from pointsman_gateway.routing.router import Router
from pointsman_gateway.validation.stage import Named, Validation


def to_validators(name: str, task: TaskConfig) -> list[Named]:
    """Return the validators of the task called `name`, with their names. Raises ConfigError."""
    validators: list[Named] = []
    for validator in task.validators:
        try:
            validators.append((validator.name, validator.build()))
        except ValueError as error:
            raise ConfigError(f"tasks.yaml: task '{name}': validator {validator.name}: {error}") from error
    return validators


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What stays while generations come and go."""

    client: EngineClient
    search: Search
    counting: MetricsAggregator
    evidence: Evidence = field(default_factory=NoEvidence)
    engine_metrics: EngineMetrics | None = None
    cache: CacheResources | None = None
    trials: CanaryOutcomes = field(default_factory=CanaryOutcomes)
    freshness: Freshness = ALWAYS_FRESH
    habits: PathStatistics = field(default_factory=PathStatistics)
    accounts: EngineCosts = field(default_factory=EngineCosts)
    lend_slot: Callable[[], AbstractContextManager[None]] = nullcontext
    """Lends a request's slot to another one while it waits for an adapter."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A classifier, and the examples' vectors by task."""

    classifier: CascadeClassifier
    vectors: Mapping[str, NDArray[np.float32]]


def build_line(config: Config, learned: Learned, engines: Engines, around: Surroundings) -> Line:
    """Raises ConfigError."""
    paths = {name: to_path(name, path, config) for name, path in config.paths.paths.items()}
    pricing = Pricing(config.models, engines.training_seconds)
    expected_cost = ExpectedCost(pricing, around.habits)
    named = NamedModels(config, engines)
    now = asyncio.get_running_loop().time
    resilience = config.models.resilience
    backends = EngineBackend(engines, around.client, now, resilience, around.engine_metrics, around.accounts)
    loading = AdapterLoading(backends, engines, now, resilience, around.lend_slot)
    return Line(
        generation=config.digest,
        resolve_model=named.resolve,
        classification=Classification(
            RuleMatcher(config.tasks.tasks), learned.classifier, config.tasks.classifier.languages
        ),
        router=Router(
            paths,
            config.tasks.tasks,
            config.tasks.default_path,
            engines,
            named,
            expected_cost,
            around.evidence,
            engines,
            config.digest,
            around.freshness,
        ),
        prompts=Prompts(_strategies(config, learned, around.search)),
        answers=cached(loading, around.cache, config, paths, engines, learned.classifier),
        validation=Validation({name: to_validators(name, task) for name, task in config.tasks.tasks.items()}),
        metering=Metering(pricing, expected_cost, around.counting, around.trials),
    )


def label_values(config: Config) -> tuple[list[str], list[str]]:
    """The paths and the tasks by which metrics may be labelled."""
    return [*config.paths.paths, *config.models.models], [*config.tasks.tasks, UNKNOWN]


def gen_ai_names(config: Config) -> tuple[dict[str, str], set[str], list[str]]:
    """Models with the provider that OpenTelemetry's metrics name, adapters without their version, and paths."""
    beside_vllm = {engine.model for engine in config.models.engines.values() if engine.lora_server}
    providers = {name: VLLM if name in beside_vllm else OPENAI for name in config.models.models}
    adapters = {path.adapter.partition("@")[0] for path in config.paths.paths.values() if path.adapter}
    return providers, adapters, list(config.paths.paths)


class NamedModels:
    """The plain paths behind the names that a request may force: base models and adapters."""

    def __init__(self, config: Config, engines: Engines) -> None:
        self.plain = {name: Path(name, name) for name in config.models.models}
        self._paths = tuple(config.paths.paths)
        self._engines = engines
        aliases, embeddings = config.models.aliases, config.models.embeddings
        self._aliases = {alias: name for alias, name in aliases.items() if name not in embeddings}
        self._catch_all = config.models.catch_all

    def resolve(self, model: str) -> str:
        """Return what an alias stands for, what the configuration has for unknown models, or else `model`."""
        if model == AUTO:
            return model
        target = self._aliases.get(model)
        if target is not None:
            return target
        if self._catch_all is None or not model or model.startswith(PATH_PREFIX) or self.path_of(model) is not None:
            return model
        return self._catch_all

    def path_of(self, model: str) -> Path | None:
        """Implements the router's `NamedPaths`."""
        if model in self.plain:
            return self.plain[model]
        base = self._engines.model_of(model)
        return Path(f"adapter:{model}", base, adapter=model) if base else None

    def names(self) -> Sequence[str]:
        """Everything that a request's `model` may say now."""
        paths = (PATH_PREFIX + name for name in self._paths)
        return [AUTO, *self._aliases, *self.plain, *paths, *self._engines.adapters()]


def check(config: Config) -> None:
    """Tries what can be tried without any service: renders every prompt, builds every validator. Raises ConfigError."""
    for name, task in config.tasks.tasks.items():
        to_validators(name, task)
    templates = PromptTemplates(config.prompts)
    for name, path in config.paths.paths.items():
        for strategy in path.strategies:
            try:
                _strategy(strategy, templates, config, None, _NoSearch())
            except ValueError as error:
                raise ConfigError(f"paths.yaml: path '{name}': {error}") from error


class _NoSearch:
    """For checking a configuration, which retrieves nothing."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        return Found((), False)


def to_path(name: str, path: PathConfig, config: Config) -> Path:
    sampling = Sampling(
        max_tokens=path.max_tokens,
        temperature=path.temperature,
        stop=path.stop,
        structured_max_tokens=path.structured_max_tokens,
    )
    strategies = tuple(s.name for s in path.strategies)
    collections = tuple(name for s in path.strategies for name in s.resources.collections)
    shows_examples = any(s.resources.examples for s in path.strategies)
    fingerprint = _fingerprint(path, config)
    return Path(
        name, path.model, path.adapter, strategies, sampling, collections, fingerprint, shows_examples=shows_examples
    )


def _fingerprint(path: PathConfig, config: Config) -> str:
    """Of what the path is made of; another text in one of its prompts makes it another path to judge."""
    digest = hashlib.blake2b(path.model_dump_json(exclude={"cache"}).encode(), digest_size=6)
    for strategy in path.strategies:
        resources = strategy.resources
        for prompt in resources.prompts:
            digest.update(config.prompts[prompt].encode())
        for task, _ in resources.examples:
            digest.update(repr(config.examples[task]).encode())
    return digest.hexdigest()


def to_engine(name: str, engine: EngineConfig) -> Engine:
    """Raises ConfigError where the key that it needs is not in the environment."""
    api_key = ""
    if engine.api_key_env:
        api_key = os.environ.get(engine.api_key_env, "")
        if not api_key:
            raise ConfigError(
                f"models.yaml: engine '{name}' needs the environment variable {engine.api_key_env}, which is not set"
            )
    ready = bool(engine.url) and not engine.group
    return Engine(name, engine.model, engine.url.rstrip("/"), ready=ready, api_key=api_key)


def _strategies(config: Config, learned: Learned, search: Search) -> dict[str, list[Strategy]]:
    templates = PromptTemplates(config.prompts)
    return {
        name: [_strategy(strategy, templates, config, learned, search) for strategy in path.strategies]
        for name, path in config.paths.paths.items()
    }


def _strategy(
    config: StrategyConfig, templates: PromptTemplates, whole: Config, learned: Learned | None, search: Search
) -> Strategy:
    """Build a strategy. `learned` is None if the configuration is only checked. Raises ValueError."""
    tasks = [task for task, _ in config.resources.examples]
    examples = {task: whole.examples[task] for task in tasks}
    vectors = {
        task: learned.vectors[task] if learned else np.zeros((len(rows), 1), np.float32)
        for task, rows in examples.items()
    }
    embed = learned.classifier if learned else None
    strategy: Strategy = config.build(StrategyContext(templates, search, embed, examples, vectors))
    return strategy
