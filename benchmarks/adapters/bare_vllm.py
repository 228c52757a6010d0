"""Starts vLLM with the flags that the lora-server uses, but without its guard, as the baseline of the comparison."""

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pointsman_lora_server.engine.command import GUARD, EngineSettings, build_command, choose_dtype
from pointsman_lora_server.machine import cpu_flags, has_gpu

from benchmarks.adapters.services import BASE, BASE_FOLDER, ENGINE_PYTHON, ENGINE_START_SECONDS, start_process
from benchmarks.gateway_load.http_client import HOST, Target, answers_at, post
from benchmarks.gateway_load.machine import CannotMeasure, free_ports


@dataclass(frozen=True, slots=True)
class BareVllm:
    port: int
    load_seconds: tuple[float, ...]
    """Of each adapter, one after the other, on an idle engine."""


@asynccontextmanager
async def bare_vllm(
    folder: Path, adapters: Mapping[str, Path], batch: int, engine_args: str = ""
) -> AsyncIterator[BareVllm]:
    """Yields the engine after loading all `adapters` (folders by name). Raises CannotMeasure."""
    (port,) = free_ports(1)
    settings = EngineSettings(
        python=ENGINE_PYTHON,
        listen=f"{HOST}:{port}",
        base_model=BASE_FOLDER,
        served_model_name=BASE,
        held=max(batch, len(adapters)),
        max_loras=batch,
        max_lora_rank=8,
        max_model_len=4096,
        dtype=choose_dtype("auto", cpu_flags(), has_gpu()),
        extra_arguments=engine_args,
    )
    command = build_command(settings, os.environ, os.sched_getaffinity(0))
    arguments = list(command.arguments)
    at = arguments.index("--middleware")
    assert arguments[at + 1] == GUARD
    del arguments[at : at + 2]
    environment = {name: value for name, value in command.environment.items() if name != "PYTHONPATH"}
    environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    with start_process(folder, "vllm", arguments, environment) as program:
        await program.until_ready(lambda: answers_at(port, "/health"), timeout_s=ENGINE_START_SECONDS)
        loads = []
        for name, path in adapters.items():
            started = time.monotonic()
            answer = await post(
                Target(port, BASE, path="/v1/load_lora_adapter"),
                {"lora_name": name, "lora_path": str(path)},
                timeout_s=60,
            )
            if answer.status != 200:
                raise CannotMeasure(f"vLLM does not load {name}: {answer.body[:300]!r}")
            loads.append(time.monotonic() - started)
        yield BareVllm(port, tuple(loads))
