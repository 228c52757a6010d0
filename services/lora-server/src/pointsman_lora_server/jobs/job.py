"""The values of training jobs, and the validation of requests."""

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
"""Returns a local folder with the files of a registered version. Raises NotFound if there is none, and
FailedPrecondition, Unavailable or ResourceExhausted if its files cannot be read."""


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
    """The training that a client requested.

    `data`, `heldout` and `system` are paths of the client's files; in a queued job they are paths of its own copies.
    """

    name: str
    data: Path
    heldout: Path | None = None
    system: Path | None = None
    method: str = "lora"
    parent: str = ""
    """A registered version to start from."""
    alias_suffix: str = ""
    """The part after the "@" of the alias to move to the result; empty moves none."""
    force: bool = False
    author: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    """More options of the trainer, by name without the dashes: {"epochs": "4"}."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Notes that are stored in `AdapterVersion.facts`. The job adds its own (`execution._facts`), which take
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
    """How often the job was resumed after its trainer was killed, alone or together with this server."""
    error: str = ""
    version: str = ""
    """The version that the result was registered as."""
    merged: str = ""
    """The folder of the merged model, if the result cannot be served as an adapter."""


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """The adapter that a job has trained, and how to register it."""

    name: str
    folder: Path
    alias_suffix: str
    force: bool
    facts: Mapping[str, str]
    parent: str
    author: str


RegisterAdapter = Callable[[TrainedAdapter], Awaitable[str]]
"""Registers a trained adapter and returns its version. Its errors are those of `AdapterService.register`."""


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """What all training jobs of this server share: folders, Python, environment variables, base model and methods."""

    folder: Path
    python: Path
    """The Python of the engine's environment, which runs the trainer."""
    base_model: Path
    base_model_name: str
    environment: Mapping[str, str]
    methods: Mapping[str, str]
    """Name of a training method -> the trainer's option --method for it: the name itself, or "module:attribute"."""
    data_roots: tuple[Path, ...] = ()
    """The folders that training data must be in; empty accepts none."""
    checkpoint_seconds: float = 30.0
    """Seconds between two checkpoints; a trainer that is killed loses at most as much work."""


def check_request(request: JobRequest, methods: Collection[str]) -> None:
    """Raises InvalidArgument if the name, alias or parent is malformed, the method is not one of `methods`, or an
    option is unknown or out of range. Raises ValueError if an option's value is not a number.

    `open_inputs` checks the files.
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
    """Raises InvalidArgument ("bad_method") if the method is not one of `methods`."""
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
