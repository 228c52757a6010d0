"""The classifier and the embedding model of a configuration, ready to use."""

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
    """The classifier and the embedding model of a configuration. Fields that the configuration does not need are None
    or empty.
    """

    classifier: "CascadeClassifier | None" = None
    """The classifier; None if the configuration has no tasks."""
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    """The embeddings of each task's example requests: task -> array of the shape (examples, dimensions)."""
    embed: Embed | None = None
    """Embeds a single text; None if the configuration needs no embeddings."""
    fingerprint: str = ""
    """Identifies the embedding model and its files; empty if no embedding model is loaded."""
    endpoint: LocalEmbedder | None = None
    """The embedding model in this process that answers `/v1/embeddings`; None if none is loaded or the configured one
    is called at a URL."""
