"""The router's sources of facts about paths (availability, statistics, cost, adapters), and two steps of a decision.

`resolve_adapter` resolves an alias once for each request: to its own version, to its canary for a share of users, or to
the version with which a conversation began. `considered_paths` lists the paths that a decision considered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from pointsman_servicekit.errors import PermissionDenied

from pointsman_gateway.domain import Alias, Considered, Path, PathEvidence, Request, ResolvedAdapter
from pointsman_gateway.domain.decision import planned_escalation
from pointsman_gateway.domain.request import Scope
from pointsman_gateway.extensions import Plan
from pointsman_gateway.extensions.policy import hash_to_unit_interval


class Availability(Protocol):
    """Reports whether a path can answer now."""

    def why_not(self, path: Path) -> str | None:
        """Returns the reason why the path cannot be used now; None if it can."""
        ...


class Evidence(Protocol):
    """The statistics of paths on tasks, such as ratings and costs; reading them takes no I/O."""

    def of(self, task: str, path: Path) -> PathEvidence:
        """Returns the statistics of the path, in its present configuration, on a task; all zeros if there are none."""
        ...


class NoEvidence:
    """Has no statistics of any path, since nothing is stored; implements `Evidence`."""

    def of(self, task: str, path: Path) -> PathEvidence:
        return PathEvidence()


class ExpectedCost(Protocol):
    """Estimates the cost of an answer on a path, before the request is sent."""

    def usd(self, path: Path, request: Request) -> float | None:
        """Returns the expected dollars of an answer; None if the price of the path's model is unknown."""
        ...


class Freshness(Protocol):
    """Reports the fraction of documents that have changed since an adapter was trained, from memory, without I/O."""

    def changed_share(self, version: str) -> float:
        """Returns the share of documents changed since the version's training, 0 to 1; 0 if it is unknown."""
        ...


class AlwaysFresh:
    """Reports that no document has changed, since no task needs to know; implements `Freshness`."""

    def changed_share(self, version: str) -> float:
        return 0.0


ALWAYS_FRESH = AlwaysFresh()


class Adapters(Protocol):
    """Reports to which versions aliases point now, and which engines have loaded which version."""

    def alias_of(self, path: Path) -> Alias | None:
        """Returns the alias of the path's adapter; None if no such alias is known, so that it names a version."""
        ...

    def holds(self, model: str, version: str) -> bool:
        """Returns whether an available engine holds the version."""
        ...

    def may_load(self, model: str, version: str) -> bool:
        """Returns whether an available engine could load the version now."""
        ...


@dataclass(frozen=True, slots=True)
class PinnedVersion:
    """The adapter version with which a conversation began."""

    version: str
    replaces: str = ""
    """The version that a rollback of `version` restores; empty if it is unknown."""


NOT_PINNED = PinnedVersion("")


def resolve_adapter(path: Path, key: str, adapters: Adapters, pinned: PinnedVersion = NOT_PINNED) -> Path:
    """Returns the path with its adapter resolved to a version; unchanged if it has no adapter.

    `key` identifies the user for a canary: equal keys get the same version while the alias does not change. The
    `pinned` version is used instead unless it was rolled back, its canary was ended, or no engine holds it.
    """
    if not path.adapter:
        return path
    alias = adapters.alias_of(path)
    resolved = ResolvedAdapter(path.adapter) if alias is None else _resolve(path.model, alias, key, adapters)
    if alias is not None and pinned.version and pinned.version != resolved.version:
        resolved = _with_pinned(path.model, alias, resolved, pinned, adapters)
    if not adapters.holds(path.model, resolved.version) and adapters.may_load(path.model, resolved.version):
        resolved = replace(resolved, notes=(*resolved.notes, f"{resolved.version}: loads on demand"))
    return replace(path, resolved_adapter=resolved)


def _resolve(model: str, alias: Alias, key: str, adapters: Adapters) -> ResolvedAdapter:
    if not alias.canary_version:
        return ResolvedAdapter(alias.version, alias.revision, replaces=alias.previous)
    if not _is_canary_user(alias, key):
        return ResolvedAdapter(alias.version, alias.revision, has_canary=True, replaces=alias.previous)
    note = f"{alias.alias}: canary {alias.canary_weight * 100:g} %, {alias.canary_version}"
    if adapters.holds(model, alias.canary_version):
        return ResolvedAdapter(alias.canary_version, alias.revision, True, (note,), alias.version)
    note += f", is on no engine; {alias.version} answers"
    return ResolvedAdapter(alias.version, alias.revision, True, (note,), alias.previous)


def _with_pinned(
    model: str, alias: Alias, resolved: ResolvedAdapter, pinned: PinnedVersion, adapters: Adapters
) -> ResolvedAdapter:
    """Returns the pinned version, or `resolved` if that was rolled back or is on no engine; with a note."""
    version, left = pinned.version, ""
    if alias.version == pinned.replaces and version != alias.canary_version:
        left = "was rolled back"
    elif not adapters.holds(model, version):
        left = "is on no engine now"
    if left:
        note = f"{alias.alias}: the conversation leaves {version}, which {left}"
        return replace(resolved, notes=(*resolved.notes, note))
    note = f"{alias.alias}: the conversation stays on {version}, with which it began"
    has_canary = resolved.has_canary and version in (alias.version, alias.canary_version)
    return ResolvedAdapter(version, alias.revision, has_canary, (note,), pinned.replaces)


def _is_canary_user(alias: Alias, key: str) -> bool:
    """Returns whether the canary answers the user `key`; a larger weight adds users and removes none."""
    return hash_to_unit_interval(f"canary {alias.alias} {key}") < alias.canary_weight


def within_scope(scope: Scope, task: str, paths: Sequence[Path], plan: Plan) -> tuple[Sequence[Path], Plan]:
    """Returns the paths that the scope allows, and the plan with the reasons why others are denied. The plan's reason
    becomes "scope" if the first path is denied. Raises PermissionDenied ("not_in_scope") if all are.
    """
    denied = {path.name: why for path in paths if (why := scope.denial_reason(task, path))}
    if not denied:
        return paths, plan
    allowed = [path for path in paths if path.name not in denied]
    if not allowed:
        raise PermissionDenied(denied[paths[0].name], code="not_in_scope", param="model")
    reason = plan.reason if allowed[0] is paths[0] else "scope"
    return allowed, replace(plan, reason=reason, explanations={**plan.explanations, **denied})


def considered_paths(
    chosen: Path, paths: Sequence[Path], escalation: Sequence[Path], plan: Plan, unavailable: Mapping[str, str]
) -> tuple[Considered, ...]:
    """Returns each considered path, with the reason why it is "chosen", a "fallback", or "skipped".

    `paths` are the chosen path and its fallbacks, `escalation` the paths for a rejected answer, and `unavailable` the
    reasons by path. Paths that are no fallback come last.
    """
    if not (unavailable or plan.explanations or escalation):
        return _in_order(tuple([path.name for path in paths]), plan.reason)
    explanations = plan.explanations
    names = dict.fromkeys(path.name for path in paths)
    rows = {name: Considered(name, "skipped", explanations[name]) for name in explanations if name not in names}
    for name in names:
        if name in unavailable:
            rows[name] = Considered(name, "skipped", unavailable[name])
        elif name == chosen.name:
            rows[name] = Considered(name, "chosen", explanations.get(name, plan.reason))
        else:
            rows[name] = Considered(name, "fallback", explanations.get(name, "in reserve"))
    rows |= {row.path: row for row in planned_escalation(chosen, escalation, plan.stream_unvalidated)}
    return tuple(rows[name] for name in [*names, *(name for name in rows if name not in names)])


@lru_cache(maxsize=1024)
def _in_order(paths: tuple[str, ...], reason: str) -> tuple[Considered, ...]:
    """Returns the first path as chosen and the others as fallbacks; cached, since most decisions are alike."""
    chosen, *others = dict.fromkeys(paths)
    return (Considered(chosen, "chosen", reason), *[Considered(path, "fallback", "in reserve") for path in others])
