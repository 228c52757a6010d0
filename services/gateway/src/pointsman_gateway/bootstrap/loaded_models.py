"""The classifier and the embedding model as the stages take them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pointsman_gateway.domain import Vector
from pointsman_gateway.embeddings.models import LocalEmbedder
from pointsman_gateway.extensions import Embed

if TYPE_CHECKING:  # not imported by a gateway without tasks and prompts, for the sake of its memory
    from pointsman_gateway.classification.cascade import CascadeClassifier


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """The classifier and the embedding model, as far as a configuration needs them."""

    classifier: "CascadeClassifier | None" = None
    """None without tasks."""
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    """Of the examples, by task."""
    embed: Embed | None = None
    """None if nothing needs an embedding."""
    fingerprint: str = ""
    """A hash that identifies the model that computes the vectors; empty without one."""
    endpoint: LocalEmbedder | None = None
    """Embeds for `/v1/embeddings`; None if the model is not in this process."""
