"""A random base model with three layers, and adapters for it that pass every check."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

BASE_NAME = "tiny-base"
LAYERS = {"model.layers.0.self_attn.q_proj": (8, 8), "model.layers.0.self_attn.v_proj": (4, 8)}
RANK = 2


def write_base(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    names = {**LAYERS, "model.embed_tokens": (16, 8), "lm_head": (16, 8)}
    tensors = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in names.items()}
    save_file({**tensors, "model.norm.weight": np.ones(8, np.float32)}, folder / "model.safetensors")
    return folder


def good_tensors() -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(7)
    made: dict[str, NDArray[Any]] = {}
    for module, (rows, columns) in LAYERS.items():
        prefix = f"base_model.model.{module}.lora_"
        made[f"{prefix}A.weight"] = random.standard_normal((RANK, columns)).astype(np.float32)
        made[f"{prefix}B.weight"] = random.standard_normal((rows, RANK)).astype(np.float32)
    return made


def write_adapter(
    folder: Path, weights: Mapping[str, NDArray[Any]], *, seed: int = 0, config: Mapping[str, Any] = {}
) -> Path:
    """Writes an adapter and returns its folder. `config` replaces keys of adapter_config.json, and another `seed` gives
    other content.
    """
    folder.mkdir(parents=True, exist_ok=True)
    good = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE_NAME,
        "r": RANK,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "revision": f"seed {seed}",
    }
    (folder / "adapter_config.json").write_text(json.dumps(good | dict(config)))
    save_file(dict(weights), folder / "adapter_model.safetensors")
    return folder
