"""Builds the house: what stays, and the generations of the configuration that come and go in it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp
from pointsman_embedding import MiniLM
from pointsman_servicekit.grpc_client import open_channel
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import CollectorRegistry

from pointsman_gateway.admission import Admission
from pointsman_gateway.backends.engines import Engines
from pointsman_gateway.backends.openai_client import OpenAIClient
from pointsman_gateway.classification.classifier import Classifier, fit_tasks
from pointsman_gateway.config.load import Config, load_config
from pointsman_gateway.generations import Generation, Generations
from pointsman_gateway.journal.silent import NoJournal
from pointsman_gateway.metering.prometheus import Metrics
from pointsman_gateway.pipeline import Pipeline
from pointsman_gateway.prompts.retriever import RetrieverClient
from pointsman_gateway.settings import Settings
from pointsman_gateway.wiring.followers import Followers
from pointsman_gateway.wiring.line import Learned, NamedModels, Surroundings, build_line, check, label_values

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that a changed configuration waits for engines which it names first."""


@dataclass(frozen=True, slots=True)
class House:
    """All that the doors need."""

    pipeline: Pipeline
    generations: Generations
    registry: CollectorRegistry

    @property
    def engines(self) -> Engines:
        """Those of the generation that serves."""
        return self.generations.current.engines


@asynccontextmanager
async def building(settings: Settings, config: Config) -> AsyncIterator[House]:
    """Builds the house, follows the engines and the configuration, and takes all down at the end."""
    embedder = await asyncio.to_thread(MiniLM.load, settings.embedding_model)
    registry = _registry()
    metrics = Metrics(registry)
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(open_channel(settings.retriever))
        session = await stack.enter_async_context(_session())
        followers = await stack.enter_async_context(Followers())
        around = Surroundings(OpenAIClient(session), RetrieverClient(channel, embedder.fingerprint), metrics)
        builder = _Builder(settings, embedder, followers, around)
        first = await builder.build(config)
        metrics.serving(first.id)
        generations = Generations(first, [settings.config], builder.build_anew, metrics)
        following = asyncio.create_task(generations.follow(settings.reload_seconds), name="follow configuration")
        stack.push_async_callback(_stop, following)
        pipeline = Pipeline(Admission(settings.max_in_flight, metrics.in_flight), generations.line, NoJournal())
        yield House(pipeline, generations, registry)


class _Builder:
    """Makes generations."""

    def __init__(self, settings: Settings, embedder: MiniLM, followers: Followers, around: Surroundings) -> None:
        self._settings = settings
        self._embedder = embedder
        self._followers = followers
        self._around = around

    async def build_anew(self) -> Generation:
        """From what is in the folder now."""
        config = await asyncio.to_thread(load_config, self._settings.config)
        check(config)
        return await self.build(config, PATIENCE)

    async def build(self, config: Config, patience: float = 0.0) -> Generation:
        """Waits up to `patience` seconds for the first word of engines that are new. Raises ConfigError."""
        learned = await asyncio.to_thread(self._learn, config)
        engines = Engines(await self._followers.cells(config.models.engines, patience))
        line = build_line(config, learned, engines, self._around)
        self._followers.keep(config.models.engines)
        self._around.metrics.know(*label_values(config))
        return Generation(line, engines, NamedModels(config, engines))

    def _learn(self, config: Config) -> Learned:
        texts = {task: [example.text for example in examples] for task, examples in config.examples.items()}
        started = time.perf_counter()
        tuning = config.tasks.classifier
        fitted, vectors = fit_tasks(self._embedder, texts, tuning.keep_rate, tuning.seed)
        log.info(
            "learned %d tasks from %d examples in %.1f s (accuracy out of fold %.3f)",
            len(texts), sum(map(len, texts.values())), time.perf_counter() - started, fitted.accuracy,
        )  # fmt: skip
        return Learned(Classifier(self._embedder, fitted), vectors)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _session() -> aiohttp.ClientSession:
    # No limit of the pool's own: admission bounds what is in flight. A cookie jar would only grow.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
