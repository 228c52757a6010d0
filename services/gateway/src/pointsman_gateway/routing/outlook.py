"""A task as its policy sees it now: the paths that it may take, what is known of each, and which one it wants."""

from collections.abc import Sequence
from dataclasses import dataclass

from pointsman_gateway.config.schema import PolicyConfig
from pointsman_gateway.domain import Path
from pointsman_gateway.routing.best_value import Candidate


@dataclass(frozen=True, slots=True)
class Prospect:
    """A path that requests of a task may take."""

    path: Path
    role: str
    """ "policy", "fallback" or "default"."""
    known: Candidate
    """Its cost is what answers cost on average, or an estimate where there were none."""
    away: str
    """Why it cannot be used now; empty where it can."""
    said: str
    """What the policy says of it, where it weighs paths."""


@dataclass(frozen=True, slots=True)
class Outlook:
    task: str
    policy: PolicyConfig
    choice: str
    """The path that the next request would take, but for trials; of a split the one with the largest share."""
    reason: str
    prospects: Sequence[Prospect]
