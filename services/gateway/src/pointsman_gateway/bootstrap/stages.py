"""Builds the stages of one configuration, and checks whatever can be checked without any service."""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from pointsman_gateway.cache.keys import CacheKeyBuilder
from pointsman_gateway.cache.stage import CacheResources, CachingBackend
from pointsman_gateway.classification import NoClassification
from pointsman_gateway.config.field_types import StrategyConfig
from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.config.paths_file import PathConfig
from pointsman_gateway.config.tasks_file import TaskConfig
from pointsman_gateway.conversations.stage import ConversationBook, Conversations, terms_of
from pointsman_gateway.domain import AUTO, PATH_PREFIX, UNKNOWN, Path, Sampling, Vector
from pointsman_gateway.embeddings.models import LocalEmbedder
from pointsman_gateway.engines.engine_client import EngineClient
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.engines.stage import AdapterLoading, EngineBackend
from pointsman_gateway.engines.token_counter import TokenCounter
from pointsman_gateway.extensions import Embed, Found, GuardrailContext, Search, Strategy, StrategyContext
from pointsman_gateway.extensions.http_poster import HttpPoster
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.metering.canary_outcomes import CanaryOutcomes
from pointsman_gateway.metering.context_prices import ContextPricing
from pointsman_gateway.metering.engine_hours import EngineCosts
from pointsman_gateway.metering.gen_ai import OPENAI
from pointsman_gateway.metering.meter import Metering
from pointsman_gateway.metering.pricing import CostEstimator, PathStatistics, Pricing
from pointsman_gateway.pipeline.guarded_answer import GuardedBackend
from pointsman_gateway.pipeline.guarded_stages import GuardedClassification, GuardedMetering, GuardedPrompts
from pointsman_gateway.pipeline.guardrails import ActiveGuardrail, GuardrailMetrics, Guardrails
from pointsman_gateway.pipeline.pipeline import Stages
from pointsman_gateway.ports import Backend, Classifier
from pointsman_gateway.prompts.strategies import Prompts
from pointsman_gateway.routing.left_out import LeftOutFields, ModelFields
from pointsman_gateway.routing.path_state import ALWAYS_FRESH, Evidence, Freshness, NoEvidence
from pointsman_gateway.routing.router import Router
from pointsman_gateway.validation.stage import Named, Validation

if TYPE_CHECKING:  # not imported by a gateway without tasks and prompts, for the sake of its memory
    from pointsman_gateway.classification.cascade import CascadeClassifier
    from pointsman_gateway.prompts.templates import PromptTemplates


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The parts that the stages of all configurations share."""

    client: EngineClient
    search: Search
    counting: MetricsAggregator
    evidence: Evidence = field(default_factory=NoEvidence)
    engine_metrics: EngineMetrics | None = None
    cache: CacheResources | None = None
    canary_outcomes: CanaryOutcomes = field(default_factory=CanaryOutcomes)
    freshness: Freshness = ALWAYS_FRESH
    path_statistics: PathStatistics = field(default_factory=PathStatistics)
    engine_costs: EngineCosts = field(default_factory=EngineCosts)
    lend_slot: Callable[[], AbstractContextManager[None]] = nullcontext
    """Lends a request's slot to another one while it waits for an adapter."""
    litellm_client: EngineClient | None = None
    """The client if an engine is one of LiteLLM's; None: there is none such."""
    http: HttpPoster | None = None
    """The HTTP client of token counting and of guardrails. None: token counts are estimated."""
    conversations: ConversationBook = field(default_factory=ConversationBook)
    guardrail_metrics: GuardrailMetrics = field(default_factory=lambda: GuardrailMetrics(CollectorRegistry()))


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """The classifier and the embedding model, as far as a configuration needs them."""

    classifier: "CascadeClassifier | None" = None
    """None without tasks."""
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    """Of the examples, by task."""
    embed: Embed | None = None
    """None if nothing needs an embedding."""
    fingerprint: str = ""
    """Of the model that computes the vectors; empty without one."""
    endpoint: LocalEmbedder | None = None
    """Embeds for `/v1/embeddings`; None if the model is not in this process."""


def build_stages(config: Config, models: LoadedModels, engines: Engines, dependencies: Dependencies) -> Stages:
    """Builds the stages of a configuration; raises ConfigError."""
    paths = {name: to_path(name, path, config) for name, path in config.paths.paths.items()}
    pricing = Pricing(config.models, engines.training_seconds)
    expected_cost = CostEstimator(pricing, dependencies.path_statistics)
    named = NamedModels(config, engines)
    now = asyncio.get_running_loop().time
    resilience = config.models.resilience
    is_paid_hourly = any(engine.usd_per_hour for engine in config.models.engines.values())
    busy_times = dependencies.engine_costs if is_paid_hourly else None
    uses_litellm = any(engine.uses_litellm for engine in config.models.engines.values())
    client = (dependencies.litellm_client if uses_litellm else None) or dependencies.client
    backend = EngineBackend(engines, client, now, resilience, dependencies.engine_metrics, busy_times)
    loading = AdapterLoading(backend, engines, now, resilience, dependencies.lend_slot)
    embedding = config.models.embedding
    languages = () if embedding and embedding.multilingual else config.tasks.classifier.languages
    stages = Stages(
        revision=config.digest,
        resolve_model=named.resolve,
        classification=_classification(config, models, languages),
        conversations=Conversations(
            {name: terms_of(task, paths) for name, task in config.tasks.tasks.items()}, dependencies.conversations
        ),
        router=Router(
            paths,
            config.tasks.tasks,
            config.tasks.default_path,
            availability=engines,
            named=named,
            expected_cost=expected_cost,
            evidence=dependencies.evidence,
            adapters=engines,
            generation=config.digest,
            freshness=dependencies.freshness,
            model_inputs={name: model.input for name, model in config.models.models.items()},
            model_fallbacks=named.fallbacks,
            left_out=LeftOutFields(_fields_by_model(config)),
            change_prices=ContextPricing(pricing, expected_cost.statistics, _usd_per_hour(config)),
        ),
        prompts=Prompts(_strategies(config, models, dependencies.search)),
        backend=_wrap_in_cache(loading, dependencies.cache, config, paths, engines, models),
        validation=Validation({name: to_validators(name, task) for name, task in config.tasks.tasks.items()}),
        metering=Metering(pricing, expected_cost, dependencies.counting, dependencies.canary_outcomes),
        token_counter=TokenCounter(engines, dependencies.http, now),
    )
    return _wrap_in_guardrails(stages, config, dependencies)


def _usd_per_hour(config: Config) -> Mapping[str, float]:
    """Returns the price of an engine, by model, for the models whose engines are paid by the hour."""
    return {of.model: of.usd_per_hour for of in reversed(config.models.engines.values()) if of.usd_per_hour}


def _fields_by_model(config: Config) -> Mapping[str, ModelFields]:
    fields: dict[str, ModelFields] = {}
    for engine in config.models.engines.values():
        known = fields.get(engine.model, ModelFields())
        fields[engine.model] = ModelFields(
            known.ignored | engine.accepted_fields.ignored,
            known.reads_anthropic or engine.preset.dialect == "anthropic",
        )
    return fields


def _classification(config: Config, models: LoadedModels, languages: Collection[str]) -> Classifier:
    """Builds classification; raises ConfigError if a policy's predictions are for another embedding model."""
    if models.classifier is None or models.embed is None:
        return NoClassification()
    from pointsman_gateway.classification.rules import RuleMatcher
    from pointsman_gateway.classification.stage import Classification, EmbeddedClassification
    from pointsman_gateway.classification.wrappers import to_wrapper

    tasks, in_use = config.tasks.tasks, models.fingerprint
    for name, task in tasks.items():
        encoder = task.policy.implementation.encoder(task.policy.options)
        if encoder not in ("", in_use):
            raise ConfigError(
                f"tasks.yaml: task '{name}': its policy's weights are for the embedding model {encoder}, but "
                f"{in_use} is in use; run `pointsman predict` again"
            )
    wrappers = [to_wrapper(one.model_dump()) for one in config.tasks.classifier.wrappers]
    classification = Classification(RuleMatcher(tasks), models.classifier, languages, wrappers)
    embedded = frozenset(name for name, task in tasks.items() if task.policy.implementation.needs_vector)
    return EmbeddedClassification(classification, models.embed, embedded) if embedded else classification


def to_validators(name: str, task: TaskConfig) -> list[Named]:
    """Returns the validators of the task called `name`, with their names; raises ConfigError."""
    validators: list[Named] = []
    for validator in task.validators:
        try:
            validators.append((validator.name, validator.build()))
        except ValueError as error:
            raise ConfigError(f"tasks.yaml: task '{name}': validator {validator.name}: {error}") from error
    return validators


def _wrap_in_cache(
    inner: Backend,
    cache: CacheResources | None,
    config: Config,
    paths: Mapping[str, Path],
    engines: Engines,
    models: LoadedModels,
) -> Backend:
    """Wraps a backend in the cache, unless no path caches; raises ConfigError if one does without Redis."""
    rules = {name: path.cache for name, path in config.paths.paths.items() if path.cache and path.cache.exact}
    if not rules:
        return inner
    if cache is None:
        first = next(iter(rules))
        raise ConfigError(f"paths.yaml: path '{first}' caches, and there is no Redis; set POINTSMAN_GATEWAY_REDIS_URL")
    key_builders = {name: CacheKeyBuilder(paths[name], rule, models.fingerprint) for name, rule in rules.items()}
    return CachingBackend(inner, cache, key_builders, engines.version_of, models.embed)


def to_guardrails(config: Config, http: HttpPoster | None) -> list[ActiveGuardrail]:
    """Creates the guardrails; `http` is None if the configuration is only checked. Raises ConfigError."""
    guardrails = []
    for guardrail in config.tasks.guardrails:
        try:
            built = guardrail.check.build(GuardrailContext(guardrail.name, http))
        except ValueError as error:
            raise ConfigError(f"tasks.yaml: guardrail '{guardrail.name}': {error}") from error
        guardrails.append(ActiveGuardrail(guardrail, built))
    return guardrails


def _wrap_in_guardrails(stages: Stages, config: Config, dependencies: Dependencies) -> Stages:
    """Returns the stages with wrappers for the configured hooks; without guardrails, `stages` itself."""
    active = to_guardrails(config, dependencies.http)
    if not active:
        return stages
    guardrails = Guardrails(active, dependencies.guardrail_metrics)
    stages = replace(stages, metering=GuardedMetering(stages.metering, dependencies.guardrail_metrics))
    if guardrails.at("request"):
        stages = replace(stages, classification=GuardedClassification(stages.classification, guardrails))
    if guardrails.at("prompt"):
        stages = replace(stages, prompts=GuardedPrompts(stages.prompts, guardrails))
    if guardrails.at("response"):
        stages = replace(stages, backend=GuardedBackend(stages.backend, guardrails))
    return stages


def label_values(config: Config) -> tuple[list[str], list[str]]:
    """Returns the paths and the tasks that may be metric labels."""
    return [*config.paths.paths, *config.models.models], [*config.tasks.tasks, UNKNOWN]


def gen_ai_names(config: Config) -> tuple[dict[str, str], set[str], list[str]]:
    """Returns models with their `gen_ai.provider.name`, adapters without their version, and paths."""
    names = dict.fromkeys(config.models.models, OPENAI)
    for engine in reversed(config.models.engines.values()):  # the first engine of a model counts
        names[engine.model] = names[engine.upstream_name] = engine.preset.gen_ai_provider
    adapters = {path.adapter.partition("@")[0] for path in config.paths.paths.values() if path.adapter}
    return names, adapters, list(config.paths.paths)


class NamedModels:
    """The base models and adapters that a request may name; implements `NamedPaths` and `ModelNames`."""

    def __init__(self, config: Config, engines: Engines) -> None:
        self.plain = {name: Path(name, name, tuned_from=of.tuned_from) for name, of in config.models.models.items()}
        models = config.models.models.items()
        self.fallbacks = {name: [self.plain[other] for other in of.fallback] for name, of in models if of.fallback}
        self._paths = tuple(config.paths.paths)
        self._engines = engines
        aliases, embeddings = config.models.aliases, config.models.embeddings
        self._aliases = {alias: name for alias, name in aliases.items() if name not in embeddings}
        self._catch_all = config.models.catch_all
        self._sampling = _sampling_of_adapters(config)

    def resolve(self, model: str) -> str:
        """Returns the model behind an alias, the `catch_all` for an unknown name, or else `model` itself."""
        if model == AUTO:
            return model
        target = self._aliases.get(model)
        if target is not None:
            return target
        if self._catch_all is None or not model or model.startswith(PATH_PREFIX) or self.path_of(model) is not None:
            return model
        return self._catch_all

    def path_of(self, model: str) -> Path | None:
        """Returns the path that answers with a base model or an adapter; None if the name is unknown."""
        if model in self.plain:
            return self.plain[model]
        base = self._engines.model_of(model)
        if not base:
            return None
        sampling = self._sampling.get(model.partition("@")[0], Sampling())
        return Path(f"adapter:{model}", base, adapter=model, sampling=sampling)

    def names(self) -> Sequence[str]:
        """Returns all values that a request's `model` may have now."""
        paths = (PATH_PREFIX + name for name in self._paths)
        # A discovered adapter may be called like a model or an alias, which then has the name.
        return list(dict.fromkeys([AUTO, *self._aliases, *self.plain, *paths, *self._engines.adapters()]))


def _sampling_of_adapters(config: Config) -> dict[str, Sampling]:
    """Returns the sampling parameters of the paths of each adapter, by the adapter's name.

    An adapter whose paths have different parameters is left out.
    """
    found: dict[str, list[Sampling]] = {}
    for path in config.paths.paths.values():
        if path.adapter:
            found.setdefault(path.adapter.partition("@")[0], []).append(_sampling(path))
    return {name: first for name, (first, *others) in found.items() if all(other == first for other in others)}


def check_config(config: Config) -> None:
    """Checks a configuration without any service: renders each prompt, builds each validator. Raises ConfigError."""
    for name, task in config.tasks.tasks.items():
        to_validators(name, task)
    to_guardrails(config, None)
    templates = _templates(config)
    if templates is None:
        return
    for name, path in config.paths.paths.items():
        for strategy in path.strategies:
            try:
                _strategy(strategy, templates, config, None, _NoSearch())
            except ValueError as error:
                raise ConfigError(f"paths.yaml: path '{name}': {error}") from error


class _NoSearch:
    """Stands for the retriever while a configuration is only checked: it finds nothing. Implements `Search`."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        return Found((), False)


def _sampling(path: PathConfig) -> Sampling:
    return Sampling(
        max_tokens=path.max_tokens,
        temperature=path.temperature,
        top_p=path.top_p,
        seed=path.seed,
        stop=path.stop,
        structured_max_tokens=path.structured_max_tokens,
        extra=path.extra_fields,
    )


def to_path(name: str, path: PathConfig, config: Config) -> Path:
    strategies = tuple(s.name for s in path.strategies)
    collections = tuple(name for s in path.strategies for name in s.resources.collections)
    shows_examples = any(s.resources.examples for s in path.strategies)
    fingerprint = _fingerprint(path, config)
    return Path(
        name,
        path.model,
        path.adapter,
        strategies,
        _sampling(path),
        collections,
        fingerprint,
        shows_examples=shows_examples,
        tuned_from=config.models.models[path.model].tuned_from,
    )


def _fingerprint(path: PathConfig, config: Config) -> str:
    """Returns a hash of a path's parts; after a change, such as of a prompt's text, its quality is measured anew."""
    digest = hashlib.blake2b(path.model_dump_json(exclude={"cache"}).encode(), digest_size=6)
    for strategy in path.strategies:
        resources = strategy.resources
        for prompt in resources.prompts:
            digest.update(config.prompts[prompt].encode())
        for task, _ in resources.examples:
            digest.update(repr(config.examples[task]).encode())
    return digest.hexdigest()


def _strategies(config: Config, models: LoadedModels, search: Search) -> dict[str, list[Strategy]]:
    templates = _templates(config)
    return {
        name: [_strategy(one, templates, config, models, search) for one in path.strategies] if templates else []
        for name, path in config.paths.paths.items()
    }


def _templates(config: Config) -> "PromptTemplates | None":
    """Compiles the prompts; returns None if there are neither prompts nor strategies."""
    if not config.prompts and not any(path.strategies for path in config.paths.paths.values()):
        return None
    from pointsman_gateway.prompts.templates import PromptTemplates

    return PromptTemplates(config.prompts)


def _strategy(
    config: StrategyConfig, templates: "PromptTemplates", whole: Config, models: LoadedModels | None, search: Search
) -> Strategy:
    """Builds a prompt strategy; `models` is None if the configuration is only checked. Raises ValueError."""
    tasks = [task for task, _ in config.resources.examples]
    examples = {task: whole.examples[task] for task in tasks}
    vectors = {task: models.vectors[task] if models else _zeros(len(rows)) for task, rows in examples.items()}
    embed = models.embed if models else None
    strategy: Strategy = config.build(StrategyContext(templates, search, embed, examples, vectors))
    return strategy


def _zeros(rows: int) -> Vector:
    """Returns vectors with one dimension, to check a configuration."""
    import numpy as np  # a gateway without tasks does not need it

    return np.zeros((rows, 1), np.float32)
