"""Interfaces by which the router learns about paths (availability, statistics, cost, adapters), and steps of its work.

`resolve_adapter` resolves an alias once for each request: to its own version, to its canary for a share of users, or to
the version with which a conversation began. `within_scope` removes the paths that a key may not use, and
`considered_paths` lists the paths that a decision considered.
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
    """Interface that tells whether a path can answer now; `Engines` implements it."""

    def why_not(self, path: Path) -> str | None:
        """Returns the reason why the path cannot be used now; None if it can."""
        ...


class Evidence(Protocol):
    """Interface of the statistics of paths on tasks, such as ratings and costs; `EvidenceStore` implements it."""

    def of(self, task: str, path: Path) -> PathEvidence:
        """Looks up in memory, and returns, the statistics of the path, in its present configuration, on a task; all
        zeros if there are none.
        """
        ...


class NoEvidence:
    """Implements `Evidence` for gateways that store nothing: all statistics are zero."""

    def of(self, task: str, path: Path) -> PathEvidence:
        return PathEvidence()


class ExpectedCost(Protocol):
    """Interface that estimates the cost of an answer before the request is sent; `CostEstimator` implements it."""

    def usd(self, path: Path, request: Request, *, is_embedded: bool = False) -> float | None:
        """Returns the expected dollars of the path's answer to a request, as its receipt will state them; None if its
        model's price is unknown. `is_embedded` says whether the query was embedded to classify it.
        """
        ...


class Freshness(Protocol):
    """Interface that tells how many documents have changed since an adapter was trained on them; `FreshnessCache`
    implements it.
    """

    def changed_share(self, version: str) -> float:
        """Looks up in memory, and returns, the share of the adapter version's documents that have changed since its
        training, 0 to 1; 0 if it is unknown.
        """
        ...


class AlwaysFresh:
    """Implements `Freshness` for configurations without tasks that need it: reports that no document has changed."""

    def changed_share(self, version: str) -> float:
        return 0.0


ALWAYS_FRESH = AlwaysFresh()


class Adapters(Protocol):
    """Interface that tells which version an alias points to now, and which versions engines have loaded; `Engines`
    implements it.
    """

    def alias_of(self, path: Path) -> Alias | None:
        """Returns the alias that `path.adapter` names; None if it is no known alias, and so taken for a version."""
        ...

    def holds(self, model: str, version: str) -> bool:
        """Returns whether an available engine of the base model has loaded the adapter version."""
        ...

    def may_load(self, model: str, version: str) -> bool:
        """Returns whether an engine of the base model could load the adapter version now."""
        ...


@dataclass(frozen=True, slots=True)
class PinnedVersion:
    """The adapter version with which a conversation began."""

    version: str
    """The version; empty if none is pinned."""
    replaces: str = ""
    """The version that a rollback of `version` restores; empty if it is unknown."""


NOT_PINNED = PinnedVersion("")


def resolve_adapter(path: Path, key: str, adapters: Adapters, pinned: PinnedVersion = NOT_PINNED) -> Path:
    """Returns the path with its adapter resolved to a version; unchanged if it has no adapter.

    A version that the path names is used as it is. An alias becomes its own version or, for a share of the keys, its
    canary's if an available engine has loaded that. `key` identifies the user: equal keys belong to the same share
    while the alias does not change. A `pinned` version replaces both of the alias's versions, unless it was rolled
    back, its canary was ended, or no available engine has loaded it. Notes in the resolved adapter tell what happened.
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
    """Returns the adapter with the pinned version, with a note that the conversation stays on it.

    Returns `resolved`, with a note why, if the pinned version was rolled back, its canary was ended, or no available
    engine has loaded it.
    """
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
    """Returns whether the alias's canary answers the user with this key, by a hash. If the weight of the canary grows,
    users are added and none is removed.
    """
    return hash_to_unit_interval(f"canary {alias.alias} {key}") < alias.canary_weight


def within_scope(scope: Scope, task: str, paths: Sequence[Path], plan: Plan) -> tuple[Sequence[Path], Plan]:
    """Returns (the paths that the scope allows, the plan with explanations why others are denied). The reason of the
    plan becomes "scope" if the first path is denied. Raises PermissionDenied ("not_in_scope") if all paths are denied.
    """
    denied = {path.name: why for path in paths if (why := scope.denial_reason(task, path))}
    if not denied:
        return paths, plan
    allowed = [path for path in paths if path.name not in denied]
    if not allowed:
        why = f"{denied[paths[0].name]}; GET /v1/models lists what it may use"
        raise PermissionDenied(why, code="not_in_scope", param="model")
    reason = plan.reason if allowed[0] is paths[0] else "scope"
    return allowed, replace(plan, reason=reason, explanations={**plan.explanations, **denied})


def considered_paths(
    chosen: Path, paths: Sequence[Path], escalation: Sequence[Path], plan: Plan, unavailable: Mapping[str, str]
) -> tuple[Considered, ...]:
    """Returns an entry for each path that a decision considered, with the outcome "chosen", "fallback", "skipped" or
    "escalation", and the reason.

    `paths` are the plan's that the scope allows, in order; `unavailable` says why some of them cannot be used, by name.
    `escalation` are the paths that may answer if the answer of `chosen` is rejected; the first of them has the outcome
    "escalation", unless the answer of `chosen` is streamed before it is validated. A path in `unavailable` is
    "skipped", even if it is chosen because none is available. The entries are in the order of `paths`; those of paths
    that only the plan explains follow.
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
    """Returns the entries of a decision in which the first path is chosen for `reason`, and the others are fallbacks.
    Cached, since most decisions are alike.
    """
    chosen, *others = dict.fromkeys(paths)
    return (Considered(chosen, "chosen", reason), *[Considered(path, "fallback", "in reserve") for path in others])
