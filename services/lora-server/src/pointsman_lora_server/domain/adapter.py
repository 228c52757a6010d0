"""Defines an adapter version, and the aliases and canaries that point to versions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pointsman_lora_server.domain.names import HASH_DIGITS

TRAINING_SECONDS = "training_seconds"
"""The key in `AdapterVersion.metrics` under which the duration of the training is stored, in seconds."""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """The record of one version of an adapter (LoRA weights). The record, the adapter's configuration and its weights
    never change.
    """

    name: str
    """The adapter's name, which all versions of the adapter share."""
    sha256: str
    """SHA-256 of the adapter's configuration and weights, in hexadecimal (`store.layout.content_hash`)."""
    base_model: str
    rank: int
    """The largest LoRA rank among the adapter's layers."""
    target_modules: tuple[str, ...]
    bytes: int
    """Size of the weights file in bytes."""
    created_unix_ms: int
    facts: Mapping[str, str] = field(default_factory=dict)
    """Name -> value of notes from the registration request and from the import, such as the training job's id."""
    base_digest: str = ""
    """SHA-256 of the base model's weights, empty if the base model's folder does not state it."""
    chat_template_sha256: str = ""
    training_data_sha256: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers from the adapter's training report, such as "heldout_exact", "prompt_path_exact" and "heldout_loss"."""
    parent: str = ""
    """The version from which this version's training started; empty if there is none."""
    author: str = ""

    @property
    def version(self) -> str:
        """Returns the version's name "NAME@HASH", in which HASH is the first `HASH_DIGITS` digits of `sha256`."""
        return f"{self.name}@{self.sha256[:HASH_DIGITS]}"


@dataclass(frozen=True, slots=True)
class CanaryTerms:
    """The limits by which a canary may be worse than the alias's stable version before it is rolled back.

    `promotion.rollback_reason` applies these limits.
    """

    min_requests: int = 20
    """The number of requests that each of the two versions must have received before they are compared."""
    max_error_excess: float = 0.02
    """Limit of the canary's error rate minus the stable version's error rate."""
    max_invalid_excess: float = 0.05
    """Limit of the canary's rate of answers that a validator rejected, minus the stable version's rate."""
    max_rating_loss: float = 0.1
    """Limit of the stable version's mean rating (0 to 1) minus the canary's."""
    max_latency_ratio: float = 1.5
    """Limit of the canary's p95 latency divided by the stable version's p95 latency."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that serves a fraction of an alias's users, so that it can be compared with the alias's stable
    version.
    """

    version: str
    weight: float
    """Fraction of the alias's users that the canary serves, above 0 and up to 1."""
    terms: CanaryTerms = CanaryTerms()


@dataclass(frozen=True, slots=True)
class Alias:
    """A name, such as "triage@prod", that points to an adapter version and can be moved to another version.

    `version` is the stable version. `revision` is incremented by each move and each change of the canary.
    """

    alias: str
    version: str
    revision: int
    canary: Canary | None = None
    previous: str = ""
    """The version to which the alias pointed before its last move. A rollback returns to it; empty if there is none."""

    @property
    def versions(self) -> tuple[str, ...]:
        """Returns the stable version, followed by the canary's version if there is a canary."""
        return (self.version, self.canary.version) if self.canary else (self.version,)
