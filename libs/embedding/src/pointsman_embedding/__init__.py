"""Text to vector: one model, one fingerprint."""

from pointsman_embedding.minilm import MiniLM, ModelMissing
from pointsman_embedding.static_model import StaticModel

__all__ = ["MiniLM", "ModelMissing", "StaticModel"]
