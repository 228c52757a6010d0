"""How far a run is: one file, put in place as a whole after each step, so that a kill costs one step at most."""

import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pointsman_cli.errors import CommandError

STATE_FILE = "state.json"
WAITING, RUNNING, DONE, SKIPPED, REFUSED = "waiting", "running", "done", "skipped", "refused"

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepState:
    status: str = WAITING
    began: float = 0.0
    """Unix seconds, like the next."""
    ended: float = 0.0
    facts: Facts = field(default_factory=dict)
    """Also of a step that is not done: what it must know to go on."""

    @property
    def is_over(self) -> bool:
        return self.status in (DONE, SKIPPED)


@dataclass(frozen=True, slots=True)
class RunState:
    run: str
    """By its begin: "20261125T221500Z"."""
    task: str
    method: str
    steps: Mapping[str, StepState]
    outcome: str = ""
    """ "promoted" or "refused"; empty while it is neither."""
    reason: str = ""
    """Why it was refused."""

    def facts(self, step: str) -> Facts:
        return self.steps[step].facts

    @property
    def version(self) -> str:
        """What was trained; empty before that."""
        return next((str(step.facts["version"]) for step in self.steps.values() if step.facts.get("version")), "")

    def with_step(self, name: str, **changed: Any) -> "RunState":
        return replace(self, steps={**self.steps, name: replace(self.steps[name], **changed)})


class RunFile:
    """The state of one run, in its folder."""

    def __init__(self, folder: Path, state: RunState) -> None:
        self.folder = folder
        self.state = state

    def begin(self, step: str) -> None:
        self._put(self.state.with_step(step, status=RUNNING, began=self.state.steps[step].began or time.time()))

    def note(self, step: str, facts: Facts) -> None:
        """What a step that is interrupted now has to know afterwards."""
        self._put(self.state.with_step(step, facts={**self.state.facts(step), **facts}))

    def end(self, step: str, status: str, facts: Facts) -> None:
        facts = {**self.state.facts(step), **facts}
        self._put(self.state.with_step(step, status=status, ended=time.time(), facts=facts))

    def close(self, outcome: str, reason: str = "") -> None:
        self._put(replace(self.state, outcome=outcome, reason=reason))

    def _put(self, state: RunState) -> None:
        self.state = state
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".{STATE_FILE}.{os.getpid()}"
        unfinished.write_text(json.dumps(asdict(state), indent=2, ensure_ascii=False) + "\n", "utf-8")
        unfinished.replace(self.folder / STATE_FILE)


def start_run(shelf: Path, task: str, method: str, steps: tuple[str, ...]) -> RunFile:
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    ledger = RunFile(shelf / name, RunState(name, task, method, {step: StepState() for step in steps}))
    ledger.close("")  # so that it is seen from its begin
    return ledger


def latest_run(shelf: Path) -> RunFile | None:
    """The newest run of a task; None before the first. Raises CommandError where its file cannot be read."""
    files = sorted(shelf.glob(f"*/{STATE_FILE}"))
    if not files:
        return None
    try:
        read = json.loads(files[-1].read_text("utf-8"))
        steps = {name: StepState(**step) for name, step in read.pop("steps").items()}
        return RunFile(files[-1].parent, RunState(steps=steps, **read))
    except (ValueError, TypeError, KeyError) as error:
        raise CommandError(f"{files[-1]} cannot be read ({error}); --restart begins a new run") from error


PROMOTED, REJECTED = "promoted", "refused"


@dataclass(frozen=True, slots=True)
class StepResult:
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

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> StepResult:
        """What was done before this was interrupted is in the state's facts of this step, where `note` put it.

        Raises CommandError or PointsmanError; then it is taken again when the run goes on.
        """
        ...


Retire = Callable[[str, str], Awaitable[None]]
"""Takes a version out of use, for a reason; twice is once."""


async def run_steps(
    steps: Sequence[Step], ledger: RunFile, retire: Retire, tell: Callable[[str], None], until: str = ""
) -> RunState:
    """To the end of the run, or of the step `until`."""
    for step in steps:
        status = ledger.state.steps[step.name].status
        if status == REFUSED:
            break  # it was interrupted before the version was retired
        if not ledger.state.steps[step.name].is_over and await _run_step(step, ledger, tell):
            break
        if step.name == until:
            return ledger.state
    else:
        ledger.close(PROMOTED)
        return ledger.state
    return await _reject_run(ledger, retire, tell)


async def _run_step(step: Step, ledger: RunFile, tell: Callable[[str], None]) -> bool:
    """Whether it refuses."""
    ledger.begin(step.name)
    taken = await step.take(ledger.state, lambda facts: ledger.note(step.name, facts))
    reason = {"refusal": taken.refusal} if taken.refusal else {}
    status = REFUSED if taken.refusal else SKIPPED if taken.skipped else DONE
    ledger.end(step.name, status, {**taken.facts, **reason})
    tell(f"{step.name}: {taken.said}")
    return bool(taken.refusal)


async def _reject_run(ledger: RunFile, retire: Retire, tell: Callable[[str], None]) -> RunState:
    state = ledger.state
    reason = next(str(step.facts["refusal"]) for step in state.steps.values() if step.status == REFUSED)
    if state.version:
        await retire(state.version, reason)
    ledger.close(REJECTED, reason)
    tell(f"refused: {reason}" + (f"; {state.version} is retired" if state.version else ""))
    return ledger.state
