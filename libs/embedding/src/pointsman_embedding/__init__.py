"""Text embedding models. Each has a fingerprint; vectors with equal fingerprints can be compared."""

from pointsman_embedding.minilm import MiniLM, ModelMissing
from pointsman_embedding.static_model import StaticModel

__all__ = ["MiniLM", "ModelMissing", "StaticModel"]
