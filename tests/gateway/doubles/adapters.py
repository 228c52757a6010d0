"""Adapters for a router without any."""

from pointsman_gateway.domain import Alias, Path


class NoAdapters:
    """Implements the router's `Adapters` without any adapter."""

    def alias_of(self, path: Path) -> Alias | None:
        return None

    def holds(self, model: str, version: str) -> bool:
        return False

    def may_load(self, model: str, version: str) -> bool:
        return False
