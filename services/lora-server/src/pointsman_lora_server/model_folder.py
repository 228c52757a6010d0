"""Reads a base model's folder in Hugging Face's format: which files are needed, and the size of the context window."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pointsman_lora_server.base_model import BaseModelError

PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""Patterns of the files of a model repository that are needed. Other files often have the same weights in other
formats."""
UNNEEDED = ("original/*", "consolidated*", "onnx/*")
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
"""The keys in config.json under which different architectures state the context window, in the order in which they are
tried."""


def read_json(file: Path) -> Mapping[str, Any]:
    """Returns the JSON object in a file. Raises BaseModelError if the file cannot be read or has no object."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BaseModelError(f"{file} holds no JSON object")
    return content


def read_context_window(folder: Path) -> int:
    """Returns the context window, in tokens, that the folder's config.json states under one of `CONTEXT_KEYS`.

    Raises BaseModelError if config.json states none or cannot be read.
    """
    config = read_json(folder / "config.json")
    text = config.get("text_config")  # of models that read images too
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in CONTEXT_KEYS:
            if isinstance(part.get(key), int) and part[key] > 0:
                return int(part[key])
    raise BaseModelError(f"{folder / 'config.json'} states no context window ({', '.join(CONTEXT_KEYS)})")
