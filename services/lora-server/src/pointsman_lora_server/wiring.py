"""Builds the lora-server: the only file that knows concrete classes."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from pointsman.v1 import lora_server_pb2_grpc, training_pb2_grpc
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.metrics import CallsInFlight, export_build_info, measuring_event_loop_lag
from pointsman_servicekit.tracing.exporting import traces_endpoint
from prometheus_client import CollectorRegistry

from pointsman_lora_server.board import Board
from pointsman_lora_server.checks.base import read_base
from pointsman_lora_server.domain import AdapterVersion, Alias
from pointsman_lora_server.doors.grpc import SERVICE, EngineIdentity, LoraServerServicer
from pointsman_lora_server.doors.training import SERVICE as TRAINING
from pointsman_lora_server.doors.training import TrainingServicer
from pointsman_lora_server.engine import command as engine_command
from pointsman_lora_server.engine import vllm_api
from pointsman_lora_server.engine.command import Command, EngineSettings
from pointsman_lora_server.engine.probe import Probe
from pointsman_lora_server.engine.secret import Secret
from pointsman_lora_server.engine.supervisor import Supervisor
from pointsman_lora_server.engine.timing import Timed
from pointsman_lora_server.hot_swap import HotSwap
from pointsman_lora_server.jobs.job import Find, Place, Register, Result
from pointsman_lora_server.jobs.opening import opening as opening_jobs
from pointsman_lora_server.judging import judge
from pointsman_lora_server.loading import Loading
from pointsman_lora_server.metering.prometheus import Metrics
from pointsman_lora_server.metering.states import States
from pointsman_lora_server.placing import Placing
from pointsman_lora_server.publishing import Gate, Publishing
from pointsman_lora_server.reconcile import Reconciler
from pointsman_lora_server.registry import Registry
from pointsman_lora_server.roll_outs import RollOuts
from pointsman_lora_server.rollout import Rollout
from pointsman_lora_server.settings import Settings
from pointsman_lora_server.slots import Slots
from pointsman_lora_server.smoke.runner import Limits
from pointsman_lora_server.smoke.runner import Smoke as PeftSmoke
from pointsman_lora_server.store import Store
from pointsman_lora_server.validating import Smoke, Untried, Validating
from pointsman_lora_server.warming import Warming

HAND_OVER = 10.0
"""Seconds that others get to take what is placed on an engine that leaves; where nothing is, none pass."""


@dataclass(frozen=True, slots=True)
class House:
    services: Sequence[str]
    """Full names of the gRPC services, as the health check knows them."""
    add_to: Callable[[grpc.aio.Server], None]
    interceptors: Sequence[grpc.aio.ServerInterceptor]
    board: Board
    registry: CollectorRegistry
    is_ready: Callable[[], bool]
    """Whether the engine answers, with all adapters that it is to hold."""
    take_leave: Callable[[], Awaitable[None]]
    """Has others take what is placed here, then tells everyone who watches that the engine is asked nothing new."""
    end_watches: Callable[[], None]
    """Of engine and training jobs; they would never end by themselves."""


def command_for(settings: Settings, environment: Mapping[str, str]) -> Command:
    """How the engine is started on this machine. Raises OSError where its Python is not there, ValueError for arguments
    that would take it out of our hands."""
    if not settings.engine_python.is_file():
        raise FileNotFoundError(
            f"POINTSMAN_LORA_ENGINE_PYTHON: there is no {settings.engine_python}; name the python of vLLM's environment"
        )
    engine = EngineSettings(
        python=settings.engine_python,
        listen=settings.engine_listen,
        base_model=settings.base_model,
        served_model_name=settings.served_model_name,
        max_loras=settings.max_loras,
        max_lora_rank=settings.max_lora_rank,
        max_model_len=settings.max_model_len,
        more=settings.engine_args,
        traces=traces_endpoint(environment),
    )
    return engine_command.vllm(engine, environment, os.sched_getaffinity(0))


@asynccontextmanager
async def building(settings: Settings, command: Command, smoke: Smoke | None = None) -> AsyncIterator[House]:
    """Everything but the doors, with the engine starting. At the end the engine is stopped.

    `smoke`: another trial than the settings name. Raises OSError where the base model is not there, ValueError for a
    store that cannot be one.
    """
    if smoke is None:
        async with _trying(settings) as smoke, building(settings, command, smoke) as house:
            yield house
        return
    base = read_base(settings.base_model, settings.served_model_name)
    store = Store(settings.store, base, settings.max_lora_rank, kept_here=settings.store_cache)
    board, metrics, secret = Board(), Metrics(settings.served_model_name), Secret()
    export_build_info(metrics.registry, "lora-server")
    metrics.configured(settings.engine_name, settings.max_loras, settings.max_lora_rank)
    async with (
        open_redis(settings.redis_url, metrics.redis_answers) as redis,
        vllm_api.opening(
            f"http://{settings.engine_listen}", secret, command.environment.get("VLLM_API_KEY", ""), command.traced
        ) as engine,
        measuring_event_loop_lag(metrics.registry),
        asyncio.TaskGroup() as tasks,
    ):
        registry = Registry(redis, settings.served_model_name)
        timed = Timed(engine, metrics)
        probe = Probe(timed, settings.served_model_name, metrics)
        supervisor = Supervisor(
            engine_command.with_secrets(command, secret),
            settings.engine_listen,
            engine,
            board,
            probe,
            settings.probe_seconds,
            settings.drain_grace,
        )
        warming = Warming(timed)
        loading = Loading(engine, warming, probe, supervisor.restart)
        slots = Slots(engine, board, settings.max_loras, metrics)
        hot_swap = HotSwap(store, loading, slots, registry, board, metrics, settings.slot_wait_seconds)
        gate = Gate(settings.guarded_aliases)
        placing = Placing(registry, f"{settings.engine_name} ({settings.public_url})")

        async def ensure_agreed(version: AdapterVersion) -> None:
            """Also where it is placed elsewhere: here is known how PEFT answers."""
            await hot_swap.ensure_agreed(version)
            await placing.until_warm(version.version, lambda: reconciler.desired)

        roll_outs = RollOuts(
            registry,
            Validating(store, smoke, registry, warming, metrics),
            Publishing(registry, gate, ensure_agreed),
            owner=f"{settings.engine_name} {secrets.token_hex(8)}",
        )
        judged = CountedRollbacks(registry, metrics.canary_rolled_back)
        reconciler = Reconciler(
            registry,
            hot_swap,
            roll_outs,
            board,
            lambda desired: judge(judged, desired),
            placing,
        )
        states = States(lambda: reconciler.desired, lambda: board.state, settings.max_loras, metrics.registry)
        rollout = Rollout(store, registry, hot_swap, roll_outs, reconciler, board, gate, placing)
        identity = EngineIdentity(
            settings.engine_name, settings.served_model_name, settings.public_url, settings.max_model_len
        )
        running = [
            tasks.create_task(supervisor.run()),
            tasks.create_task(reconciler.run()),
            tasks.create_task(_observe(states, board)),
        ]
        try:
            async with opening_jobs(_place(settings), *_registering(rollout, store)) as line:
                adapters, training = LoraServerServicer(rollout, board, identity), TrainingServicer(line)

                def add_to(server: grpc.aio.Server) -> None:
                    lora_server_pb2_grpc.add_LoraServerServicer_to_server(adapters, server)
                    training_pb2_grpc.add_TrainingServicer_to_server(training, server)

                async def take_leave() -> None:
                    await reconciler.hand_over(HAND_OVER)
                    board.leave()

                def end_watches() -> None:
                    board.close()
                    line.close()

                around = [CallsInFlight(metrics.registry)]
                yield House(
                    [SERVICE, TRAINING],
                    add_to,
                    around,
                    board,
                    metrics.registry,
                    lambda: reconciler.settled,
                    take_leave,
                    end_watches,
                )
        finally:
            board.close()
            for task in running:
                task.cancel()


def _place(settings: Settings) -> Place:
    """Of training jobs. Their processes see none of our settings: one of these holds Redis's password."""
    return Place(
        folder=settings.jobs,
        python=settings.engine_python,
        base_model=settings.base_model,
        base_model_name=settings.served_model_name,
        environment={key: value for key, value in os.environ.items() if not key.startswith("POINTSMAN_")},
        roots=settings.data_roots,
    )


def _registering(rollout: Rollout, store: Store) -> tuple[Register, Find]:
    """What a training job asks of the rest."""

    async def register(result: Result) -> str:
        report = await rollout.register(
            result.name, result.folder, result.word, result.facts, result.parent, result.author, result.force
        )
        return report.version.version

    async def find(version: str) -> Path:
        report = await rollout.get(version)
        return await asyncio.to_thread(store.fetch, report.version)

    return register, find


@asynccontextmanager
async def _trying(settings: Settings) -> AsyncIterator[Smoke]:
    if settings.smoke == "off":
        yield Untried()
        return
    smoke = PeftSmoke(settings.engine_python, settings.base_model, Limits(rows=settings.smoke_rows))
    try:
        yield smoke
    finally:
        await smoke.close()


class CountedRollbacks:
    """The registry as the judge of canaries sees it; each rollback is counted."""

    def __init__(self, registry: Registry, counted: Callable[[], None]) -> None:
        self._registry = registry
        self._counted = counted
        self.counts = registry.counts

    async def rollback(self, alias: str, *words: Any, **named: Any) -> Alias:
        rolled_back = await self._registry.rollback(alias, *words, **named)
        self._counted()
        return rolled_back


async def _observe(states: States, board: Board) -> None:
    async for _ in board.watch():
        states.observe()
