"""Which version of its adapter a path means, for one request: its alias's own, or for a share of users the canary."""

from dataclasses import replace
from typing import Protocol

from pointsman_gateway.domain import Alias, Path, ResolvedAdapter
from pointsman_gateway.routing.policy import point


class Adapters(Protocol):
    """Knows where aliases point now, and which engines hold what."""

    def alias_of(self, path: Path) -> Alias | None:
        """None where the path's adapter is no alias that anybody knows of: then it is the version itself."""
        ...

    def holds(self, model: str, version: str) -> bool:
        """Whether an engine that may be asked now holds the version."""
        ...

    def may_load(self, model: str, version: str) -> bool:
        """Whether an engine could load it now."""
        ...


def aimed(path: Path, key: str, adapters: Adapters) -> Path:
    """The path with its aim; equal keys have the same one, while nothing is moved."""
    if not path.adapter:
        return path
    alias = adapters.alias_of(path)
    aim = ResolvedAdapter(path.adapter) if alias is None else _aim(path.model, alias, key, adapters)
    if not adapters.holds(path.model, aim.version) and adapters.may_load(path.model, aim.version):
        aim = replace(aim, notes=(*aim.notes, f"{aim.version}: loads on demand"))
    return replace(path, resolved_adapter=aim)


def _aim(model: str, alias: Alias, key: str, adapters: Adapters) -> ResolvedAdapter:
    if not alias.canary_version:
        return ResolvedAdapter(alias.version, alias.revision)
    if not _drawn(alias, key):
        return ResolvedAdapter(alias.version, alias.revision, has_canary=True)
    told = f"{alias.alias}: canary {alias.canary_weight * 100:g} %, {alias.canary_version}"
    if adapters.holds(model, alias.canary_version):
        return ResolvedAdapter(alias.canary_version, alias.revision, has_canary=True, notes=(told,))
    told += f", is on no engine; {alias.version} answers"
    return ResolvedAdapter(alias.version, alias.revision, has_canary=True, notes=(told,))


def _drawn(alias: Alias, key: str) -> bool:
    """By another hash than a split's, so that the two are drawn apart; a weight that grows keeps those who were in."""
    return point(f"canary {alias.alias} {key}") < alias.canary_weight
