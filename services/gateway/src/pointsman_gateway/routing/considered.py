"""Which paths a decision considers, and why each was chosen or not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from pointsman_servicekit.errors import PermissionDenied

from pointsman_gateway.domain import Considered, Path
from pointsman_gateway.domain.decision import planned_escalation
from pointsman_gateway.domain.request import Scope
from pointsman_gateway.extensions import Plan


def within_scope(scope: Scope, task: str, paths: Sequence[Path], plan: Plan) -> tuple[Sequence[Path], Plan]:
    """Return the paths that the key may use, and the plan with the reasons for the others. Raises PermissionDenied."""
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
    """Return each path that was considered, and why it was chosen or not; those that cannot be fallbacks are last."""
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
    """Return the first path as chosen and the others as fallbacks; cached, since most decisions are alike."""
    chosen, *others = dict.fromkeys(paths)
    return (Considered(chosen, "chosen", reason), *[Considered(path, "fallback", "in reserve") for path in others])
