"""The adapter's folder: adapter_config.json, adapter_model.safetensors (bf16) and training.json, whole or not there."""

import enum
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file

from pointsman_lora_server.training.base import Learner
from pointsman_lora_server.training.errors import TrainingError

CONFIG, WEIGHTS, REPORT = "adapter_config.json", "adapter_model.safetensors", "training.json"


def check_target(folder: Path) -> None:
    """Raises where writing would fail or would destroy what is not an adapter of ours."""
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"--out {folder} is a file; name a folder")
    strange = [path.name for path in folder.iterdir()] if folder.exists() else []
    strange = sorted(set(strange) - {CONFIG, WEIGHTS, REPORT})
    if strange:
        raise TrainingError(f"--out {folder} holds {strange[0]!r}, which is no adapter's; name an empty or a new folder")


def write(folder: Path, learner: Learner, base_model_name: str, report: dict[str, object]) -> None:
    """Same weights, same bytes: the report alone has times in it. An older adapter in `folder` is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        made, old = Path(scratch) / "made", Path(scratch) / "old"
        made.mkdir()
        _write_json(made / CONFIG, _config(learner, base_model_name))
        save_file(_weights(learner), made / WEIGHTS, metadata={"format": "pt"})
        (made / WEIGHTS).chmod(0o644)
        _write_json(made / REPORT, report)
        if folder.exists():
            folder.rename(old)
        made.rename(folder)


def _weights(learner: Learner) -> dict[str, Any]:
    """In bf16, which the engine computes in anyhow, at half the size of PEFT's fp32."""
    weights = get_peft_model_state_dict(learner.model)
    return {name: weights[name].detach().to(torch.bfloat16).contiguous() for name in sorted(weights)}


def _config(learner: Learner, base_model_name: str) -> dict[str, Any]:
    config: dict[str, Any] = learner.model.peft_config["default"].to_dict()
    return {**config, "base_model_name_or_path": base_model_name, "inference_mode": True}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=_plain) + "\n", "utf-8")


def _plain(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{value!r} has no form in JSON")
