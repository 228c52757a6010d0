"""The second step: a job of the lora-server learns from the data set; what it makes is registered and serves nobody."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pointsman_cli.distill.data_step import PAIRS
from pointsman_cli.distill.machine import Taken
from pointsman_cli.distill.plan import Plan
from pointsman_cli.distill.state import Facts, RunState
from pointsman_cli.errors import CommandError

NOT_OF_PAIRS = ("rank", "learning_rate")
"""What is written for rows, and is another matter for pairs: the rank is that of the version which is begun with, the
rate a tenth."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the trainer is given."""

    name: str
    data: Path
    heldout: Path | None
    method: str
    parent: str
    """A version; empty: the base model."""
    recipe: Mapping[str, Any]
    facts: Mapping[str, str]
    """For the manifest."""
    author: str


@dataclass(frozen=True, slots=True)
class Ended:
    state: str
    version: str
    error: str = ""


class Trains(Protocol):
    async def start(self, lesson: Lesson) -> str:
        """The job's id; that of the job which the same author has begun already, where there is one."""
        ...

    async def follow(self, job: str) -> Ended: ...


class Knows(Protocol):
    async def stable(self, alias: str) -> str:
        """Where the alias points to; empty where there is none."""
        ...


class Dates(Protocol):
    async def __call__(self) -> Mapping[str, str]:
        """How the collections of the teacher stand now, as facts for the manifest."""
        ...


@dataclass(frozen=True, slots=True)
class TrainStep:
    plan: Plan
    method: str
    trainer: Trains
    registry: Knows
    dates: Dates
    name: str = "train"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> Taken:
        job = str(state.facts(self.name).get("job", ""))
        if not job:
            job = await self.trainer.start(await self._lesson(state))
            note({"job": job})
        ended = await self.trainer.follow(job)
        if ended.state != "succeeded" or not ended.version:
            note({"job": ""})  # another try is another job
            raise CommandError(f"the training {job} {ended.state}: {ended.error or 'nothing was registered'}")
        if ended.version == await self.registry.stable(self.plan.alias):
            return Taken(f"{ended.version}, which serves already", {}, f"{ended.version} is what serves already")
        return Taken(f"{ended.version} by {job}", {"version": ended.version})

    async def _lesson(self, state: RunState) -> Lesson:
        data = state.facts("data")
        folder, pairs = Path(data["folder"]), self.method == PAIRS
        heldout = "heldout_pairs" if pairs else "heldout"
        left_out = NOT_OF_PAIRS if pairs else ()
        recipe = {
            name: value for name, value in self.plan.training.items() if value is not None and name not in left_out
        }
        return Lesson(
            name=self.plan.adapter,
            data=folder / ("pairs.jsonl" if pairs else "train.jsonl"),
            heldout=folder / f"{heldout}.jsonl" if data["counts"][heldout] else None,
            method=self.method,
            parent=await self.registry.stable(self.plan.alias) if pairs else "",
            recipe={**recipe, "baseline_shots": 0},  # it is measured against what serves, in the next step
            facts={"data_set": f"{self.plan.task}/{data['name']}", **await self.dates()},
            author=f"retrain {state.run}",
        )
