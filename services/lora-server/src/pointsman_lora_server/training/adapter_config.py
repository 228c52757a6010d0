"""adapter_config.json: written the same in each process, and read where training starts from an older adapter."""

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pointsman_lora_server.training.adapter_files import CONFIG, WEIGHTS
from pointsman_lora_server.training.errors import TrainingError
from pointsman_lora_server.training.job import DORA, RSLORA, TrainingOptions


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Sets become sorted lists: a set has another order in each process, and so the file another hash."""
    return {key: _plain(value) for key, value in sorted(config.items())} | {"inference_mode": True}


def parent_config(folder: Path, job: TrainingOptions) -> dict[str, Any]:
    """The older adapter's. Raises `TrainingError` where training cannot start from it."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"--parent {folder}: {CONFIG} cannot be read: {error}; name an adapter's folder") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA" or not (folder / WEIGHTS).is_file():
        raise TrainingError(f"--parent {folder} holds no LoRA adapter with {WEIGHTS}")
    base = config.get("base_model_name_or_path")
    if base != job.base_model_name:
        raise TrainingError(f"--parent {folder} belongs to the base model {base!r}, not to {job.base_model_name!r}")
    if bool(config.get("use_dora")) != (job.recipe.method == DORA):
        raise TrainingError(f"--parent {folder}: only --method dora goes on from a DoRA adapter, and from no other")
    if job.recipe.method == RSLORA and not config.get("use_rslora"):
        raise TrainingError(f"--parent {folder} is no rsLoRA adapter; its scale stays as it is: use --method lora")
    return config


def as_parent(job: TrainingOptions) -> TrainingOptions:
    """The job with the rank and alpha that its parent brings."""
    if job.parent is None:
        return job
    config = parent_config(job.parent, job)
    return replace(job, recipe=replace(job.recipe, rank=int(config["r"]), alpha=int(config["lora_alpha"])))


def digest(folder: Path) -> str:
    """Of an adapter's weights."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return sorted(value) if isinstance(value, set | frozenset) else value
