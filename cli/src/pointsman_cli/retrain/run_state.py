"""The plan and the state of a task's retraining. Each change of the state is saved atomically in a JSON file."""

import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import CommandError
from pointsman_cli.lab_process import LabJob, lab_facts

STATE_FILE = "state.json"
WAITING, RUNNING, DONE, SKIPPED, REFUSED = "waiting", "running", "done", "skipped", "refused"

Facts = Mapping[str, Any]

Retire = Callable[[str, str], Awaitable[None]]
"""A function that retires an adapter version, given the version and a reason; repeated calls have no further effect."""

PROMOTED, REJECTED = "promoted", "refused"


@dataclass(frozen=True, slots=True)
class StepState:
    """The saved state of one step of a retraining: its status, start and end in Unix seconds, and results."""

    status: str = WAITING
    """WAITING, RUNNING, DONE, SKIPPED, or REFUSED if the step has rejected the new version."""
    began: float = 0.0
    """When the step began, in Unix seconds; 0 if it has not begun."""
    ended: float = 0.0
    """When the step ended, in Unix seconds; 0 if it has not ended."""
    facts: Facts = field(default_factory=dict)
    """The step's results, and the values with which it continues after an interruption, by name."""

    @property
    def is_over(self) -> bool:
        return self.status in (DONE, SKIPPED)


@dataclass(frozen=True, slots=True)
class RunState:
    """The saved state of one retraining of a task: the state of each step, and the outcome with its reason.

    `outcome` is empty until the retraining has ended.
    """

    run: str
    """The start time in UTC, which names the run's folder: "20261125T221500123456Z"."""
    task: str
    method: str
    steps: Mapping[str, StepState]
    outcome: str = ""
    """The result of the run: "promoted", or "refused" if the new version was rejected; empty: the run is unfinished."""
    reason: str = ""
    """Why a step rejected the new adapter version; empty if none has rejected it."""

    def facts(self, step: str) -> Facts:
        return self.steps[step].facts

    @property
    def version(self) -> str:
        """Returns the adapter version that the run has trained; empty if it has trained none yet."""
        return next((str(step.facts["version"]) for step in self.steps.values() if step.facts.get("version")), "")

    def with_step(self, name: str, **changed: Any) -> "RunState":
        return replace(self, steps={**self.steps, name: replace(self.steps[name], **changed)})


class RunFile:
    """The state of a retraining, together with the file in which each change of the state is saved."""

    def __init__(self, folder: Path, state: RunState) -> None:
        self.folder = folder
        self.state = state

    def begin(self, step: str) -> None:
        self._put(self.state.with_step(step, status=RUNNING, began=self.state.steps[step].began or time.time()))

    def note(self, step: str, facts: Facts) -> None:
        """Adds `facts` to the saved state of a running step, so that the step can continue after an interruption."""
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


def start_run(runs_folder: Path, task: str, method: str, steps: tuple[str, ...]) -> RunFile:
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    run_file = RunFile(runs_folder / name, RunState(name, task, method, {step: StepState() for step in steps}))
    run_file.close("")  # makes the run visible at once
    return run_file


def latest_run(runs_folder: Path) -> RunFile | None:
    """Returns the newest run in the folder of a task's runs; None if there is none.

    Raises CommandError if the saved state of this run is malformed.
    """
    files = sorted(runs_folder.glob(f"*/{STATE_FILE}"))
    if not files:
        return None
    try:
        read = json.loads(files[-1].read_text("utf-8"))
        steps = {name: StepState(**step) for name, step in read.pop("steps").items()}
        return RunFile(files[-1].parent, RunState(steps=steps, **read))
    except (ValueError, TypeError, KeyError) as error:
        raise CommandError(f"{files[-1]} cannot be read ({error}); --restart begins a new run") from error


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step of a retraining: a line for the terminal, values for later steps, and any rejection."""

    summary: str
    """One line that tells the user what the step has done."""
    facts: Facts
    """The step's results by name, which are saved in the run's state for later steps."""
    refusal: str = ""
    """Why the step rejects the new adapter version, which ends the run; empty if the run continues."""
    skipped: bool = False
    """True if the step had nothing to do."""


class Step(Protocol):
    """Interface of one step of a retraining.

    DataStep, TrainStep, EvaluateStep, CanaryStep and PromoteStep implement it.
    """

    @property
    def name(self) -> str: ...

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> StepResult:
        """Carries out the step; `state` is the state of the run.

        The step calls `note` with the facts that it needs to continue after a failure or an interruption. When it is
        called again, these facts are in `state`. Raises CommandError or PointsmanError if the step fails.
        """
        ...


async def run_steps(
    steps: Sequence[Step], run_file: RunFile, retire: Retire, report_progress: Callable[[str], None], until: str = ""
) -> RunState:
    """Runs the steps that have not ended, up to and including the step named `until`; returns the state of the run.

    If `until` is empty, all steps run. If a step rejects the new version, `retire` retires the version, and the outcome
    of the run is "refused". After all steps the outcome is "promoted"; after an earlier stop it is empty.
    `report_progress` is called with a line of text after each step. Raises what a step or `retire` raises.
    """
    for step in steps:
        status = run_file.state.steps[step.name].status
        if status == REFUSED:
            break  # the run was interrupted before the version was retired
        if not run_file.state.steps[step.name].is_over and await _run_step(step, run_file, report_progress):
            break
        if step.name == until:
            return run_file.state
    else:
        run_file.close(PROMOTED)
        return run_file.state
    return await _reject_run(run_file, retire, report_progress)


async def _run_step(step: Step, run_file: RunFile, report_progress: Callable[[str], None]) -> bool:
    """Runs one step and saves its result; returns whether the step rejects the new version."""
    run_file.begin(step.name)
    taken = await step.take(run_file.state, lambda facts: run_file.note(step.name, facts))
    reason = {"refusal": taken.refusal} if taken.refusal else {}
    status = REFUSED if taken.refusal else SKIPPED if taken.skipped else DONE
    run_file.end(step.name, status, {**taken.facts, **reason})
    report_progress(f"{step.name}: {taken.summary}")
    return bool(taken.refusal)


async def _reject_run(run_file: RunFile, retire: Retire, report_progress: Callable[[str], None]) -> RunState:
    state = run_file.state
    reason = next(str(step.facts["refusal"]) for step in state.steps.values() if step.status == REFUSED)
    if state.version:
        await retire(state.version, reason)
    run_file.close(REJECTED, reason)
    report_progress(f"refused: {reason}" + (f"; {state.version} is retired" if state.version else ""))
    return run_file.state


@dataclass(frozen=True, slots=True)
class GateTerms:
    """The requirements that a new adapter version must meet in its evaluation (`flywheel.gates` of tasks.yaml)."""

    min_rows: int  # rows or pairs to train on; with fewer nothing is trained
    min_gain: float  # that the lower confidence bound of the gain must reach; scores are from 0 to 1
    confidence: float  # of the two-sided interval, 0.5 to 1
    max_regressions: float  # largest share, 0 to 1, of rows that may be answered worse


@dataclass(frozen=True, slots=True)
class CanaryTerms:
    """How many users get a new adapter version as a trial, and how long (`flywheel.canary` of tasks.yaml)."""

    weight: float  # share of users, above 0 up to 1
    min_requests: int  # that the canary must have answered
    max_minutes: float  # in which it must have answered them


@dataclass(frozen=True, slots=True)
class RetrainPlan:
    """The configuration for retraining one task's adapter: paths, data, training parameters and requirements."""

    task: str
    alias: str  # "triage@prod"
    student: str
    """The name of the path (way to answer) that uses the adapter."""
    teacher: str
    """The name of the path whose answers the adapter learns."""
    incumbent: str
    """The name of the path with which the new version is compared, and on which it must improve.

    Empty: the student, or the teacher if the alias points to no version yet.
    """
    sampling: Mapping[str, Any]
    """The sampling parameters of the student path, by the names that they have in a chat request."""
    metric: Mapping[str, Any]
    """The settings of the metric that scores answers to the task, as in tasks.yaml."""
    heldout: Path | None
    """The file of held-out rows that the configuration names; None if it names none."""
    collections: Sequence[str]
    """The names of the collections that the teacher path searches."""
    training: Mapping[str, Any]
    """Options of the training by their names in `TrainingRecipe` of training.proto; None: the option's default."""
    gates: GateTerms
    canary: CanaryTerms
    is_rendered: bool = False
    """Whether the student's prompts have more than the user's message, so that training rows must be rendered."""

    @property
    def adapter(self) -> str:
        return self.alias.partition("@")[0]


async def read_plan(folder: Path, task: str, data_dir: DataDir) -> RetrainPlan:
    """Reads the retraining plan of a task from the configuration folder `folder`.

    Raises CommandError if the configuration is invalid, or has no retraining plan for the task.
    """
    return parse_plan(await lab_facts(LabJob(["plan", str(folder), task], data_dir, as_json=True)))


def parse_plan(facts: Mapping[str, Any]) -> RetrainPlan:
    same = (
        "task",
        "alias",
        "student",
        "teacher",
        "incumbent",
        "sampling",
        "metric",
        "collections",
        "training",
        "is_rendered",
    )
    return RetrainPlan(
        **{name: facts[name] for name in same},
        heldout=Path(facts["heldout"]) if facts["heldout"] else None,
        gates=GateTerms(**facts["gates"]),
        canary=CanaryTerms(**facts["canary"]),
    )
