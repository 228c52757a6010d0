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
    """The classifier and the embedding model of a configuration; what it does not need is None or empty."""

    classifier: "CascadeClassifier | None" = None
    """The classifier; None if the configuration has no tasks."""
    vectors: Mapping[str, Vector] = field(default_factory=dict)
    """The vectors of the examples by task, (examples, dimensions)."""
    embed: Embed | None = None
    """Embeds single texts; None if nothing needs that."""
    fingerprint: str = ""
    """Identifies the embedding model; empty without one."""
    endpoint: LocalEmbedder | None = None
    """The local model of `/v1/embeddings`; None if no model is loaded, or if the model is behind a URL."""
