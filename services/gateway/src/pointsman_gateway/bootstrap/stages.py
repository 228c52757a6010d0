"""Builds the stages of one configuration: the steps in which the gateway processes a request, from classification to
metering. The cache and the guardrails wrap some of them.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from prometheus_client import CollectorRegistry

from pointsman_gateway.bootstrap.loaded_models import LoadedModels
from pointsman_gateway.bootstrap.named_models import NamedModels
from pointsman_gateway.bootstrap.paths import to_path
from pointsman_gateway.bootstrap.strategies import build_strategies
from pointsman_gateway.bootstrap.validation import to_guardrails, to_validators
from pointsman_gateway.cache.keys import CacheKeyBuilder
from pointsman_gateway.cache.stage import CacheResources, CachingBackend
from pointsman_gateway.classification import NoClassification
from pointsman_gateway.classification.document_tasks import DocumentTasks
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config
from pointsman_gateway.conversations.stage import (
    ConversationBook,
    Conversations,
    ConversationTerms,
    default_terms,
    terms_of,
)
from pointsman_gateway.domain import UNKNOWN, Path
from pointsman_gateway.engines.adapter_loading import AdapterLoading
from pointsman_gateway.engines.dialects.sent_fields import CONTINUATION, SentFields
from pointsman_gateway.engines.endpoint_picker import EndpointPickers
from pointsman_gateway.engines.engine_client import EngineClient
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.engines.stage import EngineBackend
from pointsman_gateway.engines.token_counter import TokenCounter
from pointsman_gateway.extensions import Search
from pointsman_gateway.extensions.http_poster import HttpPoster
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.metering.canary_outcomes import CanaryOutcomes
from pointsman_gateway.metering.context_prices import ContextPricing
from pointsman_gateway.metering.engine_hours import EngineCosts
from pointsman_gateway.metering.expected_cost import CostEstimator, PathStatistics
from pointsman_gateway.metering.meter import Metering
from pointsman_gateway.metering.pricing import Pricing
from pointsman_gateway.pipeline.guarded_answer import GuardedBackend
from pointsman_gateway.pipeline.guarded_stages import GuardedClassification, GuardedMetering, GuardedPrompts
from pointsman_gateway.pipeline.guardrails import GuardrailMetrics, Guardrails
from pointsman_gateway.pipeline.pipeline import Stages
from pointsman_gateway.ports import Backend, Classifier
from pointsman_gateway.prompts.strategies import Prompts
from pointsman_gateway.routing.left_out import LeftOutFields, ModelFields
from pointsman_gateway.routing.path_state import ALWAYS_FRESH, Evidence, Freshness, NoEvidence
from pointsman_gateway.routing.router import Router
from pointsman_gateway.validation.stage import Validation


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The objects that the stages of all configurations share, such as the HTTP client of engines and the metrics."""

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
    pickers: EndpointPickers | None = None
    lend_slot: Callable[[], AbstractContextManager[None]] = nullcontext
    """Makes a context manager for the time in which a request waits for its adapter to be loaded. While the context is
    entered, another request may use the waiting request's slot (its place among the concurrent requests)."""
    litellm_client: EngineClient | None = None
    """The client for engines that are called through LiteLLM's SDK, in place of `client`; None: `client` is used for
    all engines."""
    http: HttpPoster | None = None
    """The HTTP client that counts tokens at engines and calls guardrails. If it is None, numbers of tokens are
    estimated."""
    conversations: ConversationBook = field(default_factory=ConversationBook)
    guardrail_metrics: GuardrailMetrics = field(default_factory=lambda: GuardrailMetrics(CollectorRegistry()))


def build_stages(
    config: Config,
    models: LoadedModels,
    engines: Engines,
    dependencies: Dependencies,
    documents: DocumentTasks | None = None,
) -> Stages:
    """Builds the stages in which requests of a configuration are processed. Must be called in the event loop.

    `dependencies` are shared by all configurations. `documents` are the tasks that the classifier also recognizes by
    documents that match a request; None if there are none.

    Raises ConfigError if validators or guardrails cannot be built, if a policy has options that were made with another
    embedding model, or if a path uses the cache and there is no Redis; ValueError if a prompt strategy cannot be built.
    """
    paths = {name: to_path(name, path, config) for name, path in config.paths.paths.items()}
    pricing = Pricing(config.models, engines.training_seconds)
    expected_cost = CostEstimator(pricing, dependencies.path_statistics, engines.version_of)
    named = NamedModels(config, engines)
    now = asyncio.get_running_loop().time
    resilience = config.models.resilience
    is_paid_hourly = any(engine.usd_per_hour for engine in config.models.engines.values())
    busy_times = dependencies.engine_costs if is_paid_hourly else None
    uses_litellm = any(engine.uses_litellm for engine in config.models.engines.values())
    client = (dependencies.litellm_client if uses_litellm else None) or dependencies.client
    backend = EngineBackend(
        engines, client, now, resilience, dependencies.engine_metrics, busy_times, pickers=dependencies.pickers
    )
    loading = AdapterLoading(backend, engines, now, resilience, dependencies.lend_slot)
    stages = Stages(
        revision=config.revision,
        resolve_model=named.resolve,
        classification=_classification(config, models, documents),
        conversations=Conversations(_conversation_terms(config, paths), dependencies.conversations),
        router=Router(
            paths,
            config.tasks.tasks,
            config.tasks.default_path,
            availability=engines,
            named=named,
            expected_cost=expected_cost,
            evidence=dependencies.evidence,
            adapters=engines,
            revision=config.revision,
            freshness=dependencies.freshness,
            model_inputs={name: model.input for name, model in config.models.models.items()},
            model_fallbacks=named.fallbacks,
            left_out=LeftOutFields(_fields_by_model(config)),
            change_prices=ContextPricing(pricing, expected_cost, _usd_per_hour(config)),
            default_policy=config.tasks.default_policy,
        ),
        prompts=Prompts(build_strategies(config, models, dependencies.search)),
        backend=_wrap_in_cache(loading, dependencies.cache, config, paths, engines, models),
        validation=Validation({name: to_validators(name, task) for name, task in config.tasks.tasks.items()}),
        metering=Metering(pricing, expected_cost, dependencies.counting, dependencies.canary_outcomes),
        token_counter=TokenCounter(engines, dependencies.http, now),
    )
    return _wrap_in_guardrails(stages, config, dependencies)


def _conversation_terms(config: Config, paths: Mapping[str, Path]) -> Mapping[str, ConversationTerms]:
    """Returns each task's settings for conversations: task -> settings.

    "unknown" stands for requests that fit no task, if a policy chooses for these.
    """
    terms = {name: terms_of(task, paths) for name, task in config.tasks.tasks.items()}
    policy = config.tasks.default_policy
    return terms | ({UNKNOWN: default_terms(policy, paths)} if policy else {})


def _usd_per_hour(config: Config) -> Mapping[str, float]:
    """Returns the configured price of one engine for each model: model -> dollars per hour.

    If a model has several engines, the first one with a price per hour counts. Models without one are left out.
    """
    return {of.model: of.usd_per_hour for of in reversed(config.models.engines.values()) if of.usd_per_hour}


def _fields_by_model(config: Config) -> Mapping[str, ModelFields]:
    fields: dict[str, ModelFields] = {}
    for engine in config.models.engines.values():
        known, sent = fields.get(engine.model, ModelFields()), SentFields(engine.preset.dialect, engine.preset.betas)
        ignored = known.ignored | (engine.accepted_fields.ignored - CONTINUATION)
        fields[engine.model] = ModelFields(ignored, tuple({*known.formats, sent}))
    return fields


def _classification(config: Config, models: LoadedModels, documents: DocumentTasks | None) -> Classifier:
    """Builds the classification stage. Raises ConfigError if a policy has options made with another embedding model."""
    if models.classifier is None or models.embed is None:
        return NoClassification()
    from pointsman_gateway.classification.document_stage import DocumentClassification
    from pointsman_gateway.classification.model import ENCODER
    from pointsman_gateway.classification.rules import RuleMatcher
    from pointsman_gateway.classification.stage import Classification, EmbeddedClassification, WordReader
    from pointsman_gateway.classification.wrappers import to_wrapper

    tasks, in_use = config.tasks.tasks, models.fingerprint
    policies = {name: task.policy for name, task in tasks.items()}
    if config.tasks.default_policy:
        policies[UNKNOWN] = config.tasks.default_policy
    for name, policy in policies.items():
        encoder = policy.implementation.encoder(policy.options)
        if encoder not in ("", in_use):
            raise ConfigError(
                f"tasks.yaml: {_owner(name)}: its policy's weights are for the embedding model {encoder}, but "
                f"{in_use} is in use; run `pointsman predict` again"
            )
    settings, embedding = config.tasks.classifier, config.models.embedding
    by_examples = Classification(
        RuleMatcher(tasks),
        models.classifier,
        settings.languages,
        [to_wrapper(one.model_dump()) for one in settings.wrappers],
        knows_word=models.classifier.knows_word,
        is_multilingual=embedding is not None and embedding.multilingual and ENCODER in settings.stages,
    )
    classification: WordReader = by_examples
    if documents is not None:
        classification = DocumentClassification(by_examples, models.classifier, documents)
    embedded = frozenset(name for name, policy in policies.items() if policy.build().needs_vector)
    return EmbeddedClassification(classification, models.embed, embedded) if embedded else classification


def _owner(task: str) -> str:
    return "default_policy" if task == UNKNOWN else f"task '{task}'"


def _wrap_in_cache(
    inner: Backend,
    cache: CacheResources | None,
    config: Config,
    paths: Mapping[str, Path],
    engines: Engines,
    models: LoadedModels,
) -> Backend:
    """Wraps `inner` in the response cache; returns `inner` itself if no path caches.

    Raises ConfigError if a path caches and `cache` is None, because there is no Redis.
    """
    rules = {name: path.cache for name, path in config.paths.paths.items() if path.cache and path.cache.exact}
    if not rules:
        return inner
    if cache is None:
        first = next(iter(rules))
        raise ConfigError(f"paths.yaml: path '{first}' caches, and there is no Redis; set POINTSMAN_GATEWAY_REDIS_URL")
    key_builders = {name: CacheKeyBuilder(paths[name], rule, models.fingerprint) for name, rule in rules.items()}
    return CachingBackend(inner, cache, key_builders, engines.version_of, models.embed)


def _wrap_in_guardrails(stages: Stages, config: Config, dependencies: Dependencies) -> Stages:
    """Wraps the stages at which a configured guardrail is called; returns `stages` itself if there is no guardrail.

    Raises ConfigError if a guardrail's options cannot be used.
    """
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
