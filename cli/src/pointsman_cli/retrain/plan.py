"""Settings of a task's retraining, read from the configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_cli.data_dir import DataDir
from pointsman_cli.lab import LabJob, lab_facts


@dataclass(frozen=True, slots=True)
class GateTerms:
    least_rows: int
    least_gain: float
    confidence: float
    most_regressions: float


@dataclass(frozen=True, slots=True)
class CanaryTerms:
    weight: float
    least_requests: int
    most_minutes: float


@dataclass(frozen=True, slots=True)
class RetrainPlan:
    task: str
    alias: str  # "triage@prod"
    student: str
    teacher: str
    incumbent: str
    """Empty: the student, or the teacher if the alias points to no version yet."""
    asking: Mapping[str, Any]
    """Sampling parameters of the student, as in a request."""
    metric: Mapping[str, Any]
    heldout: Path | None
    """Held-out rows of the configuration; None if it names no file."""
    collections: Sequence[str]
    """Collections that the teacher searches."""
    training: Mapping[str, Any]
    gates: GateTerms
    canary: CanaryTerms

    @property
    def adapter(self) -> str:
        return self.alias.partition("@")[0]


async def read_plan(folder: Path, task: str, data_dir: DataDir) -> RetrainPlan:
    """Raises CommandError if the configuration is invalid."""
    return parse_plan(await lab_facts(LabJob(["plan", str(folder), task], data_dir, as_json=True)))


def parse_plan(facts: Mapping[str, Any]) -> RetrainPlan:
    same = ("task", "alias", "student", "teacher", "incumbent", "asking", "metric", "collections", "training")
    return RetrainPlan(
        **{name: facts[name] for name in same},
        heldout=Path(facts["heldout"]) if facts["heldout"] else None,
        gates=GateTerms(**facts["gates"]),
        canary=CanaryTerms(**facts["canary"]),
    )
