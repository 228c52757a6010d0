"""The only file that knows concrete classes: builds the house from a configuration."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp
import numpy as np
from numpy.typing import NDArray
from pointsman_embedding import MiniLM
from pointsman_servicekit.grpc_client import open_channel
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import CollectorRegistry

from pointsman_gateway.admission import Admission
from pointsman_gateway.backends.engines import Engine, Engines, follow
from pointsman_gateway.backends.openai_client import OpenAIClient
from pointsman_gateway.backends.stage import Backends
from pointsman_gateway.classification.classifier import Classifier, fit_tasks
from pointsman_gateway.classification.rules import Rules
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.config.schema import EngineConfig, PathConfig, StrategyConfig
from pointsman_gateway.domain import AUTO, UNKNOWN, Path, Sampling, Vector
from pointsman_gateway.metering.pricing import ExpectedCost, Pricing
from pointsman_gateway.metering.prometheus import Metrics
from pointsman_gateway.metering.stage import Metering
from pointsman_gateway.pipeline import Pipeline
from pointsman_gateway.prompts.retriever import RetrieverClient
from pointsman_gateway.prompts.stage import Prompts
from pointsman_gateway.prompts.strategies import FewShot, Found, Instruction, Retrieval, Search, Shown, Strategy
from pointsman_gateway.prompts.templates import Templates
from pointsman_gateway.routing.router import PATH_PREFIX, Router
from pointsman_gateway.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class House:
    """All that the doors need."""

    pipeline: Pipeline
    engines: Engines
    models: "NamedModels"
    registry: CollectorRegistry


@asynccontextmanager
async def building(settings: Settings, config: Config) -> AsyncIterator[House]:
    """Builds the house, follows the engines, and takes all down at the end."""
    embedder = await asyncio.to_thread(MiniLM.load, settings.embedding_model)
    texts = {task: [example.text for example in examples] for task, examples in config.examples.items()}
    started = time.perf_counter()
    tuning = config.tasks.classifier
    fitted, vectors = await asyncio.to_thread(fit_tasks, embedder, texts, tuning.keep_rate, tuning.seed)
    log.info(
        "learned %d tasks from %d examples in %.1f s (accuracy out of fold %.3f)",
        len(texts), sum(map(len, texts.values())), time.perf_counter() - started, fitted.accuracy,
    )  # fmt: skip
    classifier = Classifier(embedder, fitted)
    paths = {name: _path(name, path) for name, path in config.paths.paths.items()}
    engines = Engines([_engine(name, engine) for name, engine in config.models.engines.items()])
    named = NamedModels(config, engines)
    registry = _registry()
    metrics = Metrics(registry, [*paths, *named.plain], [*config.tasks.tasks, UNKNOWN])
    pricing = Pricing(config.models.models, config.models.retrieval)
    expected_cost = ExpectedCost(pricing)
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(open_channel(settings.retriever))
        session = await stack.enter_async_context(_session())
        search = RetrieverClient(channel, embedder.fingerprint)
        strategies = _strategies(config, vectors, classifier, search)
        pipeline = Pipeline(
            admission=Admission(settings.max_in_flight, metrics.in_flight),
            classification=Classification(Rules(config.tasks.tasks), classifier),
            router=Router(paths, config.tasks.tasks, config.tasks.default_path, engines, named, expected_cost),
            prompts=Prompts(strategies),
            backends=Backends(engines, OpenAIClient(session), asyncio.get_running_loop().time),
            metering=Metering(pricing, expected_cost, metrics),
        )
        await stack.enter_async_context(_following(engines, config.models.engines))
        yield House(pipeline, engines, named, registry)


class NamedModels:
    """The plain paths behind the names that a request may force: base models and adapters."""

    def __init__(self, config: Config, engines: Engines) -> None:
        self.plain = {name: Path(name, name) for name in config.models.models}
        self._paths = tuple(config.paths.paths)
        self._engines = engines

    def path_of(self, model: str) -> Path | None:
        """Implements the router's `ForcedModels`."""
        if model in self.plain:
            return self.plain[model]
        for engine in self._engines.all():
            if engine.adapter_version(model):
                return Path(f"adapter:{model}", engine.model, adapter=model)
        return None

    def names(self) -> Sequence[str]:
        """Everything that a request's `model` may say now."""
        aliases = {alias for engine in self._engines.all() for alias in engine.aliases}
        return [AUTO, *self.plain, *(PATH_PREFIX + name for name in self._paths), *sorted(aliases)]


def check(config: Config) -> None:
    """Tries what can be tried without any service: compiles and renders every prompt. Raises ConfigError."""
    templates = Templates(config.prompts)
    for name, path in config.paths.paths.items():
        for strategy in path.strategies:
            try:
                _strategy(strategy, templates, config, {}, None, _NoSearch())
            except ConfigError as error:
                raise ConfigError(f"paths.yaml: path '{name}': {error}") from error


class _NoSearch:
    """For checking a configuration, which retrieves nothing."""

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        return Found((), False)


def _path(name: str, path: PathConfig) -> Path:
    sampling = Sampling(max_tokens=path.max_tokens, temperature=path.temperature, stop=path.stop)
    return Path(name, path.model, path.adapter, tuple(s.name for s in path.strategies), sampling)


def _engine(name: str, engine: EngineConfig) -> Engine:
    api_key = ""
    if engine.api_key_env:
        api_key = os.environ.get(engine.api_key_env, "")
        if not api_key:
            raise ConfigError(
                f"models.yaml: engine '{name}' needs the environment variable {engine.api_key_env}, which is not set"
            )
    return Engine(name, engine.model, engine.url.rstrip("/"), ready=bool(engine.url), api_key=api_key)


def _strategies(
    config: Config, vectors: Mapping[str, NDArray[np.float32]], classifier: Classifier, search: Search
) -> dict[str, list[Strategy]]:
    templates = Templates(config.prompts)
    return {
        name: [_strategy(strategy, templates, config, vectors, classifier, search) for strategy in path.strategies]
        for name, path in config.paths.paths.items()
    }


def _strategy(
    config: StrategyConfig,
    templates: Templates,
    whole: Config,
    vectors: Mapping[str, NDArray[np.float32]],
    classifier: Classifier | None,
    search: Search,
) -> Strategy:
    instruction = config.zero_shot or config.persona or config.chain_of_thought
    if instruction:
        return Instruction(templates, instruction.prompt)
    if config.few_shot:
        few, examples = config.few_shot, whole.examples[config.few_shot.task]
        of_task = vectors.get(few.task, np.zeros((len(examples), 1), np.float32))
        system = Instruction(templates, few.prompt) if few.prompt else None
        return FewShot(examples, of_task, few.count, classifier if few.choose == "nearest" else None, system)
    look_up = config.retrieval
    assert look_up is not None  # the schema allows no other
    shown = Shown(look_up.top_k, look_up.max_tokens, look_up.min_score, look_up.when_nothing == "next_path")
    return Retrieval(templates, look_up.prompt, search, look_up.collection, shown, look_up.required)


@asynccontextmanager
async def _following(engines: Engines, configs: Mapping[str, EngineConfig]) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(follow(engines, name, engine.lora_server), name=f"follow {name}")
        for name, engine in configs.items()
        if engine.lora_server
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


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
