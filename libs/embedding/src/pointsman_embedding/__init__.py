"""Text embedding models. Each has a fingerprint; vectors with equal fingerprints can be compared."""

import os

# ONNX Runtime's wheels report their use to Microsoft, and keep a device id and the unsent events in the user's cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from pointsman_embedding.encoder import Encoder, EncoderConfig, Prefixed, open_encoder, read_encoder_config
from pointsman_embedding.minilm import MiniLM, ModelMissing
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
