"""Builds the command that starts vLLM: its arguments, its environment, and the secret for the routes of the guard (our
middleware in vLLM).
"""

import os
import secrets
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pointsman_lora_server.engine.tool_calls import NO_TOOL_CALLING, ToolCalling

DRAIN_SECONDS = 5
"""Seconds for which vLLM lets running requests finish after SIGTERM. Only requests that arrived at the last moment are
left then: the supervisor waits for earlier requests before it stops vLLM, because vLLM's own drain was observed to cut
answers short."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's --max-lora-rank accepts."""

SECRET_HEADER = "x-pointsman-secret"
SECRET_VARIABLE = "POINTSMAN_ENGINE_SECRET"
"""The environment variable in which the engine receives the guard's secret. Only the same user can read a process's
environment, whereas every user can see its arguments."""

_UNKNOWN_VERSION_VARIABLE = "POINTSMAN_ENGINE_UNKNOWN_VERSION"
"""The environment variable that says whether the guard starts with a vLLM version that it was not tested with."""

GUARD = "pointsman_engine_guard.Guard"
GUARD_FOLDER = Path(__file__).parent / "guard"

_TRACES_OPTION = "--otlp-traces-endpoint"
_STRUCTURED_OUTPUTS_OPTION = "--structured-outputs-config"
COMPACT_JSON = '{"backend": "xgrammar", "disable_any_whitespace": true}'
"""vLLM's setting for structured outputs. It forbids white space between JSON tokens, because small models would write
it until the context is full. Only two backends can forbid it. Guidance supports more of JSON Schema than xgrammar does,
but rejects the grammars of vLLM's tool-call parsers."""
NATIVE_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags in /proc/cpuinfo of CPUs that can multiply bfloat16 numbers; the last flag is for Arm CPUs."""
_HAS_SETTING = "has a setting of the lora-server"
_FORBIDDEN_OPTIONS = {
    "--middleware": "must be the guard alone",
    "--lora-modules": "loads adapters that nothing has checked",
    "--default-mm-loras": "loads adapters that nothing has checked",
    "--api-server-count": "leaves all API servers but one without the adapters",
    "--api-key": "is visible to every user of the machine: set VLLM_API_KEY in the environment",
    "--config": "can carry any of the others: write its lines as arguments",
    "--uds": "leaves the engine without an address",
    "--enable-lora": "is always set",
    "--no-enable-lora": "leaves the engine without adapters",
    "--max-cpu-loras": _HAS_SETTING,
    "--lora-config": "must be the lora-server's",
    "--model": _HAS_SETTING,
    "--served-model-name": _HAS_SETTING,
    "--host": _HAS_SETTING,
    "--port": _HAS_SETTING,
    "--max-loras": _HAS_SETTING,
    "--max-lora-rank": _HAS_SETTING,
    "--max-model-len": _HAS_SETTING,
    "--dtype": _HAS_SETTING,
    "--tool-call-parser": _HAS_SETTING,
    "--enable-auto-tool-choice": "is set if there is a tool-call parser",
}
_SHORT_OPTIONS = {"-asc": "--api-server-count"}

_NOT_INHERITED = frozenset(
    (
        *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",  # with a resolver, a chat request could load any folder
        "VLLM_SKIP_MODEL_NAME_VALIDATION",  # the base model would answer requests for an adapter that is gone
        "VLLM_SERVER_DEV_MODE",
        # vLLM's processes would send spans to it by gRPC unasked; if tracing is on, vLLM sets it by itself.
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    )
)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    python: Path
    listen: str
    base_model: Path
    served_model_name: str
    held: int
    """The number of adapters that the engine can hold in its host memory."""
    max_loras: int
    """The number of different adapters that one batch can use. vLLM's scheduler copies them from the host memory."""
    max_lora_rank: int
    max_model_len: int
    dtype: str = "auto"
    """The number type of weights and activations, by vLLM's name, such as "bfloat16"."""
    extra_arguments: str = ""
    """More command-line arguments for vLLM, quoted as in a shell."""
    tool_calling: ToolCalling = NO_TOOL_CALLING
    traces_url: str = ""
    """The URL to which vLLM sends its trace spans (OTLP over HTTP); empty turns tracing off."""


@dataclass(frozen=True, slots=True)
class EngineCommand:
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    traced: bool = False
    """Whether vLLM sends trace spans of its requests."""
    tool_call_parser: str = ""


class GuardSecret:
    """The secret that protects the routes of the guard, our middleware in vLLM; `repr` does not show it.

    A new secret is created for each start of an engine by this process.
    """

    def __init__(self) -> None:
        self._value = secrets.token_hex(32)

    def __call__(self) -> str:
        """Returns the secret of the current run of the engine."""
        return self._value

    def renew(self) -> str:
        """Creates and returns the secret of the engine's next run."""
        self._value = secrets.token_hex(32)
        return self._value


def choose_dtype(setting: str, cpu_flags: Collection[str], has_gpu: bool) -> str:
    """Returns the engine's number type: `setting`, unless that is "auto" and there is no GPU.

    Without a GPU, "auto" becomes "bfloat16" if one of `cpu_flags` is in `NATIVE_BFLOAT16`, else "float32". With AVX2
    alone, SmolLM2-135M generated 138 tokens/s in float32 and 39 in bfloat16, with 16 streams on two cores.
    """
    if setting != "auto" or has_gpu:
        return setting
    return "bfloat16" if not NATIVE_BFLOAT16.isdisjoint(cpu_flags) else "float32"


def build_command(settings: EngineSettings, environment: Mapping[str, str], cores: Iterable[int]) -> EngineCommand:
    """Returns the command that starts vLLM, without the guard's secret, which `with_secrets` adds. vLLM on a CPU binds
    its threads to `cores`, the numbers of CPU cores.

    `environment` is this process's environment. vLLM inherits it without the lora-server's settings and unsafe
    variables (see `_inherited`); the remaining variables override this function's defaults. Raises ValueError if the
    extra arguments cannot be split or contain one that the lora-server must control (`_FORBIDDEN_OPTIONS`), or if
    `max_lora_rank` is above vLLM's highest.
    """
    host, _, port = settings.listen.rpartition(":")
    rank = min(rank for rank in LORA_RANKS if rank >= settings.max_lora_rank)
    extra = shlex.split(settings.extra_arguments)
    _check_extra_arguments(extra)
    has_traces_option = _has_option(extra, _TRACES_OPTION)
    traces_url = "" if has_traces_option else settings.traces_url
    arguments = (
        # Absolute but not resolved: the python of a virtual environment is a link that finds its environment by its own
        # location.
        *(os.path.abspath(settings.python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(settings.base_model.resolve()), "--served-model-name", settings.served_model_name),
        *("--host", host.strip("[]"), "--port", port, "--dtype", settings.dtype),
        *("--max-model-len", str(settings.max_model_len)),
        # The lora-server never registers more than `held`: vLLM would evict one by itself and read its folder again.
        *("--enable-lora", "--max-loras", str(settings.max_loras), "--max-cpu-loras", str(settings.held)),
        *("--max-lora-rank", str(rank), "--middleware", GUARD),
        *("--shutdown-timeout", str(DRAIN_SECONDS), "--enable-prompt-tokens-details", "--enable-per-request-metrics"),
        "--disable-uvicorn-access-log",
        *settings.tool_calling.arguments,
        *((_TRACES_OPTION, traces_url) if traces_url else ()),
        *(() if _has_option(extra, _STRUCTURED_OUTPUTS_OPTION) else (_STRUCTURED_OUTPUTS_OPTION, COMPACT_JSON)),
        *extra,
    )
    defaults = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; the GPU build ignores this and the next
        "VLLM_CPU_OMP_THREADS_BIND": format_cores(cores),
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",  # counts the requests with NaN logits, which the probe reads
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",  # seconds; gateways keep their connections for 60
        "PYTHONUNBUFFERED": "1",
        **(_tracing_variables(environment) if traces_url else {}),
    }
    inherited = _inherited(environment)
    return EngineCommand(
        arguments,
        defaults | inherited | {"PYTHONPATH": str(GUARD_FOLDER)},
        traced=bool(traces_url or has_traces_option),
        tool_call_parser=settings.tool_calling.parser,
    )


def with_secrets(command: EngineCommand, secret: GuardSecret) -> Callable[[], EngineCommand]:
    """Returns a function for the next start of the engine: it renews `secret`, and returns the command with the new
    secret in its environment.
    """
    return lambda: replace(command, environment={**command.environment, SECRET_VARIABLE: secret.renew()})


def format_cores(cores: Iterable[int]) -> str:
    """Formats the numbers of CPU cores as ranges: {0, 1, 2, 5} becomes "0-2,5"."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def _check_extra_arguments(arguments: Sequence[str]) -> None:
    for argument in arguments:
        name = _option_name(argument)
        for option, reason in _FORBIDDEN_OPTIONS.items():
            if _may_be(name, option):
                raise ValueError(f"POINTSMAN_LORA_ENGINE_ARGS: '{argument}' cannot be given: {option} {reason}")


def _has_option(arguments: Sequence[str], option: str) -> bool:
    return any(_may_be(_option_name(argument), option) for argument in arguments)


def _option_name(argument: str) -> str:
    """Returns the option that an argument sets, as vLLM reads it: "_" is equal to "-", "=" ends the name, and
    "--lora-config.x=1" sets --lora-config.
    """
    name = argument.partition("=")[0].partition(".")[0].replace("_", "-")
    return _SHORT_OPTIONS.get(name, name)


def _may_be(name: str, option: str) -> bool:
    """Returns whether vLLM may read the argument `name` as `option`, because vLLM accepts any unambiguous prefix of an
    option.
    """
    return name == option or (len(name) > 3 and name.startswith("--") and option.startswith(name))


def _tracing_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns environment variables that make vLLM send trace spans by HTTP, under the service name "vllm" unless
    `environment` has a name.
    """
    has_name = "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"} | ({} if has_name else {"OTEL_SERVICE_NAME": "vllm"})


def _inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables that the engine inherits. Left out are the lora-server's settings
    (`POINTSMAN_*`, except `_UNKNOWN_VERSION_VARIABLE`), the variables of vLLM's LoRA resolvers, and `_NOT_INHERITED`.
    """
    return {
        key: value
        for key, value in environment.items()
        if key == _UNKNOWN_VERSION_VARIABLE
        or (not key.startswith(("POINTSMAN_", "VLLM_LORA_RESOLVER")) and key not in _NOT_INHERITED)
    }
