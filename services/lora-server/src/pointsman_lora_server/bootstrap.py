"""Builds the lora-server from its settings. Only the `*bootstrap.py` modules choose which concrete classes are
combined.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from pointsman.v1 import lora_server_pb2_grpc, training_pb2_grpc
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.calls_in_flight import CallsInFlight
from pointsman_servicekit.event_loop_lag import measuring_event_loop_lag
from pointsman_servicekit.metrics import export_build_info
from pointsman_servicekit.service_tokens import TokenGate, open_token_gate
from prometheus_client import CollectorRegistry

from pointsman_lora_server.adapter_bootstrap import AdapterParts, build_adapters
from pointsman_lora_server.adapters.load_sequence import LoadSequence
from pointsman_lora_server.adapters.slots import AdapterSlots
from pointsman_lora_server.adapters.state_machine import NullSmokeTest, SmokeTest
from pointsman_lora_server.adapters.trials import Trials
from pointsman_lora_server.adapters.warm_up import WarmUp
from pointsman_lora_server.checks.base_layers import read_base
from pointsman_lora_server.config_map import FRESH_SECONDS, ConfigMapPublisher
from pointsman_lora_server.domain import Alias
from pointsman_lora_server.engine.command import EngineCommand, GuardSecret
from pointsman_lora_server.engine.completion import Probe, TimedEngine
from pointsman_lora_server.engine.vllm_client import EngineFacts
from pointsman_lora_server.engine_bootstrap import (
    adapter_limit,
    attached_parser,
    create_runner,
    limits_note,
    open_engine,
)
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.grpc import servicers
from pointsman_lora_server.grpc.messages import EngineIdentity
from pointsman_lora_server.grpc.servicers import LoraServerServicer, TrainingServicer
from pointsman_lora_server.job_bootstrap import job_callbacks, job_environment
from pointsman_lora_server.jobs.queue import running_queue
from pointsman_lora_server.metrics import LoraServerMetrics, VersionStateCollector
from pointsman_lora_server.settings import Settings
from pointsman_lora_server.smoke.runner import PeftSmokeTest, SmokeLimits
from pointsman_lora_server.store import ArtifactStore

log = logging.getLogger(__name__)

REDIS_TIMEOUT_SECONDS = 0.5
"""Time limit of a call to Redis. It is long because the engine may keep every CPU core busy, and no request of a
gateway waits for a call to Redis."""
HAND_OVER_SECONDS = 10.0
"""The longest time, in seconds, for which an engine that shuts down waits until other engines have loaded the adapter
versions that are placed on it. Without such versions, it does not wait."""


@dataclass(frozen=True, slots=True)
class App:
    """The gRPC services, engine state and metrics of the lora-server, for the servers that its process runs."""

    services: Sequence[str]
    """Full names of the gRPC services, for the gRPC health check."""
    add_to: Callable[[grpc.aio.Server], None]
    interceptors: Sequence[grpc.aio.ServerInterceptor]
    engine_state: EngineStateStore
    metrics_registry: CollectorRegistry
    is_ready: Callable[[], bool]
    """A function that returns whether the engine is READY and has tried to load all adapter versions that it should
    hold (see `Reconciler.is_settled`)."""
    start_shutdown: Callable[[], Awaitable[None]]
    """A function that waits until other engines have loaded the adapter versions that are placed on this one (for
    `HAND_OVER_SECONDS` at most), then reports the engine as DOWN to all watchers."""
    end_watches: Callable[[], None]
    """A function that ends the gRPC streams of engine states and training events."""


def token_gate(settings: Settings) -> TokenGate | None:
    """Returns the object that authenticates gRPC calls by the tokens in the file `settings.tokens`.

    If no file is set, returns None, and logs a warning unless only this machine can connect. Raises TokenFileError if
    the file cannot be used.
    """
    return open_token_gate(settings.tokens, servicers.METHOD_ROLES, settings.listen, "POINTSMAN_LORA_TOKENS")


@asynccontextmanager
async def build_app(
    settings: Settings, command: EngineCommand | None, smoke_test: SmokeTest | None = None
) -> AsyncIterator[App]:
    """Builds all parts of the lora-server except the servers, and runs them during the block.

    If `command` is given, it starts the engine; None attaches to an engine that is already running. `smoke_test`
    replaces the smoke test that the settings choose. Raises OSError if the base model does not exist or is damaged, and
    ValueError for an invalid store or URL of Redis.
    """
    if smoke_test is None:
        async with _smoke_test(settings) as smoke_test, build_app(settings, command, smoke_test) as app:
            yield app
        return
    base = read_base(settings.base_model, settings.served_model_name, settings.base_model_names)
    store = ArtifactStore(settings.store, base, settings.max_lora_rank, cache_folder=settings.store_cache)
    engine_state, metrics, secret = EngineStateStore(), LoraServerMetrics(settings.served_model_name), GuardSecret()
    export_build_info(metrics.registry, "lora-server")
    metrics.set_info(settings.engine_name, adapter_limit(settings), settings.max_loras, settings.max_lora_rank)
    async with (
        open_redis(settings.redis_url, metrics.set_redis_up, REDIS_TIMEOUT_SECONDS) as redis,
        open_engine(settings, command, secret) as client,
        measuring_event_loop_lag(metrics.registry),
        asyncio.TaskGroup() as tasks,
    ):
        timed = TimedEngine(client, metrics.observe_completion)
        probe = Probe(timed, settings.served_model_name, metrics.count_probe_failure)
        slots = AdapterSlots(client, engine_state, adapter_limit(settings), metrics)

        def apply_limits(facts: EngineFacts) -> str:
            return _apply_limits(settings, facts, slots, store, metrics)

        runner = create_runner(
            settings,
            command=command,
            secret=secret,
            client=client,
            engine_state=engine_state,
            probe=probe,
            apply_limits=apply_limits,
        )
        warm_up = WarmUp(timed, settings.served_model_name)
        sequence = LoadSequence(client, warm_up, Trials(warm_up.warm, probe, runner.restart, metrics), metrics)
        adapters = build_adapters(
            settings,
            redis=redis,
            store=store,
            smoke_test=smoke_test,
            slots=slots,
            warm_up=warm_up,
            sequence=sequence,
            engine=client,
            engine_state=engine_state,
            metrics=metrics,
        )
        collector = VersionStateCollector(
            lambda: adapters.reconciler.desired,
            lambda: engine_state.state,
            lambda: slots.capacity,
            settings.max_loras,
            metrics.registry,
        )
        background = [
            tasks.create_task(runner.run()),
            tasks.create_task(adapters.reconciler.run()),
            tasks.create_task(_count_transitions(collector, engine_state)),
        ]
        if settings.config_map:
            background.append(tasks.create_task(_publisher(settings, adapters, engine_state).run()))
        try:
            async with _serving(settings, command, adapters, store, engine_state, metrics) as app:
                yield app
        finally:
            engine_state.close()
            for task in background:
                task.cancel()


def _publisher(settings: Settings, adapters: AdapterParts, engine_state: EngineStateStore) -> ConfigMapPublisher:
    def aliases() -> tuple[Alias, ...] | None:
        return engine_state.state.aliases if adapters.reconciler.has_read_within(FRESH_SECONDS) else None

    return ConfigMapPublisher(settings.config_map, settings.served_model_name, settings.service_account, aliases)


def _apply_limits(
    settings: Settings, facts: EngineFacts, slots: AdapterSlots, store: ArtifactStore, metrics: LoraServerMetrics
) -> str:
    """Applies the limits that the attached engine reports. Returns the note of `limits_note` on settings above these
    limits.
    """
    slots.capacity = adapter_limit(settings, facts)
    store.max_rank = min(settings.max_lora_rank, facts.max_lora_rank or settings.max_lora_rank)
    metrics.set_info(settings.engine_name, slots.capacity, facts.max_loras or settings.max_loras, store.max_rank)
    return limits_note(settings, facts)


@asynccontextmanager
async def _serving(
    settings: Settings,
    command: EngineCommand | None,
    adapters: AdapterParts,
    store: ArtifactStore,
    engine_state: EngineStateStore,
    metrics: LoraServerMetrics,
) -> AsyncIterator[App]:
    """Runs the queue of training jobs during the block, and yields the app with the servicers."""
    identity = EngineIdentity(
        settings.engine_name,
        settings.served_model_name,
        settings.public_url,
        settings.max_model_len,
        command.tool_call_parser if command else attached_parser(settings),
    )
    async with running_queue(job_environment(settings), *job_callbacks(adapters.service, store)) as queue:
        adapter_calls = LoraServerServicer(adapters.service, engine_state, identity)
        training_calls = TrainingServicer(queue)

        def add_to(server: grpc.aio.Server) -> None:
            lora_server_pb2_grpc.add_LoraServerServicer_to_server(adapter_calls, server)
            training_pb2_grpc.add_TrainingServicer_to_server(training_calls, server)

        async def start_shutdown() -> None:
            await adapters.reconciler.hand_over(HAND_OVER_SECONDS)
            engine_state.start_shutdown()

        def end_watches() -> None:
            engine_state.close()
            queue.close()

        yield App(
            services=[servicers.ADAPTERS, servicers.TRAINING],
            add_to=add_to,
            interceptors=[CallsInFlight(metrics.registry)],
            engine_state=engine_state,
            metrics_registry=metrics.registry,
            is_ready=lambda: adapters.reconciler.is_settled,
            start_shutdown=start_shutdown,
            end_watches=end_watches,
        )


@asynccontextmanager
async def _smoke_test(settings: Settings) -> AsyncIterator[SmokeTest]:
    if settings.smoke_test == "off":
        yield NullSmokeTest()
        return
    smoke_test = PeftSmokeTest(
        settings.engine_python,
        settings.base_model,
        SmokeLimits(prompts=settings.smoke_test_prompts, cpu_share=settings.smoke_test_cpu_share),
    )
    try:
        yield smoke_test
    finally:
        await smoke_test.close()


async def _count_transitions(collector: VersionStateCollector, engine_state: EngineStateStore) -> None:
    async for _ in engine_state.watch():
        collector.count_transitions()
