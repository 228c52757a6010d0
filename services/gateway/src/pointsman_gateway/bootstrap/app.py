"""Builds the house: what stays, and the generations of the configuration that come and go in it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.metrics import export_build_info, measuring_event_loop_lag
from pointsman_servicekit.service_tokens import open_token
from pointsman_servicekit.tls import client_tls
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import CollectorRegistry

from pointsman_gateway.adapter_freshness import FreshnessCache, FreshnessMonitor, MonitoredPaths
from pointsman_gateway.bootstrap.cost_metrics import Money, to_catalogue
from pointsman_gateway.bootstrap.engine_discovery import Followers
from pointsman_gateway.bootstrap.models import (
    EmbeddingSurroundings,
    Models,
    School,
    build_embeddings,
    embedding_surroundings,
)
from pointsman_gateway.bootstrap.persistence import (
    Memory,
    keeping_answers,
    knowing_callers,
    overseeing,
    remembering,
    to_redaction,
)
from pointsman_gateway.bootstrap.shadowing import ShadowTerms, shadowing
from pointsman_gateway.bootstrap.stages import (
    NamedModels,
    Surroundings,
    build_line,
    check,
    gen_ai_names,
    label_values,
    to_path,
)
from pointsman_gateway.breaker import Breaker
from pointsman_gateway.config.load import Config, load_config
from pointsman_gateway.console.stage import Console
from pointsman_gateway.embeddings.stage import EmbeddingMetrics
from pointsman_gateway.engines.dns_groups import Dns
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.http1 import Pool
from pointsman_gateway.engines.metrics import EngineMetrics, EngineStates, Reporter
from pointsman_gateway.engines.openai_client import OpenAIClient
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.metering.canary import CanaryOutcomes
from pointsman_gateway.pipeline.admission import Admission, QueueLimits
from pointsman_gateway.pipeline.config_reload import Generation, Generations
from pointsman_gateway.pipeline.pipeline import Pipeline
from pointsman_gateway.prompts.retriever import ProtectedSearch, RetrieverClient
from pointsman_gateway.settings import Settings
from pointsman_gateway.shadow.stage import FeedbackTaker
from pointsman_gateway.tenancy.stage import OpenAccess, Tenancy
from pointsman_gateway.tracing.instrumentation import Around, traced_by

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans


PATIENCE = 5.0
"""Seconds that a changed configuration waits for engines which it names first."""


@dataclass(frozen=True, slots=True)
class House:
    """All that the doors need."""

    pipeline: Pipeline
    tenancy: OpenAccess | Tenancy
    generations: Generations
    memory: Memory
    registry: CollectorRegistry
    trials: CanaryOutcomes
    money: Money
    feedback: FeedbackTaker
    console: Console

    @property
    def engines(self) -> Engines:
        """Those of the generation that serves."""
        return self.generations.current.engines


@asynccontextmanager
async def building(settings: Settings, config: Config, spans: "Spans | None" = None) -> AsyncIterator[House]:
    """Builds the house, follows the engines and the configuration, and takes all down at the end.

    `spans`: where requests are to be traced.
    """
    traced = traced_by(spans)
    models = await asyncio.to_thread(Models.load, settings.embedding_model)
    school = School(models, settings.classifier)
    registry = _registry()
    counting = MetricsAggregator(registry)
    metrics, gen_ai = counting.metrics, counting.gen_ai
    engine_metrics = EngineMetrics(registry, gen_ai)
    trials = CanaryOutcomes(lambda: engine_metrics.told(1, "full"))
    peers = client_tls(settings.client_tls_ca, settings.client_tls_certificate, settings.client_tls_key)
    token = open_token(settings.service_token_file)
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(open_channel(settings.retriever, peers, traced.calls, token))
        pool = Pool()
        stack.callback(pool.close)
        resolver = Dns(settings.dns)
        followers = await stack.enter_async_context(Followers(engine_metrics, resolver, peers, traced.calls, token))
        redaction = to_redaction(settings.redaction, registry)
        memory = await stack.enter_async_context(remembering(settings, config, registry, redaction))
        keeping = keeping_answers(settings, registry, redaction, models.encoder.fingerprint)
        cache = await stack.enter_async_context(keeping)
        tenancy = await stack.enter_async_context(knowing_callers(settings, registry))
        client = RetrieverClient(channel, models.encoder.fingerprint)
        retriever, board = ProtectedSearch(client, Breaker()), FreshnessCache()
        freshness = FreshnessMonitor(board, client, settings.freshness_seconds)
        await stack.enter_async_context(measuring_event_loop_lag(registry))
        money = Money.registered(registry, metrics)
        queue = QueueLimits(settings.queue_size, settings.queue_timeout)
        admission = Admission(settings.max_in_flight, metrics.in_flight, queue, metrics.queue_depth)
        around = Surroundings(
            traced.client(OpenAIClient(pool), gen_ai),
            retriever,
            counting,
            memory.board,
            engine_metrics,
            cache,
            trials,
            board,
            accounts=money.accounts,
            lend_slot=admission.lend,
        )
        of_embeddings = EmbeddingMetrics(registry, gen_ai)
        embedding = embedding_surroundings(models.encoder, pool, tenancy, of_embeddings, memory.journal, traced)
        terms = ShadowTerms()
        builder = _Builder(settings, school, followers, around, memory, terms, embedding, money, traced, freshness)
        first = await builder.build(config)
        metrics.set_generation(first.id)
        watched = [settings.config, *([settings.classifier] if settings.classifier else [])]
        generations = Generations(first, watched, builder.build_anew, metrics)
        following = asyncio.create_task(generations.follow(settings.reload_seconds), name="follow configuration")
        stack.push_async_callback(_stop, following)
        stack.push_async_callback(_stop, asyncio.create_task(freshness.run(), name="look at what has changed"))
        reporting = Reporter(trials, lambda: generations.current.engines, engine_metrics)
        stack.push_async_callback(_stop, asyncio.create_task(reporting.run(), name="report outcomes"))
        await stack.enter_async_context(money.accounts.running())
        registry.register(EngineStates(lambda: generations.current.engines.cells))
        beside = shadowing(memory, generations.line, terms, admission, registry)
        shadows = await stack.enter_async_context(beside)
        pipeline = Pipeline(admission, tenancy, generations.line, traced.journal(shadows.journal))
        console = await stack.enter_async_context(overseeing(settings, generations, memory))
        yield House(pipeline, tenancy, generations, memory, registry, trials, money, shadows.feedback, console)


class _Builder:
    """Makes generations."""

    def __init__(
        self,
        settings: Settings,
        school: School,
        followers: Followers,
        around: Surroundings,
        memory: Memory,
        terms: ShadowTerms,
        embedding: EmbeddingSurroundings,
        money: Money,
        traced: Around,
        freshness: FreshnessMonitor,
    ) -> None:
        self._settings = settings
        self._school = school
        self._followers = followers
        self._around = around
        self._memory = memory
        self._terms = terms
        self._embedding = embedding
        self._money = money
        self._traced = traced
        self._freshness = freshness

    async def build_anew(self) -> Generation:
        """From what is in the folder now."""
        config = await asyncio.to_thread(load_config, self._settings.config)
        check(config)
        return await self.build(config, PATIENCE)

    async def build(self, config: Config, patience: float = 0.0) -> Generation:
        """Waits up to `patience` seconds for the first word of engines that are new. Raises ConfigError."""
        learned = await asyncio.to_thread(self._school.learned, config)
        engines = await self._followers.engines(config.models, patience)
        line = self._traced.line(build_line(config, learned, engines, self._around))
        embeddings = build_embeddings(config, self._embedding)
        paths = tuple(to_path(name, path, config) for name, path in config.paths.paths.items())
        models, catalogue = NamedModels(config, engines), to_catalogue(config)
        # What can fail is done: from here on all is as this generation has it.
        self._followers.keep(engines, config.models)
        self._around.counting.set_label_values(label_values(config), gen_ai_names(config))
        self._memory.obey(config, engines.version_of)
        self._money.obey(config, engines, line.metering)
        self._terms.obey(config)
        may_be_stale = {name for task in config.tasks.tasks.values() if task.stale for name in task.policy.paths}
        self._freshness.monitored = MonitoredPaths([path for path in paths if path.name in may_be_stale], engines)
        return Generation(line, engines, models, embeddings, paths, catalogue)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    export_build_info(registry, "gateway")
    return registry
