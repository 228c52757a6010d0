"""What the configuration says of a task's flywheel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_cli.data_dir import DataDir
from pointsman_cli.lab import LabJob, lab_facts


@dataclass(frozen=True, slots=True)
class Gates:
    least_rows: int
    least_gain: float
    confidence: float
    most_regressions: float


@dataclass(frozen=True, slots=True)
class Canary:
    weight: float
    least_requests: int
    most_minutes: float


@dataclass(frozen=True, slots=True)
class Plan:
    task: str
    alias: str  # "triage@prod"
    student: str
    teacher: str
    incumbent: str
    """Empty: the student, or the teacher where its alias points to nothing yet."""
    asking: Mapping[str, Any]
    """The student's sampling, as a request has it."""
    metric: Mapping[str, Any]
    heldout: Path | None
    """The configuration's own rows; None where it names no file."""
    collections: Sequence[str]
    """That the teacher looks things up in."""
    training: Mapping[str, Any]
    gates: Gates
    canary: Canary

    @property
    def adapter(self) -> str:
        return self.alias.partition("@")[0]


async def read_plan(folder: Path, task: str, data_dir: DataDir) -> Plan:
    """Raises CommandError."""
    return to_plan(await lab_facts(LabJob(["plan", str(folder), task], data_dir, as_json=True)))


def to_plan(facts: Mapping[str, Any]) -> Plan:
    same = ("task", "alias", "student", "teacher", "incumbent", "asking", "metric", "collections", "training")
    return Plan(
        **{name: facts[name] for name in same},
        heldout=Path(facts["heldout"]) if facts["heldout"] else None,
        gates=Gates(**facts["gates"]),
        canary=Canary(**facts["canary"]),
    )
