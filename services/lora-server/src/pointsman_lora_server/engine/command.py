"""How vLLM is started: its arguments and its environment."""

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pointsman_lora_server.engine.secret import VARIABLE, GuardSecret

DRAIN = 5
"""Seconds that vLLM lets answers finish which come at the last moment; those before them have ended when it is told to
stop, since its own drain was seen to cut answers short. By itself it would cut all off at once."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's --max-lora-rank takes."""

TRACES = "--otlp-traces-endpoint"

GUARD = "pointsman_engine_guard.Guard"
GUARD_FOLDER = Path(__file__).parent / "guard"

_OWN_SETTING = "has a setting of the lora-server"
_NOT_TO_BE_GIVEN = {
    "--middleware": "must be the guard alone",
    "--lora-modules": "loads adapters that nothing has checked",
    "--default-mm-loras": "loads adapters that nothing has checked",
    "--api-server-count": "leaves all API servers but one without the adapters",
    "--api-key": "is seen by every user of the machine: set VLLM_API_KEY in the environment",
    "--config": "can carry any of the others: write its lines as arguments",
    "--uds": "leaves the engine without an address",
    "--enable-lora": "is always set",
    "--no-enable-lora": "leaves the engine without adapters",
    "--max-cpu-loras": "must be the slots: otherwise vLLM itself throws adapters out, and reads their folders again",
    "--lora-config": "must be the lora-server's",
    "--model": _OWN_SETTING,
    "--served-model-name": _OWN_SETTING,
    "--host": _OWN_SETTING,
    "--port": _OWN_SETTING,
    "--max-loras": _OWN_SETTING,
    "--max-lora-rank": _OWN_SETTING,
    "--max-model-len": _OWN_SETTING,
}
_SHORT = {"-asc": "--api-server-count"}


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
    traces: str = ""
    """Where vLLM sends its spans, a URL that takes OTLP over HTTP; empty: nowhere."""


@dataclass(frozen=True, slots=True)
class EngineCommand:
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    traced: bool = False
    """Whether it makes spans of what it is asked."""


def vllm(settings: EngineSettings, environment: Mapping[str, str], cores: Iterable[int]) -> EngineCommand:
    """`environment` is ours: what we set in it below gives way to what is set there already.

    Raises ValueError where `more` holds what would take the engine out of our hands.
    """
    host, _, port = settings.listen.rpartition(":")
    rank = min(rank for rank in RANKS if rank >= settings.max_lora_rank)
    more = shlex.split(settings.more)
    _check(more)
    told_elsewhere = any(_may_mean(_name_of(argument), TRACES) for argument in more)
    traces = "" if told_elsewhere else settings.traces
    arguments = (
        # Absolute but not resolved: a virtual environment's python is a link that knows its environment by its place.
        *(os.path.abspath(settings.python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(settings.base_model.resolve()), "--served-model-name", settings.served_model_name),
        *("--host", host, "--port", port, "--dtype", "bfloat16"),
        *("--max-model-len", str(settings.max_model_len)),
        # As many in memory as in slots: otherwise vLLM itself throws adapters out, and reads their folders again.
        *("--enable-lora", "--max-loras", str(settings.max_loras), "--max-cpu-loras", str(settings.max_loras)),
        *("--max-lora-rank", str(rank), "--middleware", GUARD),
        *("--shutdown-timeout", str(DRAIN), "--enable-prompt-tokens-details", "--enable-per-request-metrics"),
        "--disable-uvicorn-access-log",
        *((TRACES, traces) if traces else ()),
        *more,
    )
    defaults = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; the GPU build does not read it, nor the next
        "VLLM_CPU_OMP_THREADS_BIND": ranges(cores),
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",  # the probe asks how many there were
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",  # seconds; gateways keep their connections for 60
        "PYTHONUNBUFFERED": "1",
        **(_told_of_traces(environment) if traces else {}),
    }
    passed_on = _passed_on(environment)
    return EngineCommand(
        arguments, defaults | passed_on | {"PYTHONPATH": str(GUARD_FOLDER)}, traced=bool(traces or told_elsewhere)
    )


def with_secrets(command: EngineCommand, secret: GuardSecret) -> Callable[[], EngineCommand]:
    """The command of each life of the engine, with a secret that no other life has."""
    return lambda: replace(command, environment={**command.environment, VARIABLE: secret.renew()})


def ranges(cores: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> "0-2,5"."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def _check(more: Sequence[str]) -> None:
    for argument in more:
        name = _name_of(argument)
        for refused, why in _NOT_TO_BE_GIVEN.items():
            if _may_mean(name, refused):
                raise ValueError(f"POINTSMAN_LORA_ENGINE_ARGS: '{argument}' cannot be given: {refused} {why}")


def _name_of(argument: str) -> str:
    """As vLLM reads it: "_" for "-", "--lora-config.x=1"."""
    name = argument.partition("=")[0].partition(".")[0].replace("_", "-")
    return _SHORT.get(name, name)


def _may_mean(name: str, option: str) -> bool:
    """vLLM takes any beginning of a name that only one option has."""
    return name == option or (len(name) > 3 and name.startswith("--") and option.startswith(name))


def _told_of_traces(environment: Mapping[str, str]) -> dict[str, str]:
    """vLLM's usual protocol is gRPC, whatever the endpoint; and without a name its spans are an unknown service's."""
    named = "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"} | ({} if named else {"OTEL_SERVICE_NAME": "vllm"})


def _passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Not our own settings (one holds Redis's password), our Python's places, and what opens vLLM to others."""
    return {
        key: value
        for key, value in environment.items()
        if not key.startswith(("POINTSMAN_", "VLLM_LORA_RESOLVER")) and key not in _KEPT_BACK
    }


_KEPT_BACK = frozenset(
    (
        *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",  # a chat request could load any folder, given a resolver
        "VLLM_SKIP_MODEL_NAME_VALIDATION",  # who asks for an adapter that is gone would be answered by the base model
        "VLLM_SERVER_DEV_MODE",
        # From it vLLM's processes would send spans, by gRPC, unasked; told to trace, vLLM tells them by itself.
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    )
)
