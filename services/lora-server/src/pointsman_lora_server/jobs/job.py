"""Defines training jobs, and validates requests for them."""

import enum
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.domain import check_alias, check_name, check_version

MAX_MINUTES = 7 * 24 * 60.0

OPTION_BOUNDS: dict[str, tuple[float, float]] = {
    "rank": (1, 512),
    "alpha": (1, 4096),
    "learning-rate": (1e-8, 1),
    "epochs": (1, 10_000),
    "max-minutes": (0.05, MAX_MINUTES),
    "seed": (0, 2**32 - 1),
    "tokens-per-step": (16, 1 << 20),
    "max-tokens": (16, 1 << 20),
    "beta": (1e-6, 100),
    "patience": (0, 1000),
    "samples": (0, 4096),
    "baseline-shots": (0, 64),
    "heldout-share": (0, 0.9),
    "threads": (1, 1024),
    "min-epochs": (0, 10_000),
    "max-rows": (1, 2**32 - 1),
}

FindVersion = Callable[[str], Awaitable[Path]]
"""A function that returns a local folder with the files of a registered adapter version. Raises NotFound if the version
is not registered, and FailedPrecondition, Unavailable or ResourceExhausted if its files cannot be read."""


class JobState(enum.Enum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A client's request to train an adapter.

    `data`, `heldout` and `system` are the paths of the client's files; in a queued job, they are the paths of the job's
    own copies.
    """

    name: str
    data: Path
    heldout: Path | None = None
    system: Path | None = None
    method: str = "lora"
    parent: str = ""
    """The registered adapter version from which training starts; empty starts with a new adapter."""
    alias_suffix: str = ""
    """The part after the "@" of the alias that is moved to the trained version; empty moves no alias."""
    force: bool = False
    author: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    """Further options of the trainer, name without the dashes -> value, such as {"epochs": "4"}."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Notes that are stored in `AdapterVersion.facts`. The job adds its own notes (`execution._facts`), which take
    precedence."""


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    request: JobRequest
    state: JobState
    created_unix_ms: int
    started_unix_ms: int = 0
    ended_unix_ms: int = 0
    resumed: int = 0
    """How often the job was resumed after its trainer was killed, by itself or together with this server."""
    error: str = ""
    version: str = ""
    """The adapter version as which the result was registered; empty until then."""
    merged: str = ""
    """The folder of the merged model, if no engine can serve the result as an adapter; otherwise empty."""


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """The adapter that a job has trained, and the arguments for its registration."""

    name: str
    folder: Path
    alias_suffix: str
    force: bool
    facts: Mapping[str, str]
    parent: str
    author: str


RegisterAdapter = Callable[[TrainedAdapter], Awaitable[str]]
"""A function that registers a trained adapter and returns its version. It raises the errors of
`AdapterService.register`."""


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """The settings that all training jobs of this server share: folders, Python, environment variables, base model and
    methods.
    """

    folder: Path
    python: Path
    """The Python interpreter of the engine's environment, which runs the trainer."""
    base_model: Path
    base_model_name: str
    environment: Mapping[str, str]
    methods: Mapping[str, str]
    """Name of a training method -> value of the trainer's option --method: the name itself, or "module:attribute"."""
    data_roots: tuple[Path, ...] = ()
    """The folders below which a client's input files must be; if there are none, all files are rejected."""
    checkpoint_seconds: float = 30.0
    """Seconds between two checkpoints of the trainer. A trainer that is killed loses at most as much work."""


def check_request(request: JobRequest, methods: Collection[str]) -> None:
    """Raises InvalidArgument if the name, alias or parent of the request is malformed, its method is not one of
    `methods`, or an option is unknown or out of range. Raises ValueError if the value of an option is not a number.

    The files are not checked here, but by `open_inputs`.
    """
    check_name(request.name)
    if request.alias_suffix:
        check_alias(f"{request.name}@{request.alias_suffix}")
    if request.parent:
        check_version(request.parent)
    check_method(request.method, methods)
    for option, value in request.options.items():
        _check_option(option, value)


def check_method(name: str, methods: Collection[str]) -> None:
    """Raises InvalidArgument ("bad_method") if the training method `name` is not one of `methods`."""
    if name not in methods:
        raise InvalidArgument(
            f"there is no training method '{name}'; known: {', '.join(methods)}", code="bad_method", param="method"
        )


def _check_option(option: str, value: str) -> None:
    if option not in OPTION_BOUNDS:
        raise InvalidArgument(f"the trainer has no option '{option}'", code="bad_option", param=option)
    lowest, highest = OPTION_BOUNDS[option]
    if not lowest <= float(value) <= highest:  # false for NaN, too
        raise InvalidArgument(
            f"{option} is {value}; it must be {lowest:g} to {highest:g}", code="bad_option", param=option
        )
