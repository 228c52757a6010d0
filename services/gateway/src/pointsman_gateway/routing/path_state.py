"""What the router knows about a path when a request arrives: availability, evidence, expected cost and adapter version.

An alias is resolved to a version once for each request: the alias's own version, or its canary for a share of users.
"""

from dataclasses import replace
from typing import Protocol

from pointsman_gateway.domain import Alias, Path, PathEvidence, Request, ResolvedAdapter
from pointsman_gateway.extensions.policy import hash_to_unit_interval


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
