"""What is to be trained, as the trainer's command line, and what the trainer says, one JSON object a line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_cli.errors import Misused

MODULE = "pointsman_lora_server.training"


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    base_model: Path
    base_model_name: str
    data: Path
    heldout: Path | None
    out: Path
    rank: int
    epochs: int
    max_minutes: float
    seed: int
    learning_rate: float | None
    system: Path | None

    def check(self) -> None:
        """Raises `Misused` where a file is not there; all else is the trainer's to judge."""
        for option, file in (("--data", self.data), ("--heldout", self.heldout), ("--system", self.system)):
            if file is not None and not file.is_file():
                raise Misused(f"{option} {file} is not a file")

    def arguments(self) -> list[str]:
        return list(self._arguments())

    def _arguments(self) -> Iterator[str]:
        options: dict[str, object] = {
            "--base-model": self.base_model,
            "--base-model-name": self.base_model_name,
            "--data": self.data,
            "--heldout": self.heldout,
            "--out": self.out,
            "--name": self.name,
            "--rank": self.rank,
            "--epochs": self.epochs,
            "--max-minutes": self.max_minutes,
            "--seed": self.seed,
            "--learning-rate": self.learning_rate,
            "--system": self.system,
        }
        for option, value in options.items():
            if value is not None:
                yield from (option, str(value.absolute() if isinstance(value, Path) else value))


@dataclass(frozen=True, slots=True)
class Started:
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    step: int
    steps: int
    loss: float
    tokens_per_second: float
    eta_seconds: float


@dataclass(frozen=True, slots=True)
class Heldout:
    loss: float
    when: str  # "before", "half_way", "end"


@dataclass(frozen=True, slots=True)
class Sample:
    text: str


@dataclass(frozen=True, slots=True)
class Done:
    folder: Path
    seconds: float


@dataclass(frozen=True, slots=True)
class Remark:
    """A line that is no event, or an event that is not as this version knows it; shown as it came."""

    text: str


TrainerEvent = Started | Step | Heldout | Sample | Done | Remark


def parse_event(line: str) -> TrainerEvent:
    try:
        found = json.loads(line)
        kind = found.pop("event")
    except (ValueError, KeyError, AttributeError, TypeError):
        return Remark(line)
    try:
        match kind:
            case "start":
                return Started(found)
            case "step":
                rates = (found["loss"], found["tokens_per_second"], found["eta_seconds"])
                return Step(found["step"], found["steps"], *map(float, rates))
            case "heldout":
                return Heldout(float(found["loss"]), str(found.get("when", "")))
            case "sample":
                return Sample(" | ".join(f"{key}: {' '.join(str(value).split())}" for key, value in found.items()))
            case "done":
                return Done(Path(found["folder"]), float(found["seconds"]))
    except (KeyError, TypeError, ValueError):
        pass
    return Remark(line)
