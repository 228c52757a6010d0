"""The adapter's folder: adapter_config.json, adapter_model.safetensors and training.json, all of them or none."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pointsman_lora_server.training.errors import TrainingError

CONFIG, WEIGHTS, REPORT = "adapter_config.json", "adapter_model.safetensors", "training.json"


def check_target(folder: Path) -> None:
    """Raises where writing would fail, or would destroy what is not an adapter."""
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"--out {folder} is a file; name a folder")
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    strange = sorted(found - {CONFIG, WEIGHTS, REPORT})
    if strange:
        raise TrainingError(
            f"--out {folder} holds {strange[0]!r}, which is no adapter's; name an empty or a new folder"
        )


def write(folder: Path, weights: bytes, config: Mapping[str, object], report: Mapping[str, object]) -> None:
    """Replaces an older adapter in `folder`. What is unfinished stands beside it: nobody ever sees half an adapter."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        made, old = Path(scratch) / "made", Path(scratch) / "old"
        made.mkdir()
        (made / CONFIG).write_text(_json(config), "utf-8")
        (made / WEIGHTS).write_bytes(weights)
        (made / REPORT).write_text(_json(report), "utf-8")
        if folder.exists():
            folder.rename(old)
        made.rename(folder)


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
