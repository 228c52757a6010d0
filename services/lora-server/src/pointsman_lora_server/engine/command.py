"""How vLLM is started: its arguments and its environment."""

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

DRAIN = 10
"""Seconds that vLLM lets answers in flight finish after SIGTERM; by itself it would cut them off at once."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's --max-lora-rank takes."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    python: Path
    listen: str
    base_model: Path
    served_model_name: str
    max_loras: int
    max_lora_rank: int
    max_model_len: int
    more: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def vllm(settings: EngineSettings, environment: Mapping[str, str], cores: Iterable[int]) -> Command:
    """`environment` is ours: what we set in it below gives way to what is set there already."""
    host, _, port = settings.listen.rpartition(":")
    rank = min(rank for rank in RANKS if rank >= settings.max_lora_rank)
    arguments = (
        # Absolute but not resolved: a virtual environment's python is a link that knows its environment by its place.
        *(os.path.abspath(settings.python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(settings.base_model.resolve()), "--served-model-name", settings.served_model_name),
        *("--host", host, "--port", port, "--dtype", "bfloat16"),
        *("--max-model-len", str(settings.max_model_len)),
        *("--enable-lora", "--max-loras", str(settings.max_loras), "--max-cpu-loras", str(settings.max_loras)),
        *("--max-lora-rank", str(rank)),
        *("--shutdown-timeout", str(DRAIN), "--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
        *shlex.split(settings.more),
    )
    defaults = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; the GPU build does not read it, nor the next
        "VLLM_CPU_OMP_THREADS_BIND": ranges(cores),
        "PYTHONUNBUFFERED": "1",
    }
    return Command(arguments, defaults | _passed_on(environment))


def ranges(cores: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> "0-2,5"."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def _passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Not our own settings (one holds Redis's password), nor where our Python finds its modules."""
    return {
        key: value
        for key, value in environment.items()
        if not key.startswith("POINTSMAN_") and key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
