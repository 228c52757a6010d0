"""Who asks, and what they may use."""

from dataclasses import dataclass, field

from pointsman_gateway.domain.decision import Path

Allowed = frozenset[str] | None
"""Names, or None for all."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a key may be used for."""

    tasks: Allowed = None
    paths: Allowed = None
    adapters: Allowed = None
    """By their names without alias or version ("triage")."""
    collections: Allowed = None

    def why_not(self, task: str, path: Path) -> str | None:
        """Why `path` may not answer a request of `task`, or None."""
        if self.tasks is not None and task not in self.tasks:
            return f"the key is not for task '{task}'"
        if self.paths is not None and path.name not in self.paths:
            return f"the key is not for path '{path.name}'"
        adapter = path.adapter.partition("@")[0]
        if self.adapters is not None and adapter and adapter not in self.adapters:
            return f"the key is not for adapter '{adapter}'"
        if self.collections is not None:
            closed = [name for name in path.collections if name not in self.collections]
            if closed:
                return f"the key is not for collection '{closed[0]}'"
        return None


EVERYTHING = Scope()
ALL_TASKS = "*"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    key: str = ""
    """The key's id, never its secret; empty where keys are off."""
    tenant: str = ""
    scope: Scope = field(default=EVERYTHING)
    priority: int = 0
    """The higher goes first where not all can be served."""
    learning: frozenset[str] = frozenset()
    """The tasks whose answers its tenant lets be learnt from; `ALL_TASKS` among them: all."""
    operator: bool = False
    """Whether they may move adapters."""

    def consents_to(self, task: str) -> bool:
        return bool(self.learning) and (task in self.learning or ALL_TASKS in self.learning)


ANYONE = Caller(operator=True)
"""Who asks where keys are off."""
