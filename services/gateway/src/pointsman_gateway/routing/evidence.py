"""What the router knows about paths: availability, evidence, expected cost, and how stale their adapters are."""

from typing import Protocol

from pointsman_gateway.domain import Path, PathEvidence, Request


class Availability(Protocol):
    """Knows whether a path could answer now."""

    def why_not(self, path: Path) -> str | None:
        """Return the reason why the path cannot be used now, or None."""
        ...


class Evidence(Protocol):
    """The statistics of paths on tasks. Reading them takes no I/O."""

    def of(self, task: str, path: Path) -> PathEvidence:
        """Return the evidence on the path as it is configured now; all zeros if there is none."""
        ...


class NoEvidence:
    """Implements `Evidence` if nothing is stored."""

    def of(self, task: str, path: Path) -> PathEvidence:
        return PathEvidence()


class ExpectedCost(Protocol):
    """Estimates the cost of an answer in advance."""

    def usd(self, path: Path, request: Request) -> float: ...


class Freshness(Protocol):
    """Knows which documents have changed since adapters were trained on them. Reading it takes no I/O."""

    def changed_share(self, version: str) -> float:
        """Return the share of changed documents for an adapter version, 0 to 1; 0 if it is not known."""
        ...


class AlwaysFresh:
    """Implements `Freshness` if no task uses it."""

    def changed_share(self, version: str) -> float:
        return 0.0


ALWAYS_FRESH = AlwaysFresh()
