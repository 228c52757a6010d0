"""What a policy may know of a path from its past."""

from typing import Protocol

from pointsman_gateway.domain import Path, PathEvidence


class Evidence(Protocol):
    """Tells what is known now; reading it costs nothing."""

    def of(self, task: str, path: Path) -> PathEvidence:
        """Of the path as it is configured now; empty where nothing is known."""
        ...


class NoEvidence:
    """Where nothing is remembered."""

    def of(self, task: str, path: Path) -> PathEvidence:
        """Implements `Evidence`."""
        return PathEvidence()
