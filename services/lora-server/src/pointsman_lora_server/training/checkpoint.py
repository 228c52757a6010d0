"""The state of an unfinished run in one file, which is replaced as a whole: a kill at any moment leaves a good one."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pointsman_lora_server.training.errors import TrainingError
from pointsman_lora_server.training.learner import Weights
from pointsman_lora_server.training.schedule import Course, Record
from pointsman_lora_server.training.stopping import held

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    fingerprint: Mapping[str, str]
    """What the run was started with: it can only go on with the same."""
    choices: Mapping[str, Any]
    """What was measured at its start, and decides the rest: the pace, the number type, the plan."""
    record: Record
    weights: Weights
    optimizer: Mapping[str, Any]
    random: Mapping[str, Any]
    best: Weights | None


def save(path: Path, checkpoint: Checkpoint) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "fingerprint": dict(checkpoint.fingerprint),
        "choices": dict(checkpoint.choices),
        "record": asdict(checkpoint.record),
        "weights": checkpoint.weights,
        "optimizer": dict(checkpoint.optimizer),
        "random": dict(checkpoint.random),
        "best": checkpoint.best,
    }
    unfinished = path.with_name(f".{path.name}.unfinished")
    # From C++ torch writes to a file of Python's: an exception that comes up there ends the process, or is another one.
    with held(), unfinished.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
        unfinished.replace(path)
    _sync(path.parent)


def load(path: Path, fingerprint: Mapping[str, str]) -> Checkpoint | None:
    """None where there is none yet. Raises `TrainingError` where it is another job's, or cannot be read."""
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what pickle and zipfile raise
        raise TrainingError(f"{path} cannot be read: {error}; remove it to start anew") from error
    if found.get("format") != FORMAT:
        raise TrainingError(f"{path} is of another version of the trainer; remove it to start anew")
    for key, value in fingerprint.items():
        if found["fingerprint"].get(key) != value:
            raise TrainingError(f"{path} is of another run: its {key} differs; name another --checkpoint")
    record = found["record"]
    return Checkpoint(
        found["fingerprint"],
        found["choices"],
        Record(**{**record, "course": Course(**record["course"])}),
        found["weights"],
        found["optimizer"],
        found["random"],
        found["best"],
    )


def random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
