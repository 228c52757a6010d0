"""The gateways' configuration: the base model, and a path to each adapter's alias."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.gateway_load.conversations import read_texts

BASE = "smollm2-135m"
WORD = "prod"
"""The aliases' part after the "@"."""
PRICES = {"prompt": 0.014, "cached": 0.002, "completion": 0.062}
MOST_TOKENS = 64
TASK = "chat"
"""The one that is always there; nothing but a classifier's start needs it."""


def write_config(folder: Path, lora_server: str, adapters: Sequence[str], tasks: Mapping[str, Any]) -> Path:
    """The paths are `base` and one named as each adapter is."""
    greedy = {"model": BASE, "temperature": 0, "max_tokens": MOST_TOKENS}
    paths = {"base": greedy} | {name: greedy | {"adapter": f"{name}@{WORD}"} for name in adapters}
    texts = read_texts().learned
    known = {task: {"examples": f"tasks/{task}.jsonl", "policy": {"fixed": "base"}} for task in (TASK, "fare_sum")}
    written: dict[str, Any] = {
        "models": {
            "prices_as_of": "2026-11-01",
            "models": {BASE: {"context_window": 4096, "usd_per_million_tokens": PRICES}},
            "engines": {"local": {"model": BASE, "lora_server": lora_server}},
            "retrieval": {"usd_per_search": 0.0, "usd_per_embedding": 0.0},
        },
        "paths": {"paths": paths},
        "tasks": {"default_path": "base", "tasks": known | dict(tasks)},
    }
    (folder / "tasks").mkdir(parents=True)
    (folder / "prompts").mkdir()
    for task, rows in texts.items():
        lines = [json.dumps({"text": text}) for text in rows]
        (folder / f"tasks/{task}.jsonl").write_text("\n".join(lines) + "\n")
    for name, data in written.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder
