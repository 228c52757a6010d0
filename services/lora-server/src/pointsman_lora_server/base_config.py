"""Reads a base model's config.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pointsman_lora_server.base_model import BaseModelError

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
"""Names by which architectures state the context window in config.json."""


def read_json(file: Path) -> Mapping[str, Any]:
    """Returns the JSON object in a file; raises BaseModelError."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BaseModelError(f"{file} holds no JSON object")
    return content


def read_context_window(folder: Path) -> int:
    """Returns the context window in tokens that the folder's config.json states; raises BaseModelError if none."""
    return context_window(folder, read_json(folder / "config.json"))


def context_window(folder: Path, config: Mapping[str, Any]) -> int:
    text = config.get("text_config")  # of models that read images too
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in CONTEXT_KEYS:
            if isinstance(part.get(key), int) and part[key] > 0:
                return int(part[key])
    raise BaseModelError(f"{folder / 'config.json'} states no context window ({', '.join(CONTEXT_KEYS)})")
