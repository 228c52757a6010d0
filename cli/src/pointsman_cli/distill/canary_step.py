"""The fourth step: a share of the alias's users gets the new version, until it has answered often enough."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pointsman_cli.distill.machine import Taken
from pointsman_cli.distill.plan import Canary, Plan
from pointsman_cli.distill.state import Facts, RunState

LOOK_SECONDS = 2.0
"""Between two looks; the lora-server judges each second, so that it has judged between two of ours."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How an alias stands."""

    stable: str
    canary: str
    requests: int
    """That the canary has answered."""


class Tries(Protocol):
    async def standing(self, alias: str) -> Standing | None:
        """None where there is no such alias."""
        ...

    async def set_canary(self, alias: str, version: str, terms: Canary, expected: str) -> None: ...
    async def end_canary(self, alias: str) -> None: ...
    async def why_taken_back(self, alias: str) -> str: ...


@dataclass(frozen=True, slots=True)
class CanaryStep:
    plan: Plan
    registry: Tries
    progress: Callable[[str, int, int], None]
    look_seconds: float = LOOK_SECONDS
    name: str = "canary"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> Taken:
        alias, version, terms = self.plan.alias, state.version, self.plan.canary
        standing = await self.registry.standing(alias)
        if standing is None:
            return Taken(f"skipped: {alias} points to nothing yet", {"stable": ""}, skipped=True)
        facts = state.facts(self.name)
        if "since" not in facts:
            facts = {"since": time.time(), "stable": standing.stable}
            note(facts)
        if standing.stable == version:
            return Taken(f"{alias} points to {version} already", facts)
        if standing.canary != version and not facts.get("set"):
            await self.registry.set_canary(alias, version, terms, str(facts["stable"]))
            note({"set": True})
        return await self._wait(version, float(facts["since"]), facts)

    async def _wait(self, version: str, since: float, facts: Facts) -> Taken:
        alias, terms, enough = self.plan.alias, self.plan.canary, 0
        while True:
            standing = await self.registry.standing(alias)
            if standing is None or standing.canary != version:
                reason = f"the canary was taken back: {await self.registry.why_taken_back(alias)}"
                return Taken(reason, facts, reason)
            self.progress(f"canary at {terms.weight:.0%}", standing.requests, terms.min_requests)
            enough = enough + 1 if standing.requests >= terms.min_requests else 0
            if enough == 2:
                said = f"{standing.requests} requests answered at {terms.weight:.0%}, and not taken back"
                return Taken(said, {**facts, "requests": standing.requests})
            if time.time() - since > terms.max_minutes * 60:
                await self.registry.end_canary(alias)
                reason = f"{standing.requests} of {terms.min_requests} requests in {terms.max_minutes:g} minutes"
                return Taken(reason, facts, reason)
            await asyncio.sleep(self.look_seconds)
