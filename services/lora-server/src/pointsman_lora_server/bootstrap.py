"""Builds the lora-server from its settings. No other module knows which concrete parts are combined."""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from pointsman.v1 import lora_server_pb2_grpc, training_pb2_grpc
from pointsman_servicekit.bounded_redis import BoundedRedis, open_redis
from pointsman_servicekit.metrics import CallsInFlight, export_build_info, measuring_event_loop_lag
from pointsman_servicekit.service_tokens import TokenGate, open_token_gate
from pointsman_servicekit.tracing.exporting import traces_endpoint
from prometheus_client import CollectorRegistry

from pointsman_lora_server.adapters.loading import AdapterLoader
from pointsman_lora_server.adapters.placement import PlacementPlanner
from pointsman_lora_server.adapters.promotion import Promoter, PromotionGate, roll_back_failing_canaries
from pointsman_lora_server.adapters.reconciler import Reconciler
from pointsman_lora_server.adapters.service import AdapterService
from pointsman_lora_server.adapters.slots import AdapterSlots
from pointsman_lora_server.adapters.state_machine import (
    NullSmokeTest,
    SmokeTest,
    VersionStateMachine,
    VersionValidator,
)
from pointsman_lora_server.adapters.trials import LoadSequence, Trials, WarmUp
from pointsman_lora_server.checks.base_layers import read_base
from pointsman_lora_server.domain import AdapterVersion, DesiredState
from pointsman_lora_server.engine.command import (
    EngineCommand,
    EngineSettings,
    GuardSecret,
    build_command,
    choose_dtype,
    with_secrets,
)
from pointsman_lora_server.engine.probe import Probe
from pointsman_lora_server.engine.supervisor import Supervisor
from pointsman_lora_server.engine.tool_calls import choose_tool_calling
from pointsman_lora_server.engine.vllm_client import TimedEngine, VllmClient, open_client
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.grpc import adapter_servicer, training_servicer
from pointsman_lora_server.grpc.adapter_servicer import LoraServerServicer
from pointsman_lora_server.grpc.messages import EngineIdentity
from pointsman_lora_server.grpc.training_servicer import TrainingServicer
from pointsman_lora_server.jobs.job import FindVersion, JobEnvironment, RegisterAdapter, TrainedAdapter
from pointsman_lora_server.jobs.queue import running_queue
from pointsman_lora_server.machine import cpu_flags, default_held, free_memory, has_gpu
from pointsman_lora_server.metrics import LoraServerMetrics, VersionStateCollector
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_lora_server.settings import Settings
from pointsman_lora_server.smoke.runner import PeftSmokeTest, SmokeLimits
from pointsman_lora_server.store import ArtifactStore
from pointsman_lora_server.training.methods import installed_methods

log = logging.getLogger(__name__)

HAND_OVER_SECONDS = 10.0
"""How long other engines get to load what is placed on an engine that shuts down. Without placements it takes no
time."""


@dataclass(frozen=True, slots=True)
class App:
    """What the process serves."""

    services: Sequence[str]
    """Full names of the gRPC services, for the health check."""
    add_to: Callable[[grpc.aio.Server], None]
    interceptors: Sequence[grpc.aio.ServerInterceptor]
    engine_state: EngineStateStore
    metrics_registry: CollectorRegistry
    is_ready: Callable[[], bool]
    """Whether the engine answers and holds every adapter that it should hold."""
    start_shutdown: Callable[[], Awaitable[None]]
    """Has other engines take over what is placed here, then reports the engine as DOWN to all watchers."""
    end_watches: Callable[[], None]
    """Ends the streams of engine states and training events, which never end by themselves."""


@dataclass(frozen=True, slots=True)
class _Adapters:
    """The parts that manage adapter versions."""

    service: AdapterService
    reconciler: Reconciler


def require_engine(settings: Settings) -> None:
    """Raises OSError if the Python of vLLM's environment does not exist."""
    if not settings.engine_python.is_file():
        raise FileNotFoundError(
            f"POINTSMAN_LORA_ENGINE_PYTHON: there is no {settings.engine_python}; name the python of vLLM's environment"
        )


def with_held(settings: Settings) -> Settings:
    """The settings with the number of held versions, derived from the free memory unless it is set.

    Raises OSError if the base model does not exist.
    """
    if settings.held is not None:
        return settings
    base = read_base(settings.base_model, settings.served_model_name)
    held = default_held(base.max_adapter_bytes(settings.max_lora_rank), settings.max_loras, free_memory())
    log.info("the engine holds up to %d adapter versions in its host memory (POINTSMAN_LORA_HELD)", held)
    return settings.model_copy(update={"held": held})


def _held(settings: Settings) -> int:
    """Derived once, before the engine's command is built: the engine and its manager must have the same number."""
    if settings.held is None:
        raise ValueError("the number of held versions is not known yet: call with_held first")
    return settings.held


def token_gate(settings: Settings) -> TokenGate | None:
    """Authenticates calls if tokens are set. Raises TokenFileError."""
    roles = {**adapter_servicer.METHOD_ROLES, **training_servicer.METHOD_ROLES}
    return open_token_gate(settings.tokens, roles, settings.listen, "POINTSMAN_LORA_TOKENS")


def command_for(settings: Settings, environment: Mapping[str, str]) -> EngineCommand:
    """How the engine is started on this machine.

    Raises OSError if its Python does not exist, ValueError for engine arguments that the lora-server must control.
    """
    require_engine(settings)
    engine = EngineSettings(
        held=_held(settings),
        python=settings.engine_python,
        listen=settings.engine_listen,
        base_model=settings.base_model,
        served_model_name=settings.served_model_name,
        max_loras=settings.max_loras,
        max_lora_rank=settings.max_lora_rank,
        max_model_len=settings.max_model_len,
        dtype=choose_dtype(settings.dtype, cpu_flags(), has_gpu()),
        extra_arguments=settings.engine_args,
        tool_calling=choose_tool_calling(settings.base_model, settings.tool_call_parser),
        traces_url=traces_endpoint(environment),
    )
    return build_command(engine, environment, os.sched_getaffinity(0))


@asynccontextmanager
async def build_app(
    settings: Settings, command: EngineCommand, smoke_test: SmokeTest | None = None
) -> AsyncIterator[App]:
    """Builds everything but the servers and starts the engine, which is stopped at the end of the block.

    `smoke_test` replaces the one that the settings choose. Raises OSError if the base model does not exist, ValueError
    for an invalid store.
    """
    if smoke_test is None:
        async with _smoke_test(settings) as smoke_test, build_app(settings, command, smoke_test) as app:
            yield app
        return
    base = read_base(settings.base_model, settings.served_model_name)
    store = ArtifactStore(settings.store, base, settings.max_lora_rank, cache_folder=settings.store_cache)
    engine_state, metrics, secret = EngineStateStore(), LoraServerMetrics(settings.served_model_name), GuardSecret()
    export_build_info(metrics.registry, "lora-server")
    metrics.set_info(settings.engine_name, _held(settings), settings.max_loras, settings.max_lora_rank)
    api_key = command.environment.get("VLLM_API_KEY", "")
    async with (
        open_redis(settings.redis_url, metrics.set_redis_up) as redis,
        open_client(f"http://{settings.engine_listen}", secret, api_key, command.traced) as client,
        measuring_event_loop_lag(metrics.registry),
        asyncio.TaskGroup() as tasks,
    ):
        timed = TimedEngine(client, metrics.observe_completion)
        probe = Probe(timed, settings.served_model_name, metrics.count_probe_failure)
        supervisor = Supervisor(
            with_secrets(command, secret),
            settings.engine_listen,
            client,
            engine_state,
            probe,
            settings.probe_interval_seconds,
            settings.shutdown_timeout,
        )
        warm_up = WarmUp(timed)
        sequence = LoadSequence(client, warm_up, Trials(warm_up.warm, probe, supervisor.restart, metrics), metrics)
        adapters = _build_adapters(settings, redis, store, smoke_test, client, warm_up, sequence, engine_state, metrics)
        collector = VersionStateCollector(
            lambda: adapters.reconciler.desired,
            lambda: engine_state.state,
            _held(settings),
            settings.max_loras,
            metrics.registry,
        )
        background = [
            tasks.create_task(supervisor.run()),
            tasks.create_task(adapters.reconciler.run()),
            tasks.create_task(_count_transitions(collector, engine_state)),
        ]
        try:
            async with _serving(settings, command, adapters, store, engine_state, metrics) as app:
                yield app
        finally:
            engine_state.close()
            for task in background:
                task.cancel()


def _build_adapters(
    settings: Settings,
    redis: BoundedRedis,
    store: ArtifactStore,
    smoke_test: SmokeTest,
    client: VllmClient,
    warm_up: WarmUp,
    sequence: LoadSequence,
    engine_state: EngineStateStore,
    metrics: LoraServerMetrics,
) -> _Adapters:
    registry = AdapterRegistry(redis, settings.served_model_name)
    slots = AdapterSlots(client, engine_state, _held(settings), metrics)
    loader = AdapterLoader(store, sequence, slots, registry, engine_state, metrics, settings.slot_wait_timeout_seconds)
    gate = PromotionGate(settings.protected_aliases)
    placement = PlacementPlanner(registry, f"{settings.engine_name} ({settings.public_url})")

    async def ensure_verified(version: AdapterVersion) -> None:
        """Loads the version here even if it is placed elsewhere, since this process has the reference to compare
        with."""
        await loader.ensure_verified(version)
        await placement.wait_until_warm(version.version, lambda: reconciler.desired)

    async def check_canaries(desired: DesiredState) -> None:
        await roll_back_failing_canaries(registry, desired, metrics.count_canary_rollback)

    state_machine = VersionStateMachine(
        registry,
        VersionValidator(store, smoke_test, registry, warm_up, metrics),
        Promoter(registry, gate, ensure_verified),
        owner=f"{settings.engine_name} {secrets.token_hex(8)}",
    )
    reconciler = Reconciler(registry, loader, state_machine, engine_state, check_canaries, placement)
    service = AdapterService(store, registry, loader, state_machine, reconciler, engine_state, gate, placement)
    return _Adapters(service, reconciler)


@asynccontextmanager
async def _serving(
    settings: Settings,
    command: EngineCommand,
    adapters: _Adapters,
    store: ArtifactStore,
    engine_state: EngineStateStore,
    metrics: LoraServerMetrics,
) -> AsyncIterator[App]:
    """Runs the queue of training jobs and creates the servicers."""
    identity = EngineIdentity(
        settings.engine_name,
        settings.served_model_name,
        settings.public_url,
        settings.max_model_len,
        command.tool_call_parser,
    )
    async with running_queue(_job_environment(settings), *_job_callbacks(adapters.service, store)) as queue:
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
            services=[adapter_servicer.SERVICE, training_servicer.SERVICE],
            add_to=add_to,
            interceptors=[CallsInFlight(metrics.registry)],
            engine_state=engine_state,
            metrics_registry=metrics.registry,
            is_ready=lambda: adapters.reconciler.is_settled,
            start_shutdown=start_shutdown,
            end_watches=end_watches,
        )


def _job_environment(settings: Settings) -> JobEnvironment:
    """Training processes receive none of the lora-server's settings: one of them contains Redis's password."""
    return JobEnvironment(
        folder=settings.jobs,
        python=settings.engine_python,
        base_model=settings.base_model,
        base_model_name=settings.served_model_name,
        environment={key: value for key, value in os.environ.items() if not key.startswith("POINTSMAN_")},
        methods=installed_methods() | settings.training_methods,
        data_roots=settings.data_roots,
    )


def _job_callbacks(service: AdapterService, store: ArtifactStore) -> tuple[RegisterAdapter, FindVersion]:
    """What a training job needs from the rest of the lora-server."""

    async def register(trained: TrainedAdapter) -> str:
        report = await service.register(
            trained.name,
            trained.folder,
            trained.alias_suffix,
            trained.facts,
            trained.parent,
            trained.author,
            trained.force,
        )
        return report.version.version

    async def find(version: str) -> Path:
        report = await service.get(version)
        return await asyncio.to_thread(store.fetch, report.version)

    return register, find


@asynccontextmanager
async def _smoke_test(settings: Settings) -> AsyncIterator[SmokeTest]:
    if settings.smoke_test == "off":
        yield NullSmokeTest()
        return
    smoke_test = PeftSmokeTest(
        settings.engine_python, settings.base_model, SmokeLimits(prompts=settings.smoke_test_prompts)
    )
    try:
        yield smoke_test
    finally:
        await smoke_test.close()


async def _count_transitions(collector: VersionStateCollector, engine_state: EngineStateStore) -> None:
    async for _ in engine_state.watch():
        collector.count_transitions()
