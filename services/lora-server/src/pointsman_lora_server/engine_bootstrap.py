"""Starts the inference engine as a child process, or attaches to an engine that is already running, depending on the
settings.
"""

import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

from pointsman_servicekit.tracing.exporting import traces_endpoint

from pointsman_lora_server.base_model import BaseModelError
from pointsman_lora_server.checks.base_layers import read_base
from pointsman_lora_server.engine.attachment import Attachment
from pointsman_lora_server.engine.command import (
    EngineCommand,
    EngineSettings,
    GuardSecret,
    build_command,
    choose_dtype,
    with_secrets,
)
from pointsman_lora_server.engine.completion import Probe
from pointsman_lora_server.engine.remote_store_client import SendingClient, SharedStoreClient
from pointsman_lora_server.engine.runtime_client import RuntimeClient, SglangClient
from pointsman_lora_server.engine.supervisor import Supervisor
from pointsman_lora_server.engine.tool_calls import choose_tool_calling
from pointsman_lora_server.engine.vllm_client import EngineFacts, VllmClient, open_client
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.machine import MAX_DEFAULT_HELD, cpu_flags, default_held, free_memory, has_gpu
from pointsman_lora_server.model_folder import read_context_window
from pointsman_lora_server.settings import Settings

log = logging.getLogger(__name__)

NO_PARSER = ("auto", "off")
"""Values of `Settings.tool_call_parser` that are not the name of a parser."""


class EngineMonitor(Protocol):
    """Interface for monitoring the engine; `Supervisor` and `Attachment` implement it.

    `run` publishes the engine's status until it is cancelled. `restart` takes an engine that is corrupted out of use at
    once.
    """

    async def run(self) -> None: ...
    def restart(self, reason: str) -> None: ...


def require_engine(settings: Settings) -> None:
    """Raises FileNotFoundError if the Python interpreter `settings.engine_python` is needed, for the engine or for
    smoke tests, but does not exist.
    """
    if settings.is_attached and settings.smoke_test == "off":
        return
    if not settings.engine_python.is_file():
        raise FileNotFoundError(
            f"POINTSMAN_LORA_ENGINE_PYTHON: there is no {settings.engine_python}; name the python of vLLM's environment"
        )


def with_context_window(settings: Settings) -> Settings:
    """Returns the settings. If `max_model_len` is 0, it is replaced by the context window, in tokens, that the base
    model's config.json states.

    Raises ValueError if `max_model_len` is 0 and either the file states no context window, or the engine is attached
    and not started here.
    """
    if settings.max_model_len:
        return settings
    if settings.is_attached:
        raise ValueError("POINTSMAN_LORA_MAX_MODEL_LEN is 0; state the context window of the attached engine")
    try:
        window = read_context_window(settings.base_model)
    except BaseModelError as error:
        raise ValueError(f"POINTSMAN_LORA_MAX_MODEL_LEN is 0, but {error}") from error
    log.info("the context window is the base model's, %d tokens (POINTSMAN_LORA_MAX_MODEL_LEN)", window)
    return settings.model_copy(update={"max_model_len": window})


def with_held(settings: Settings) -> Settings:
    """Returns the settings. If `held` (the number of adapters that the engine can hold) is unset and this process
    starts the engine, it is derived from the machine's free memory (`machine.default_held`).

    Raises OSError if the base model does not exist or is damaged.
    """
    if settings.held is not None or settings.is_attached:
        return settings
    base = read_base(settings.base_model, settings.served_model_name)
    held = default_held(base.max_adapter_bytes(settings.max_lora_rank), settings.max_loras, free_memory())
    log.info("the engine holds up to %d adapter versions in its host memory (POINTSMAN_LORA_HELD)", held)
    return settings.model_copy(update={"held": held})


def adapter_limit(settings: Settings, facts: EngineFacts | None = None) -> int:
    """Returns the number of adapter versions that the engine may hold.

    For an engine that this process starts, this is `settings.held`; raises ValueError if that is unset (see
    `with_held`). For an attached engine, it is the lower of `settings.held` (`MAX_DEFAULT_HELD` if unset) and the
    engine's own limit in `facts`. If `facts` have no limit, it is `settings.held`; if that is unset too, it is the
    number of adapters in one batch, because every engine can hold as many.
    """
    if not settings.is_attached:
        if settings.held is None:
            raise ValueError("the number of held versions is not known yet: call with_held first")
        return settings.held
    engine = facts or EngineFacts(base_models=frozenset())
    if engine.held is None:
        return settings.held or engine.max_loras or settings.max_loras
    return min(settings.held or MAX_DEFAULT_HELD, engine.held)


def limits_note(settings: Settings, facts: EngineFacts) -> str:
    """Returns a text that names each setting that is above the attached engine's limit, with both values; empty if
    there is none.
    """
    limits = (
        ("HELD", settings.held, facts.held, "--max-cpu-loras, without --lora-modules"),
        ("MAX_LORA_RANK", settings.max_lora_rank, facts.max_lora_rank, "--max-lora-rank"),
        ("MAX_MODEL_LEN", settings.max_model_len, facts.max_model_len, "--max-model-len"),
    )
    return ", ".join(
        f"POINTSMAN_LORA_{name} is {wanted}, but the engine was started for {actual} ({option})"
        for name, wanted, actual, option in limits
        if wanted is not None and actual is not None and actual < wanted
    )


def command_for(settings: Settings, environment: Mapping[str, str]) -> EngineCommand | None:
    """Returns the command that starts the engine on this machine; None if the settings attach to a running engine.
    `environment` is this process's environment.

    Raises the errors of `require_engine`, `adapter_limit` and `build_command`.
    """
    require_engine(settings)
    if settings.is_attached:
        return None
    engine = EngineSettings(
        held=adapter_limit(settings),
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
async def open_engine(
    settings: Settings, command: EngineCommand | None, secret: GuardSecret
) -> AsyncIterator[VllmClient]:
    """Yields a client of the engine, which is closed after the block.

    If `command` is given, the client is for the engine that this process starts, whose guard expects `secret`;
    otherwise for the attached engine.
    """
    if command:
        api_key, url = command.environment.get("VLLM_API_KEY", ""), f"http://{settings.engine_listen}"
        async with open_client(url, secret, api_key, command.traced) as client:
            yield client
        return
    shared = settings.engine_secret.get_secret_value()
    engine_path = partial(path_at_engine, settings.local_store.absolute(), settings.engine_store)
    unguarded = SglangClient if settings.engine_api == "sglang" else RuntimeClient
    guarded = SendingClient if settings.engine_files == "sent" else SharedStoreClient
    create = partial(guarded if shared else unguarded, engine_path=engine_path)
    async with open_client(
        settings.engine_url, lambda: shared, os.environ.get("VLLM_API_KEY", ""), create=create
    ) as client:
        yield client


def create_runner(
    settings: Settings,
    *,
    command: EngineCommand | None,
    secret: GuardSecret,
    client: VllmClient,
    engine_state: EngineStateStore,
    probe: Probe,
    apply_limits: Callable[[EngineFacts], str],
) -> EngineMonitor:
    """Returns a `Supervisor`, which starts the engine with `command`, or if that is None, an `Attachment`, which
    watches a running engine.

    `apply_limits` is passed to the `Attachment`; a `Supervisor` does not need it.
    """
    if command:
        return Supervisor(
            next_command=with_secrets(command, secret),
            listen=settings.engine_listen,
            client=client,
            engine_state=engine_state,
            probe=probe,
            probe_interval=settings.probe_interval_seconds,
            shutdown_seconds=settings.shutdown_timeout,
            max_start_seconds=settings.start_timeout,
        )
    return Attachment(
        url=settings.engine_url,
        base_model=settings.served_model_name,
        client=client,
        engine_state=engine_state,
        probe=probe,
        apply_limits=apply_limits,
        probe_interval=settings.probe_interval_seconds,
    )


def path_at_engine(store: Path, store_at_engine: str, folder: Path) -> str:
    """Returns the path at which the engine sees `folder`, a folder below `store` on this machine.

    The result is the same relative path below `store_at_engine`, or `folder` itself if `store_at_engine` is empty.
    """
    if not store_at_engine:
        return str(folder)
    return str(PurePosixPath(store_at_engine) / folder.relative_to(store))


def attached_parser(settings: Settings) -> str:
    """Returns the name of the attached engine's tool-call parser, as set by the user; empty if the settings name
    none.
    """
    return "" if settings.tool_call_parser in NO_PARSER else settings.tool_call_parser
