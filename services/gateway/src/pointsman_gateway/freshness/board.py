"""What is known now of how much has changed under each adapter version; reading it costs nothing."""

from collections.abc import Mapping


class FreshnessBoard:
    """Implements the router's `Freshness`."""

    def __init__(self) -> None:
        self._shares: Mapping[str, float] = {}

    def changed_share(self, version: str) -> float:
        """Of its topic's documents, since it was trained; 0 where nothing is known."""
        return self._shares.get(version, 0.0)

    def put(self, shares: Mapping[str, float]) -> None:
        """Of all versions that are watched."""
        self._shares = dict(shares)
