"""Steps 4 and 5 of a retraining: try the new version on a share of users (canary), then move the alias to it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pointsman_cli.retrain.run_state import CanaryTerms, Facts, RetrainPlan, RunState, StepResult

POLL_SECONDS = 2.0
"""Seconds between two polls of the canary's state.

The lora-server analyses the canary each second, and so at least once between two polls.
"""


@dataclass(frozen=True, slots=True)
class AliasState:
    """The adapter version to which an alias points, and the version that a share of its users gets as a canary."""

    stable: str
    """The version to which the alias points, such as "triage@3f9a1c0b77de"."""
    canary: str
    """The adapter version of the canary; empty if the alias has no canary."""
    requests: int
    """The number of requests that the canary has answered."""


class CanaryRegistry(Protocol):
    """Interface for setting and watching canaries at the lora-server; `Registry` implements it."""

    async def alias_state(self, alias: str) -> AliasState | None:
        """Returns the version and the canary of the alias "NAME@ALIAS"; None if the alias does not exist."""
        ...

    async def set_canary(self, alias: str, version: str, terms: CanaryTerms, expected: str) -> None: ...
    async def end_canary(self, alias: str) -> None: ...
    async def why_taken_back(self, alias: str) -> str: ...


@dataclass(frozen=True, slots=True)
class CanaryStep:
    """Step 4 of a retraining: tries the new version as a canary, on a share of the alias's users; implements `Step`.

    The step ends when the version has answered enough requests. It rejects the version if the lora-server or a user
    ends the canary, or if the canary gets too few requests in time. It is skipped if the alias does not exist yet.
    """

    plan: RetrainPlan
    registry: CanaryRegistry
    progress: Callable[[str, int, int], None]
    """A function that shows progress; it gets a name for what is counted, the number done, and the total."""
    look_seconds: float = POLL_SECONDS
    name: str = "canary"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> StepResult:
        alias, version, terms = self.plan.alias, state.version, self.plan.canary
        alias_state = await self.registry.alias_state(alias)
        if alias_state is None:
            return StepResult(f"skipped: {alias} points to nothing yet", {"stable": ""}, skipped=True)
        facts = state.facts(self.name)
        if "since" not in facts:
            facts = {"since": time.time(), "stable": alias_state.stable}
            note(facts)
        if alias_state.stable == version:
            return StepResult(f"{alias} points to {version} already", facts)
        if alias_state.canary != version and not facts.get("set"):
            await self.registry.set_canary(alias, version, terms, str(facts["stable"]))
            note({"set": True})
        return await self._wait(version, float(facts["since"]), facts)

    async def _wait(self, version: str, since: float, facts: Facts) -> StepResult:
        alias, terms, enough = self.plan.alias, self.plan.canary, 0
        while True:
            alias_state = await self.registry.alias_state(alias)
            if alias_state is not None and alias_state.stable == version:
                return StepResult(f"{alias} was moved to {version} meanwhile", facts)
            if alias_state is None or alias_state.canary != version:
                reason = f"the canary was taken back: {await self.registry.why_taken_back(alias)}"
                return StepResult(reason, facts, reason)
            self.progress(f"canary at {terms.weight:.0%}", alias_state.requests, terms.min_requests)
            enough = enough + 1 if alias_state.requests >= terms.min_requests else 0
            if enough == 2:
                summary = f"{alias_state.requests} requests answered at {terms.weight:.0%}, and not taken back"
                return StepResult(summary, {**facts, "requests": alias_state.requests})
            if time.time() - since > terms.max_minutes * 60:
                await self.registry.end_canary(alias)
                reason = f"{alias_state.requests} of {terms.min_requests} requests in {terms.max_minutes:g} minutes"
                return StepResult(reason, facts, reason)
            await asyncio.sleep(self.look_seconds)


class AliasMover(Protocol):
    """Interface for moving an alias at the lora-server; `Registry` implements it."""

    async def move(self, alias: str, version: str, expected: str) -> None:
        """Points the alias "NAME@ALIAS" to `version`; does nothing if it points there already.

        `expected` is the version to which the alias must point before; empty: any version. Raises PointsmanError if the
        alias points to another version than `expected`, or if the call fails.
        """
        ...


@dataclass(frozen=True, slots=True)
class PromoteStep:
    """Step 5 of a retraining: points the alias to the new adapter version; implements `Step`.

    Fails with a PointsmanError if the alias points neither to the new version nor to the version from before the
    canary.
    """

    plan: RetrainPlan
    registry: AliasMover
    name: str = "promote"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> StepResult:
        before = str(state.facts("canary").get("stable", ""))
        await self.registry.move(self.plan.alias, state.version, before)
        return StepResult(f"{self.plan.alias} -> {state.version}", {"before": before, "after": state.version})
