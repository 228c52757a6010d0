"""The interfaces by which the router looks up a path's availability, statistics, cost and adapters, and steps of its
decision.

`resolve_adapter` replaces an adapter's alias by a version: the stable one, the canary for a share of users, or the one
with which a conversation began. `within_scope` removes the paths that an API key may not use. `considered_paths` lists
the paths that a decision considered.
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
    """Interface that returns the statistics of paths on tasks: ratings, costs, durations; `EvidenceStore` implements
    it.
    """

    def of(self, task: str, path: Path) -> PathEvidence:
        """Returns the statistics of the path, with its present configuration, on the task `task`; all zeros if there
        are no answers.

        Reads memory only, so it is fast enough for each request.
        """
        ...


class NoEvidence:
    """Implements `Evidence` for gateways that store nothing: all statistics are zero."""

    def of(self, task: str, path: Path) -> PathEvidence:
        return PathEvidence()


class ExpectedCost(Protocol):
    """Interface that estimates the cost of an answer before the request is sent; `CostEstimator` implements it."""

    def usd(self, path: Path, request: Request, *, is_embedded: bool = False) -> float | None:
        """Returns the dollars that the path's answer to the request is expected to cost; None if a price is unknown.

        `is_embedded` says whether the gateway has embedded the request's text to classify it, which costs too.
        """
        ...


class Freshness(Protocol):
    """Interface that tells how many of the documents that an adapter was trained on have changed since.

    `FreshnessCache` implements it.
    """

    def changed_share(self, version: str) -> float:
        """Returns which fraction (0 to 1) of an adapter version's training documents have changed; 0 if unknown.

        Reads memory only.
        """
        ...


class AlwaysFresh:
    """Implements `Freshness` where no task checks it: reports that no training document has changed."""

    def changed_share(self, version: str) -> float:
        return 0.0


ALWAYS_FRESH = AlwaysFresh()


class Adapters(Protocol):
    """Interface that tells which version an adapter's alias points to, and which versions engines have loaded.

    `Engines` implements it.
    """

    def alias_of(self, path: Path) -> Alias | None:
        """Returns the alias that `path.adapter` names; None if it is no known alias, and so a version's name."""
        ...

    def holds(self, model: str, version: str) -> bool:
        """Returns whether an available engine of the base model has loaded the adapter version."""
        ...

    def may_load(self, model: str, version: str) -> bool:
        """Returns whether an engine of the base model could load the adapter version now."""
        ...


@dataclass(frozen=True, slots=True)
class PinnedVersion:
    """The adapter version with which a conversation began, and which its later requests should get."""

    version: str
    """The name of the adapter version; empty if none is pinned."""
    replaces: str = ""
    """The adapter version that answers again if `version` is rolled back; empty if it is unknown."""


NOT_PINNED = PinnedVersion("")


def resolve_adapter(path: Path, key: str, adapters: Adapters, pinned: PinnedVersion = NOT_PINNED) -> Path:
    """Returns the path with its adapter resolved to a version; unchanged if it has no adapter.

    A version that the path names is used as it is. An alias becomes its stable version or, for a share of the users,
    its canary version if an available engine has loaded the canary. `key` identifies the user: equal keys belong to the
    same share while the alias does not change. A `pinned` version replaces both of the alias's versions, unless the
    pinned version was rolled back, its canary was ended, or no available engine has loaded it. Notes in the resolved
    adapter say which of these cases applied.
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
    """Removes the paths that an API key may not use; returns (the allowed paths, a plan that explains which paths were
    denied).

    The reason of the returned plan is "scope" if the first path is denied. Raises PermissionDenied ("not_in_scope") if
    all paths are denied.
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
    """Returns one entry for each path that a decision considered: its name, its outcome and the reason for the outcome.

    The outcome is "chosen", "fallback", "skipped" or "escalation" (the path may answer if the chosen path's answer is
    rejected). `paths` are the plan's allowed paths in order. `unavailable` has the reason by the name of each path that
    cannot be used; these paths are "skipped", even if one is chosen for lack of another. `escalation` are the paths
    that may follow a rejection; only the first of them is listed as "escalation", and none if the answer of `chosen` is
    streamed before it is validated. The entries are in the order of `paths`, followed by paths that only the plan
    explains.
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
