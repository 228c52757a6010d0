"""Step 2: trains on the data set as a job of the lora-server; the result is registered but not served."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pointsman_servicekit.document_sketches import MANIFEST_KEY_PREFIX

from pointsman_cli.errors import CommandError
from pointsman_cli.retrain.data_step import PAIRS_METHOD
from pointsman_cli.retrain.plan import RetrainPlan
from pointsman_cli.retrain.run_state import Facts, RunState, StepResult
from pointsman_cli.retriever.client import fetch_sketch

EXCLUDED_FOR_DPO = ("rank", "learning_rate")
"""Settings that do not apply to DPO: the rank is that of the starting version, and the learning rate must be a tenth.
"""


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """The parameters of a training job."""

    name: str
    data: Path
    heldout: Path | None
    method: str
    parent: str
    """The version to start from; empty: the base model."""
    recipe: Mapping[str, Any]
    facts: Mapping[str, str]
    """For the manifest."""
    author: str


@dataclass(frozen=True, slots=True)
class TrainingResult:
    state: str
    version: str
    error: str = ""


class TrainingService(Protocol):
    async def start(self, lesson: TrainingSpec) -> str:
        """Returns the job's id; idempotent: a job that the same author already started is returned."""
        ...

    async def follow(self, job: str) -> TrainingResult: ...


class AliasLookup(Protocol):
    async def stable(self, alias: str) -> str:
        """Returns the version that the alias points to; empty if there is none."""
        ...


class CollectionSketches(Protocol):
    async def __call__(self) -> Mapping[str, str]:
        """Returns sketches of the teacher's collections, as facts for the manifest."""
        ...


@dataclass(frozen=True, slots=True)
class TrainStep:
    plan: RetrainPlan
    method: str
    trainer: TrainingService
    registry: AliasLookup
    dates: CollectionSketches
    name: str = "train"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> StepResult:
        job = str(state.facts(self.name).get("job", ""))
        if not job:
            job = await self.trainer.start(await self._lesson(state))
            note({"job": job})
        ended = await self.trainer.follow(job)
        if ended.state != "succeeded" or not ended.version:
            note({"job": ""})  # the next attempt starts another job
            raise CommandError(f"the training {job} {ended.state}: {ended.error or 'nothing was registered'}")
        if ended.version == await self.registry.stable(self.plan.alias):
            return StepResult(f"{ended.version}, which serves already", {}, f"{ended.version} is what serves already")
        return StepResult(f"{ended.version} by {job}", {"version": ended.version})

    async def _lesson(self, state: RunState) -> TrainingSpec:
        data = state.facts("data")
        folder, pairs = Path(data["folder"]), self.method == PAIRS_METHOD
        heldout = "heldout_pairs" if pairs else "heldout"
        left_out = EXCLUDED_FOR_DPO if pairs else ()
        recipe = {
            name: value for name, value in self.plan.training.items() if value is not None and name not in left_out
        }
        return TrainingSpec(
            name=self.plan.adapter,
            data=folder / ("pairs.jsonl" if pairs else "train.jsonl"),
            heldout=folder / f"{heldout}.jsonl" if data["counts"][heldout] else None,
            method=self.method,
            parent=await self.registry.stable(self.plan.alias) if pairs else "",
            recipe={**recipe, "baseline_shots": 0},  # the next step compares with what serves now
            facts={"data_set": f"{self.plan.task}/{data['name']}", **await self.dates()},
            author=f"retrain {state.run}",
        )


DATA_TIME_FACT = "data_unix"
"""The manifest fact with the time of the data, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class CollectionDates:
    """Reads the sketches from the retriever."""

    retriever: str
    tenant: str
    collections: Sequence[str]

    async def __call__(self) -> Mapping[str, str]:
        """Raises PointsmanError if a collection does not exist."""
        sketches = {name: await fetch_sketch(self.retriever, self.tenant, name) for name in self.collections}
        return {
            DATA_TIME_FACT: str(round(time.time())),
            **{MANIFEST_KEY_PREFIX + name: str(sketch) for name, sketch in sketches.items()},
        }
