"""The last step: the alias moves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pointsman_cli.distill.machine import Taken
from pointsman_cli.distill.plan import Plan
from pointsman_cli.distill.state import Facts, RunState


class Moves(Protocol):
    async def move(self, alias: str, version: str, expected: str) -> None:
        """`expected`: only where it points there now; empty: whatever it points to. Twice is once."""
        ...


@dataclass(frozen=True, slots=True)
class PromoteStep:
    plan: Plan
    registry: Moves
    name: str = "promote"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> Taken:
        before = str(state.facts("canary").get("stable", ""))
        await self.registry.move(self.plan.alias, state.version, before)
        return Taken(f"{self.plan.alias} -> {state.version}", {"before": before, "after": state.version})
