"""Adapters as the gateway knows them: versions and aliases as a lora-server lists them, and one request's version."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that can be moved from one version to another ("triage@prod")."""

    alias: str
    version: str
    revision: int = 0
    """Incremented with each change of the alias or of its canary; of two reports the higher revision is newer."""
    canary_version: str = ""
    """Empty if the alias has no canary."""
    canary_weight: float = 0.0
    """The share of users that the canary answers, 0 to 1."""
    previous: str = ""
    """The version that a rollback restores; empty if there is none."""


@dataclass(frozen=True, slots=True)
class ResolvedAdapter:
    """The adapter version for one request. It is resolved once, with the decision, and does not change afterwards."""

    version: str
    revision: int = 0
    """The alias's revision; 0 if the path names a version instead of an alias."""
    has_canary: bool = False
    """Whether the alias has a canary. If so, the request's outcome is reported to a lora-server."""
    notes: tuple[str, ...] = ()
    """Remarks for the decision."""


@dataclass(frozen=True, slots=True)
class CanaryMetrics:
    """Outcomes of the requests that an alias sent to one version since the last report."""

    model: str
    alias: str
    revision: int
    version: str
    requests: int = 0
    errors: int = 0
    """Failures caused by the version or by its engine."""
    invalid: int = 0
    """Complete answers that a validator refused."""
    latency_buckets: Mapping[int, int] = field(default_factory=dict)
    """Complete answers by total time: bucket k counts those of 2^((k-1)/4) to 2^(k/4) ms, bucket 0 those up to 1 ms."""


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """One version and its state on one engine."""

    version: str
    name: str
    state: str
    """ "registered", "validating", "ready", "loading", "warm", "serving", "draining", "retired" or "failed"."""
    aliases: tuple[str, ...]
    """Aliases that point to it, as their version or as their canary."""
    pinned: bool
    rank: int
    bytes: int
    created_unix_ms: int
    error_code: str
    error: str
    """The message of the last error; empty if there was none."""
    metrics: Mapping[str, float]
    """Results of its evaluation."""
    parent: str
    author: str


@dataclass(frozen=True, slots=True)
class AdapterChange:
    """One entry of the registry's history."""

    at_unix_ms: int
    kind: str
    subject: str
    """A version or an alias."""
    before: str
    after: str
    author: str
    reason: str


@dataclass(frozen=True, slots=True)
class AdapterListing:
    """All adapters of one base model, as its lora-server lists them."""

    versions: tuple[AdapterVersion, ...]
    aliases: tuple[Alias, ...]
    changes: tuple[AdapterChange, ...]
    """Newest first."""


@dataclass(frozen=True, slots=True)
class AliasMove:
    """A command to point an alias to a version, or to give it a canary that answers a share of its users."""

    alias: str
    version: str
    """Empty to end a canary, or to roll the alias back."""
    expected_version: str
    """The move is rejected unless the alias points to this version now; empty accepts any."""
    author: str
    weight: float = 1.0
    """The canary's share, above 0 to 1; 0 ends the canary."""
    force: bool = False
    """Move the alias even if the evaluation found prompting as good."""
    reason: str = ""
    """The reason for a rollback, for the history."""
