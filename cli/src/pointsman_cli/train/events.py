"""Parses the trainer's events: JSON Lines from a local process, or gRPC messages from a job of the lora-server."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS = ("exact", "json_f1", "word_f1", "preference_accuracy")


@dataclass(frozen=True, slots=True)
class DataReport:
    """Statistics of the data, before training starts."""

    rows: int
    heldout_rows: int
    left_out: Mapping[str, int]
    tokens: Mapping[str, int]
    labels: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """One example as the model reads it."""

    text: str
    row: str


@dataclass(frozen=True, slots=True)
class Started:
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    step: int
    steps: int
    loss: float
    tokens_per_second: float
    eta_seconds: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    when: str  # "before", "during", "end"
    step: int
    loss: float | None
    metrics: Mapping[str, float]
    prompt_path: Mapping[str, float]
    """The same metrics for prompting alone; only at the end."""
    best: bool


@dataclass(frozen=True, slots=True)
class Sample:
    text: str


@dataclass(frozen=True, slots=True)
class Done:
    folder: Path
    seconds: float
    merged: Path | None
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StateChanged:
    """A new state of a job of the lora-server."""

    state: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """A line that is not an event, or an unknown event; shown as it came."""

    text: str


TrainerEvent = DataReport | RenderedPrompt | Started | Step | Evaluation | Sample | Done | StateChanged | Message


def parse_event(line: str) -> TrainerEvent:
    try:
        found = json.loads(line)
        kind = found.pop("event")
    except (ValueError, KeyError, AttributeError, TypeError):
        return Message(line)
    return to_event(kind, found) or Message(line)


def to_event(kind: str, found: Mapping[str, Any]) -> TrainerEvent | None:
    """Returns None for an unknown or malformed event. Numbers may be floats, as in protobuf structs."""
    try:
        return _read(kind, found)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _read(kind: str, found: Mapping[str, Any]) -> TrainerEvent | None:
    match kind:
        case "data":
            counts = (_integers(found["left_out"]), _integers(found["tokens"]))
            labels = {field: _integers(labels) for field, labels in found["labels"].items()}
            return DataReport(int(found["rows"]), int(found["heldout_rows"]), *counts, labels)
        case "prompt":
            return RenderedPrompt(str(found["text"]), str(found["row"]))
        case "start":
            return Started({key: _plain(value) for key, value in found.items()})
        case "step":
            rates = (found["loss"], found["tokens_per_second"], found["eta_seconds"])
            return Step(int(found["step"]), int(found["steps"]), *map(float, rates))
        case "evaluation":
            return _evaluation(found)
        case "sample":
            return Sample(" | ".join(f"{key}: {' '.join(str(value).split())}" for key, value in found.items()))
        case "done":
            merged = Path(found["merged"]) if found.get("merged") else None
            return Done(Path(found["folder"]), float(found["seconds"]), merged, _floats(found.get("metrics", {})))
        case "state":
            return StateChanged(str(found["state"]), found)
        case "warning":
            return Message(str(found["text"]))
        case "prompt_path":
            return Message("prompting alone: " + ", ".join(f"{key} {_plain(value)}" for key, value in found.items()))
    return None


def _evaluation(found: Mapping[str, Any]) -> Evaluation:
    theirs = {name: float(found[f"prompt_path_{name}"]) for name in METRICS if f"prompt_path_{name}" in found}
    return Evaluation(
        when=str(found["when"]),
        step=int(found["step"]),
        loss=float(found["loss"]) if "loss" in found else None,
        metrics={name: float(found[name]) for name in METRICS if name in found},
        prompt_path=theirs,
        best=bool(found.get("best", False)),
    )


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _integers(found: Mapping[str, Any]) -> dict[str, int]:
    return {str(key): int(value) for key, value in found.items()}


def _floats(found: Mapping[str, Any]) -> dict[str, float]:
    return {str(key): float(value) for key, value in found.items()}
