"""The nouns of training jobs."""

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

METHODS = ("lora", "rslora", "dora", "qlora", "dpo")


class JobState(enum.Enum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What was asked for. Its files are the job's own copies once it is in line."""

    name: str
    data: Path
    heldout: Path | None = None
    system: Path | None = None
    method: str = "lora"
    parent: str = ""
    """A registered version."""
    word: str = ""
    """The part after the "@" of the alias that is moved to the result; empty moves none."""
    force: bool = False
    author: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    """More of the trainer's, by their names there without the dashes: {"epochs": "4"}."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """For the manifest, beside those that the training tells."""


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    order: JobRequest
    state: JobState
    created_unix_ms: int
    started_unix_ms: int = 0
    ended_unix_ms: int = 0
    resumed: int = 0
    """How often it went on after a kill."""
    error: str = ""
    version: str = ""
    """What it was registered as."""
    merged: str = ""
    """The folder of the merged model, where the result cannot be served as an adapter."""


@dataclass(frozen=True, slots=True)
class TrainedAdapter:
    """An adapter that is to be registered."""

    name: str
    folder: Path
    word: str
    force: bool
    facts: Mapping[str, str]
    parent: str
    author: str


Register = Callable[[TrainedAdapter], Awaitable[str]]
"""The version that it became; raises PointsmanError, Unavailable where trying again may help."""
Find = Callable[[str], Awaitable[Path]]
"""The folder of a registered version; raises NotFound."""


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """Where jobs are done, and with what."""

    folder: Path
    python: Path
    """Of the engine's environment."""
    base_model: Path
    base_model_name: str
    environment: Mapping[str, str]
    roots: tuple[Path, ...] = ()
    """Data may be named below these folders only; without any, everywhere."""
    checkpoint_seconds: float = 30.0
    """Between two checkpoints: what a kill may cost."""
