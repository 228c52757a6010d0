"""Builds the gateway: components that exist as long as the process, and objects that are built for each loaded
configuration.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from pointsman_servicekit.event_loop_lag import measuring_event_loop_lag
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.keys.administration import Administration
from pointsman_servicekit.metrics import export_build_info
from pointsman_servicekit.service_tokens import open_token
from pointsman_servicekit.tls import client_tls
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import CollectorRegistry

from pointsman_gateway.adapter_freshness import FreshnessCache, FreshnessMonitor, MonitoredPaths
from pointsman_gateway.bootstrap.cache import open_cache
from pointsman_gateway.bootstrap.capacity import Capacity, find_capacity
from pointsman_gateway.bootstrap.catalog import to_catalog
from pointsman_gateway.bootstrap.config_check import check_config, check_environment
from pointsman_gateway.bootstrap.console import example_requests, open_console
from pointsman_gateway.bootstrap.conversations import open_conversations
from pointsman_gateway.bootstrap.cost_metrics import CostMetrics
from pointsman_gateway.bootstrap.documents import find_document_tasks
from pointsman_gateway.bootstrap.embeddings import LoadModels, ModelsOnDemand
from pointsman_gateway.bootstrap.engine_discovery import EngineDiscovery
from pointsman_gateway.bootstrap.metric_labels import gen_ai_names, label_values
from pointsman_gateway.bootstrap.model_calls import ModelCallDependencies, build_embeddings, build_rerankers
from pointsman_gateway.bootstrap.named_models import NamedModels
from pointsman_gateway.bootstrap.paths import to_path
from pointsman_gateway.bootstrap.persistence import Persistence, open_persistence, open_redaction
from pointsman_gateway.bootstrap.shadowing import ActiveShadowSettings, open_shadowing
from pointsman_gateway.bootstrap.stages import Dependencies, build_stages
from pointsman_gateway.bootstrap.tenancy import check_single_sign_on, open_tenancy
from pointsman_gateway.breaker import Breaker
from pointsman_gateway.classification.document_tasks import SketchMonitor
from pointsman_gateway.config.load import Config, load_config, watched_files
from pointsman_gateway.console.stage import Console
from pointsman_gateway.engines.connection_pool import Pool
from pointsman_gateway.engines.dns_groups import DnsResolver
from pointsman_gateway.engines.endpoint_picker import EndpointPickers
from pointsman_gateway.engines.engine_settings import engine_pickers
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.forwarding import ForwardingPool
from pointsman_gateway.engines.http_engine_client import HttpEngineClient
from pointsman_gateway.engines.http_post import PooledPoster
from pointsman_gateway.engines.litellm_client import LiteLLMClient, load_litellm
from pointsman_gateway.engines.metrics import CanaryReporter, EngineMetrics, EngineStates
from pointsman_gateway.engines.path_adapters import PathAdapters
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.metering.canary_outcomes import CanaryOutcomes
from pointsman_gateway.pipeline.admission import Admission, QueueLimits
from pointsman_gateway.pipeline.guardrails import GuardrailMetrics
from pointsman_gateway.pipeline.pipeline import ConfigSnapshot, Pipeline
from pointsman_gateway.pipeline.reload import ConfigReloader
from pointsman_gateway.prompts.retriever import ProtectedSearch, RetrieverClient
from pointsman_gateway.request_log.feedback import CanaryRatings
from pointsman_gateway.request_log.feedback_store import FeedbackStore
from pointsman_gateway.settings import Settings
from pointsman_gateway.tenancy.stage import OpenAccess, RedisTenancy
from pointsman_gateway.tracing import Instrumentation, instrument_with

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans

ENGINE_WAIT_SECONDS = 5.0
"""Maximum seconds that a reload waits for the first reports of new engines before the changed configuration is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayComponents:
    """The components of one gateway process that the HTTP and gRPC servers use, such as the pipeline, the stores and
    the metrics.
    """

    pipeline: Pipeline
    tenancy: OpenAccess | RedisTenancy
    reloader: ConfigReloader
    persistence: Persistence
    registry: CollectorRegistry
    canary_outcomes: CanaryOutcomes
    cost_metrics: CostMetrics
    feedback: FeedbackStore
    console: Console
    administration: Administration | None
    """Administration of keys and tenants; None if there is no Redis."""
    capacity: Capacity

    @property
    def engines(self) -> Engines:
        """Returns the engines of the active configuration."""
        return self.reloader.current.engines


@asynccontextmanager
async def build_gateway(
    settings: Settings, config: Config, spans: "Spans | None" = None, load_models: LoadModels | None = None
) -> AsyncIterator[GatewayComponents]:
    """A context manager that builds all components of the gateway for `config`, and closes them at the end of the
    block.

    In the block, background tasks watch the engines and the folder `settings.config`. `spans` is None without tracing;
    `load_models` replaces the function that loads the embedding models. Raises ConfigError if the configuration or a
    setting is invalid, ModelMissing if the embedding model is not installed, or another OSError, for example if the
    write-ahead log cannot be created.
    """
    tracing = instrument_with(spans)
    models = ModelsOnDemand(settings.embedding_model, settings.classifier, settings.classifier_cache, load_models)
    registry = _create_registry()
    counting = MetricsAggregator(registry)
    metrics, gen_ai = counting.metrics, counting.gen_ai
    engine_metrics = EngineMetrics(registry, gen_ai)
    canary_outcomes = CanaryOutcomes(lambda: engine_metrics.canary_reported(1, "full"))
    tls = client_tls(settings.client_tls_ca, settings.client_tls_certificate, settings.client_tls_key)
    calls, token = tracing.grpc_interceptors, open_token(settings.service_token_file)
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(open_channel(settings.retriever, tls, calls, token))
        pool = Pool()
        stack.callback(pool.close)
        http = PooledPoster(pool, tracing.trace_headers)
        discovery = EngineDiscovery(
            engine_metrics,
            resolver=DnsResolver(settings.dns),
            http=http,
            poll_seconds=settings.discovery_seconds,
            service_account=settings.service_account,
            tls=tls,
            interceptors=calls,
            token=token,
        )
        await stack.enter_async_context(discovery)
        pickers = EndpointPickers(engine_metrics, tls)
        stack.push_async_callback(pickers.close)
        redaction = open_redaction(settings.redaction, registry)
        persistence = await stack.enter_async_context(open_persistence(settings, config, registry, redaction))
        cache = await stack.enter_async_context(open_cache(settings, registry, redaction))
        tenancy = await stack.enter_async_context(open_tenancy(settings, registry, persistence.redis_state))
        conversations = await stack.enter_async_context(open_conversations(settings, persistence.redis_state))
        retriever, freshness = RetrieverClient(channel, lambda: models.fingerprint), FreshnessCache()
        freshness_monitor = FreshnessMonitor(freshness, retriever, settings.freshness_seconds)
        sketch_monitor = SketchMonitor(retriever, settings.freshness_seconds)
        await stack.enter_async_context(measuring_event_loop_lag(registry))
        cost_metrics = CostMetrics.register(registry, metrics)
        capacity, queue = find_capacity(settings), QueueLimits(settings.queue_size, settings.queue_timeout)
        admission = Admission(capacity.requests, metrics.in_flight, queue, metrics.queue_depth, settings.tenant_share)
        metrics.max_in_flight.set(capacity.requests)
        client = HttpEngineClient(_open_forwarding(stack) if settings.ext_proc_listen else pool)
        dependencies = Dependencies(
            client=tracing.engine_client(client, gen_ai),
            search=ProtectedSearch(retriever, Breaker()),
            counting=counting,
            evidence=persistence.evidence,
            engine_metrics=engine_metrics,
            cache=cache,
            canary_outcomes=canary_outcomes,
            freshness=freshness,
            engine_costs=cost_metrics.engine_costs,
            lend_slot=admission.lend,
            litellm_client=tracing.engine_client(LiteLLMClient(client), gen_ai),
            http=http,
            conversations=conversations,
            guardrail_metrics=GuardrailMetrics(registry),
            pickers=pickers,
        )
        model_calls = ModelCallDependencies(http, retriever, tracing, registry, gen_ai)
        shadow_settings = ActiveShadowSettings()
        builder = _SnapshotBuilder(
            settings.config,
            models=models,
            discovery=discovery,
            pickers=pickers,
            dependencies=dependencies,
            model_calls=model_calls,
            tracing=tracing,
            freshness=freshness_monitor,
            sketches=sketch_monitor,
            persistence=persistence,
            cost_metrics=cost_metrics,
            shadow_settings=shadow_settings,
            tenancy=tenancy,
        )
        first = await builder.build(config)
        metrics.set_revision(first.revision)
        watched = [*watched_files(settings.config), *([settings.classifier] if settings.classifier else [])]
        reloader = ConfigReloader(first, watched, builder.build_from_folder, metrics)
        canary_reporter = CanaryReporter(canary_outcomes, lambda: reloader.current.engines, engine_metrics)
        _run_until_closed(stack, reloader.watch(settings.reload_seconds), "watch the configuration")
        _run_until_closed(stack, freshness_monitor.run(), "monitor adapter freshness")
        _run_until_closed(stack, sketch_monitor.run(), "fetch document sketches")
        _run_until_closed(stack, canary_reporter.run(), "report canary outcomes")
        await stack.enter_async_context(cost_metrics.engine_costs.running())
        registry.register(EngineStates(lambda: reloader.current.engines.states))
        registry.register(PathAdapters(lambda: _adapter_versions(reloader.current)))
        shadowing = open_shadowing(persistence, reloader.stages, shadow_settings, admission, registry)
        shadows = await stack.enter_async_context(shadowing)
        request_log = tracing.request_log(shadows.request_log, settings.trace_text, redaction)
        pipeline = Pipeline(admission, tenancy, reloader.stages, request_log)
        console, administration = await stack.enter_async_context(open_console(settings, reloader, persistence))
        yield GatewayComponents(
            pipeline=pipeline,
            tenancy=tenancy,
            reloader=reloader,
            persistence=persistence,
            registry=registry,
            canary_outcomes=canary_outcomes,
            cost_metrics=cost_metrics,
            feedback=_with_canary_ratings(shadows.feedback, persistence, reloader, canary_outcomes),
            console=console,
            administration=administration,
            capacity=capacity,
        )


def _open_forwarding(stack: AsyncExitStack) -> Pool:
    """Opens the pool of HTTP connections for requests to engines that may go through Envoy, and closes it with `stack`.

    Other requests to engines have a pool of their own.
    """
    pool = ForwardingPool()
    stack.callback(pool.close)
    return pool


def _adapter_versions(snapshot: ConfigSnapshot) -> Mapping[str, str]:
    return {name: snapshot.engines.version_of(path) for name, path in snapshot.catalog.paths.items()}


def _with_canary_ratings(
    feedback: FeedbackStore, persistence: Persistence, reloader: ConfigReloader, outcomes: CanaryOutcomes
) -> FeedbackStore:
    """Returns the feedback service, wrapped so that ratings also count for canaries; unchanged without Redis.

    A rating counts if the alias of the path that answered has a canary at present, and one of its two versions
    answered.
    """

    def count(path_name: str, version: str, rating: float) -> None:
        path = reloader.current.catalog.paths.get(path_name)
        alias = reloader.current.engines.alias_of(path) if path is not None else None
        if path and alias and alias.canary_version and version in (alias.version, alias.canary_version):
            outcomes.rate(path, alias, version, rating)

    return CanaryRatings(feedback, persistence.log_reader, count) if persistence.log_reader else feedback


class _SnapshotBuilder:
    """Builds the objects of each configuration, and makes the components that all configurations share use it."""

    def __init__(
        self,
        folder: FilePath,
        *,
        models: ModelsOnDemand,
        discovery: EngineDiscovery,
        pickers: EndpointPickers,
        dependencies: Dependencies,
        model_calls: ModelCallDependencies,
        tracing: Instrumentation,
        freshness: FreshnessMonitor,
        sketches: SketchMonitor,
        persistence: Persistence,
        cost_metrics: CostMetrics,
        shadow_settings: ActiveShadowSettings,
        tenancy: OpenAccess | RedisTenancy,
    ) -> None:
        self._folder = folder
        self._active: Config | None = None
        self._models = models
        self._discovery = discovery
        self._pickers = pickers
        self._dependencies = dependencies
        self._model_calls = model_calls
        self._tracing = tracing
        self._freshness = freshness
        self._sketches = sketches
        self._persistence = persistence
        self._cost_metrics = cost_metrics
        self._shadow_settings = shadow_settings
        self._tenancy = tenancy

    async def build_from_folder(self) -> ConfigSnapshot:
        """Loads and checks the configuration in the folder, and returns the objects that `build` makes of it.

        Raises ConfigError if the configuration is invalid, ModelMissing if the embedding model is not installed, or
        another OSError.
        """
        config = await asyncio.to_thread(load_config, self._folder)
        await asyncio.to_thread(check_config, config)  # which imports the libraries of new prompts and validators
        await asyncio.to_thread(check_environment, config)
        if self._active is not None:
            config = config.sharing_examples(self._active)
        return await self.build(config, ENGINE_WAIT_SECONDS)

    async def build(self, config: Config, engine_wait_seconds: float = 0.0) -> ConfigSnapshot:
        """Builds all objects of a configuration, and makes the shared components, such as metrics and stores, use it.

        Waits up to `engine_wait_seconds` for the first report of each new engine. Raises ConfigError if the
        configuration cannot be used here, ModelMissing if the embedding model is not installed, or another OSError if a
        classifier cannot be read or stored. After an error, requests use the earlier configuration as before.
        """
        if any(engine.uses_litellm for engine in config.models.engines.values()):
            await asyncio.to_thread(load_litellm)
        client_secret = await asyncio.to_thread(check_single_sign_on, config.access.single_sign_on)
        loaded = await asyncio.to_thread(self._models.get, config)
        pickers = engine_pickers(config.models)
        self._pickers.check(pickers)
        engines = await self._discovery.engines(config.models, engine_wait_seconds)
        paths = tuple(to_path(name, path, config) for name, path in config.paths.paths.items())
        documents = find_document_tasks(config, paths, loaded)
        if documents is not None:
            await asyncio.to_thread(documents.use, self._sketches.sketches)
        stages = self._tracing.stages(build_stages(config, loaded, engines, self._dependencies, documents))
        embeddings = build_embeddings(config, loaded, self._model_calls)
        rerankers = build_rerankers(config, self._model_calls)
        models, catalog = NamedModels(config, engines), to_catalog(config)
        # Everything that can fail is done. From here on the shared components follow the new configuration.
        self._active = config
        self._discovery.activate(engines, config.models)
        self._pickers.activate(pickers)
        self._dependencies.counting.set_label_values(label_values(config), gen_ai_names(config))
        self._persistence.apply_config(config, engines.version_of)
        self._cost_metrics.apply_config(config, engines, stages.metering)
        self._shadow_settings.apply_config(config)
        self._tenancy.use_single_sign_on(config.access.single_sign_on, client_secret)
        self._sketches.watched = documents
        may_be_stale = {name for task in config.tasks.tasks.values() if task.stale for name in task.policy.paths}
        self._freshness.monitored = MonitoredPaths([path for path in paths if path.name in may_be_stale], engines)
        examples = example_requests(config)
        return ConfigSnapshot(stages, engines, models, embeddings, rerankers, paths, catalog, examples)


def _run_until_closed(stack: AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
    task = asyncio.create_task(work, name=name)

    async def stop() -> None:
        task.cancel()
        await asyncio.wait([task])

    stack.push_async_callback(stop)


def _create_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    export_build_info(registry, "gateway")
    return registry
