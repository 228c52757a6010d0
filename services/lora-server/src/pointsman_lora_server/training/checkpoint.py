"""Saves an unfinished training run in one checkpoint file, which is replaced atomically, and loads the file to resume
the run.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pointsman_lora_server.training.exits import TrainingError, delaying_signals
from pointsman_lora_server.training.learner import Weights
from pointsman_lora_server.training.learning_rate import StepCounter
from pointsman_lora_server.training.run_state import RunState

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    fingerprint: Mapping[str, str]
    """Name -> hash or text of each input that determines the run's result, such as the training data (see
    `dataset.run_fingerprint`). Only a run with an equal fingerprint can be resumed from this checkpoint."""
    choices: Mapping[str, Any]
    """Values that the run measured or chose at its start, which a resumed run reuses: "seconds" (the time then left for
    the run), "bf16" (whether to compute in bf16), "pace" (seconds per token), "steps", "steps_per_evaluation", and
    "before" (the objective's measures before the first step)."""
    state: RunState
    weights: Weights
    optimizer: Mapping[str, Any]
    random: Mapping[str, Any]
    best: Weights | None


def save(path: Path, checkpoint: Checkpoint) -> OSError | None:
    """Writes the checkpoint to the file `path`, and replaces an earlier one. Returns the error if that fails, for
    example because the disk is full; then the earlier checkpoint is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "fingerprint": dict(checkpoint.fingerprint),
        "choices": dict(checkpoint.choices),
        "state": asdict(checkpoint.state),
        "weights": checkpoint.weights,
        "optimizer": dict(checkpoint.optimizer),
        "random": dict(checkpoint.random),
        "best": checkpoint.best,
    }
    unfinished = path.with_name(f".{path.name}.unfinished")
    # torch writes to the buffer from C++: a KeyboardInterrupt raised there would end the process or be replaced.
    with delaying_signals():
        torch.save(content, buffer := io.BytesIO())
        try:
            with unfinished.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            return error
    _sync_folder(path.parent)
    return None


def load(path: Path, fingerprint: Mapping[str, str]) -> Checkpoint | None:
    """Reads the checkpoint from the file `path`; returns None if the file does not exist.

    Raises TrainingError if the file cannot be read, has another format, or belongs to a run with another `fingerprint`
    (see `dataset.run_fingerprint`).
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises the errors of pickle and zipfile
        raise TrainingError(f"{path} cannot be read: {error}; remove it to start anew") from error
    if content.get("format") != FORMAT:
        raise TrainingError(f"{path} was written by another version of the trainer; remove it to start anew")
    for key, value in fingerprint.items():
        if content["fingerprint"].get(key) != value:
            options = " (--data or --max-rows)" if key == "training data" else ""
            raise TrainingError(f"{path} belongs to another run: its {key}{options} differs; name another --checkpoint")
    state = content["state"]
    return Checkpoint(
        content["fingerprint"],
        content["choices"],
        RunState(**{**state, "counter": StepCounter(**state["counter"])}),
        content["weights"],
        content["optimizer"],
        content["random"],
        content["best"],
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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
