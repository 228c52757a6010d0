"""Builds the lora-server: the only file that knows concrete classes."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pointsman_lora_server.board import Board
from pointsman_lora_server.checks.base import read_base
from pointsman_lora_server.doors.grpc import EngineIdentity, LoraServerServicer
from pointsman_lora_server.engine import command as engine_command
from pointsman_lora_server.engine import vllm_api
from pointsman_lora_server.engine.command import Command, EngineSettings
from pointsman_lora_server.engine.supervisor import Supervisor
from pointsman_lora_server.hot_swap import HotSwap
from pointsman_lora_server.metering.prometheus import Metrics
from pointsman_lora_server.reconcile import Reconciler
from pointsman_lora_server.registry import Registry
from pointsman_lora_server.rollout import Rollout
from pointsman_lora_server.settings import Settings
from pointsman_lora_server.store import Store


@dataclass(frozen=True, slots=True)
class House:
    servicer: LoraServerServicer
    board: Board
    registry: CollectorRegistry


def command_for(settings: Settings, environment: Mapping[str, str]) -> Command:
    """How the engine is started on this machine. Raises OSError where its Python is not there."""
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
    )
    return engine_command.vllm(engine, environment, os.sched_getaffinity(0))


@asynccontextmanager
async def building(settings: Settings, command: Command) -> AsyncIterator[House]:
    """Everything but the doors, with the engine starting. At the end the engine is stopped.

    Raises OSError where the base model is not there.
    """
    base = read_base(settings.base_model, settings.served_model_name)
    store = Store(settings.store, base, settings.max_lora_rank)
    board = Board()
    metrics = Metrics(lambda: board.state)
    # No second try inside the client: the registry has a deadline for each.
    redis = Redis.from_url(settings.redis_url, decode_responses=True, retry=Retry(NoBackoff(), 0))
    async with redis, vllm_api.opening(f"http://{settings.engine_listen}") as engine, asyncio.TaskGroup() as tasks:
        registry = Registry(redis, settings.served_model_name)
        supervisor = Supervisor(command, settings.engine_listen, engine, board)
        hot_swap = HotSwap(engine, store, board, settings.max_loras, supervisor.restart, metrics)
        reconciler = Reconciler(registry, hot_swap, board)
        rollout = Rollout(store, registry, hot_swap, reconciler, board)
        identity = EngineIdentity(
            settings.engine_name, settings.served_model_name, settings.public_url, settings.max_model_len
        )
        running = [tasks.create_task(supervisor.run()), tasks.create_task(reconciler.run())]
        try:
            yield House(LoraServerServicer(rollout, board, identity), board, metrics.registry)
        finally:
            board.close()
            for task in running:
                task.cancel()
