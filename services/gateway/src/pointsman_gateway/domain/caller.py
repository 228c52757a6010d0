"""The caller of a request, and what its key may be used for."""

from dataclasses import dataclass, field

from pointsman_gateway.domain.path import Path

AllowedNames = frozenset[str] | None
"""Names, or None for all."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a key may be used for."""

    tasks: AllowedNames = None
    paths: AllowedNames = None
    adapters: AllowedNames = None
    """Adapter names without alias or version ("triage")."""
    collections: AllowedNames = None

    def denial_reason(self, task: str, path: Path) -> str | None:
        """Return why `path` must not answer a request of `task`, or None if it may."""
        if self.tasks is not None and task not in self.tasks:
            return f"the key is not for task '{task}'"
        if self.paths is not None and path.name not in self.paths:
            return f"the key is not for path '{path.name}'"
        adapter = path.adapter.partition("@")[0]
        if self.adapters is not None and adapter and adapter not in self.adapters:
            return f"the key is not for adapter '{adapter}'"
        if self.collections is not None:
            denied = [name for name in path.collections if name not in self.collections]
            if denied:
                return f"the key is not for collection '{denied[0]}'"
        return None


UNRESTRICTED = Scope()
ALL_TASKS = "*"


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request, as its key identifies it."""

    key: str = ""
    """The key's id, never its secret; empty if authentication is off."""
    tenant: str = ""
    scope: Scope = field(default=UNRESTRICTED)
    priority: int = 0
    """Requests of a higher priority leave the admission queue first."""
    training_consent: frozenset[str] = frozenset()
    """Tasks whose answers the tenant releases as training data; `ALL_TASKS` stands for every task."""
    is_operator: bool = False
    """Whether the caller may move adapter aliases."""

    def consents_to(self, task: str) -> bool:
        return bool(self.training_consent) and (task in self.training_consent or ALL_TASKS in self.training_consent)


ANONYMOUS = Caller(is_operator=True)
"""The caller of every request if authentication is off."""
