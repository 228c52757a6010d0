"""The steps of a run, one after the other: each is seen, each may be the last of today, and none is done twice."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman_cli.distill.state import DONE, REFUSED, SKIPPED, Facts, Ledger, RunState

PROMOTED, REFUSED_OUTCOME = "promoted", "refused"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a step came to."""

    said: str
    """One line for people."""
    facts: Facts
    refusal: str = ""
    """Why the run ends here; empty where it goes on."""
    skipped: bool = False


class Step(Protocol):
    @property
    def name(self) -> str: ...

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> Taken:
        """What was done before this was interrupted is in the state's facts of this step, where `note` put it.

        Raises CommandError or PointsmanError; then it is taken again when the run goes on.
        """
        ...


Retire = Callable[[str, str], Awaitable[None]]
"""Takes a version out of use, for a reason; twice is once."""


async def turn(
    steps: Sequence[Step], ledger: Ledger, retire: Retire, tell: Callable[[str], None], until: str = ""
) -> RunState:
    """To the end of the run, or of the step `until`."""
    for step in steps:
        status = ledger.state.steps[step.name].status
        if status == REFUSED:
            break  # it was interrupted before the version was retired
        if not ledger.state.steps[step.name].is_over and await _take(step, ledger, tell):
            break
        if step.name == until:
            return ledger.state
    else:
        ledger.close(PROMOTED)
        return ledger.state
    return await _refuse(ledger, retire, tell)


async def _take(step: Step, ledger: Ledger, tell: Callable[[str], None]) -> bool:
    """Whether it refuses."""
    ledger.begin(step.name)
    taken = await step.take(ledger.state, lambda facts: ledger.note(step.name, facts))
    reason = {"refusal": taken.refusal} if taken.refusal else {}
    status = REFUSED if taken.refusal else SKIPPED if taken.skipped else DONE
    ledger.end(step.name, status, {**taken.facts, **reason})
    tell(f"{step.name}: {taken.said}")
    return bool(taken.refusal)


async def _refuse(ledger: Ledger, retire: Retire, tell: Callable[[str], None]) -> RunState:
    state = ledger.state
    reason = next(str(step.facts["refusal"]) for step in state.steps.values() if step.status == REFUSED)
    if state.version:
        await retire(state.version, reason)
    ledger.close(REFUSED_OUTCOME, reason)
    tell(f"refused: {reason}" + (f"; {state.version} is retired" if state.version else ""))
    return ledger.state
