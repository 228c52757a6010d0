"""Text embedding models. Each has a fingerprint; vectors of models with equal fingerprints can be compared."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# ONNX Runtime's wheels report their use to Microsoft, and keep a device id and the unsent events in the user's cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from pointsman_embedding.encoder import (
    Encoder,
    EncoderConfig,
    ModelMissing,
    Prefixed,
    open_encoder,
    read_encoder_config,
)

if TYPE_CHECKING:
    from pointsman_embedding.minilm import MiniLM
    from pointsman_embedding.static_model import StaticModel

__all__ = [
    "Encoder",
    "EncoderConfig",
    "MiniLM",
    "ModelMissing",
    "Prefixed",
    "StaticModel",
    "open_encoder",
    "read_encoder_config",
]

_MODELS = {"MiniLM": "minilm", "StaticModel": "static_model"}


def __getattr__(name: str) -> Any:
    """Imports MiniLM or StaticModel on first use, since their libraries take 30 MB, which not every process needs.

    Raises AttributeError for any other name.
    """
    if name not in _MODELS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODELS[name]}"), name)
