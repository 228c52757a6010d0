"""An adapter version, and the aliases and canaries that point to versions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pointsman_lora_server.domain.names import HASH_DIGITS

TRAINING_SECONDS = "training_seconds"
"""The key of the training's duration among a version's metrics."""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An immutable adapter and its manifest; its name contains the hash of the weights, so it never means others."""

    name: str
    sha256: str
    base_model: str
    rank: int
    target_modules: tuple[str, ...]
    bytes: int
    created_unix_ms: int
    facts: Mapping[str, str] = field(default_factory=dict)
    base_digest: str = ""
    """SHA-256 of the base model's weights, empty if the base model's folder does not state it."""
    chat_template_sha256: str = ""
    training_data_sha256: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Results of its evaluation, such as "heldout_exact", "prompt_path_exact" and "heldout_loss"."""
    parent: str = ""
    author: str = ""

    @property
    def version(self) -> str:
        return f"{self.name}@{self.sha256[:HASH_DIGITS]}"


@dataclass(frozen=True, slots=True)
class CanaryTerms:
    """The differences from the stable version's rates and latencies above which a canary is rolled back."""

    min_requests: int = 20
    """Number of requests that both versions must have before they are compared."""
    max_error_excess: float = 0.02
    max_invalid_excess: float = 0.05
    max_rating_loss: float = 0.1
    max_latency_ratio: float = 1.5


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that serves part of an alias's users before it may replace the alias's stable version."""

    version: str
    weight: float
    """Fraction of the users, above 0 and up to 1."""
    terms: CanaryTerms = CanaryTerms()


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that points to a version and can be moved to another one.

    `revision` is incremented by each move and each change of the canary.
    """

    alias: str
    version: str
    revision: int
    canary: Canary | None = None
    previous: str = ""
    """The version before the last move, to which a rollback returns."""

    @property
    def versions(self) -> tuple[str, ...]:
        """Returns the versions that receive requests sent to the alias."""
        return (self.version, self.canary.version) if self.canary else (self.version,)
