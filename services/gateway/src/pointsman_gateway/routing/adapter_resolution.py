"""Resolves a path's adapter alias to a version for one request: the alias's own, or its canary for a share of users."""

from dataclasses import replace
from typing import Protocol

from pointsman_gateway.domain import Alias, Path, ResolvedAdapter
from pointsman_gateway.extensions.policy import hash_to_unit_interval


class Adapters(Protocol):
    """Knows where aliases point now, and which engines hold which version."""

    def alias_of(self, path: Path) -> Alias | None:
        """Return the alias of the path's adapter; None if no such alias is known, so that it names a version."""
        ...

    def holds(self, model: str, version: str) -> bool:
        """Whether an available engine holds the version."""
        ...

    def may_load(self, model: str, version: str) -> bool:
        """Whether an available engine could load it now."""
        ...


def resolve_adapter(path: Path, key: str, adapters: Adapters) -> Path:
    """Return the path with its resolved adapter. Equal keys get the same version while the alias does not change."""
    if not path.adapter:
        return path
    alias = adapters.alias_of(path)
    resolved = ResolvedAdapter(path.adapter) if alias is None else _resolve(path.model, alias, key, adapters)
    if not adapters.holds(path.model, resolved.version) and adapters.may_load(path.model, resolved.version):
        resolved = replace(resolved, notes=(*resolved.notes, f"{resolved.version}: loads on demand"))
    return replace(path, resolved_adapter=resolved)


def _resolve(model: str, alias: Alias, key: str, adapters: Adapters) -> ResolvedAdapter:
    if not alias.canary_version:
        return ResolvedAdapter(alias.version, alias.revision)
    if not _is_canary_user(alias, key):
        return ResolvedAdapter(alias.version, alias.revision, has_canary=True)
    note = f"{alias.alias}: canary {alias.canary_weight * 100:g} %, {alias.canary_version}"
    if adapters.holds(model, alias.canary_version):
        return ResolvedAdapter(alias.canary_version, alias.revision, has_canary=True, notes=(note,))
    note += f", is on no engine; {alias.version} answers"
    return ResolvedAdapter(alias.version, alias.revision, has_canary=True, notes=(note,))


def _is_canary_user(alias: Alias, key: str) -> bool:
    """Whether the canary answers this user. Its hash is independent of a split's, and a growing weight keeps users."""
    return hash_to_unit_interval(f"canary {alias.alias} {key}") < alias.canary_weight
