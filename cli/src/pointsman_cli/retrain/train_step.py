"""Step 2 of a retraining: trains on the data set as a job of the lora-server.

The trained adapter version is registered, but no alias points to it yet.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import training_pb2
from pointsman_servicekit.document_sketch import MANIFEST_KEY_PREFIX

from pointsman_cli.errors import CommandError
from pointsman_cli.grpc_clients import CALL_SECONDS, LOAD_SECONDS, call_lora_server, fetch_adapters
from pointsman_cli.jobs import STATE_NAMES, TRAINING_CALL_SECONDS, call_training, training_events
from pointsman_cli.retrain.rollout_steps import AliasState
from pointsman_cli.retrain.run_state import CanaryTerms, Facts, RetrainPlan, RunState, StepResult
from pointsman_cli.retrain.training_method import RetrainMethod
from pointsman_cli.retriever.command import fetch_sketch

MIN_CANARY_REQUESTS = 20
"""How many requests the canary and the stable version must each answer before the lora-server compares them.

This is the lora-server's default.
"""

EXCLUDED_FOR_PAIRS = ("rank", "learning_rate")
"""Training options in tasks.yaml that methods which learn from preference pairs do not use.

The rank is that of the starting version, and the learning rate would have to be about a tenth.
"""

DATA_TIME_FACT = "data_unix"
"""The name of the entry in an adapter's manifest that has the time of its training data, in Unix seconds."""


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Describes a training job: its name, data, method and parameters."""

    name: str
    data: Path
    heldout: Path | None
    method: str
    parent: str
    """The adapter version from which the training starts; empty: the training starts from the base model."""
    recipe: Mapping[str, Any]
    """The training options, by the names of the fields of `TrainingRecipe` in training.proto."""
    facts: Mapping[str, str]
    """Entries to add to the adapter's manifest, by name."""
    author: str
    """The author of the job, for the lora-server's history of changes.

    The text contains the name of the retraining's run, by which an interrupted retraining finds its job again.
    """


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a training job ended: its final state, the adapter version that it made, and its error."""

    state: str
    """One of STATE_NAMES: "succeeded", "failed" or "cancelled"; another one if the lora-server stopped before."""
    version: str
    """The adapter version that the job has registered; empty if it has registered none."""
    error: str = ""
    cut_short: str = ""
    """Why the training ended before its last step, and what to do about it; empty if all steps were done."""


def explain_end(done: Mapping[str, Any]) -> str:
    """Returns a sentence on why a training ended before its last planned step; empty if all steps were done.

    `done` has the fields of the trainer's last event, "done".
    """
    of_steps = f" of {done['of_steps']:.0f}" if "of_steps" in done else ""
    steps = f"{done.get('steps', 0):.0f}{of_steps} steps"
    match done.get("ended_by"):
        case "time":
            return f"the training was stopped after {steps} by max_minutes: raise flywheel.training.max_minutes"
        case "patience":
            return f"the training ended after {steps}, since its held-out loss no longer improved"
    return ""


class Registry:
    """Reads and changes aliases and versions at a lora-server; implements CanaryRegistry, AliasMover and AliasLookup.

    Every method raises PointsmanError if the call fails, and CommandError if a token or TLS file cannot be used.
    """

    def __init__(self, address: str, author: str) -> None:
        """Takes the lora-server's address (HOST:PORT), and the author's name for its history of changes."""
        self._address = address
        self._author = author

    async def alias_state(self, alias: str) -> AliasState | None:
        found = await fetch_adapters(self._address, alias.partition("@")[0])
        for one in found.aliases:
            if one.alias == alias:
                return AliasState(one.version, one.canary_version, one.canary_requests)
        return None

    async def stable(self, alias: str) -> str:
        alias_state = await self.alias_state(alias)
        return alias_state.stable if alias_state else ""

    async def set_canary(self, alias: str, version: str, terms: CanaryTerms, expected: str) -> None:
        request = pb.SetCanaryRequest(
            alias=alias,
            version=version,
            weight=terms.weight,
            terms=pb.CanaryTerms(min_requests=min(MIN_CANARY_REQUESTS, terms.min_requests)),
            author=self._author,
            expected_version=expected,
        )
        await call_lora_server(self._address, lambda server: server.SetCanary(request, timeout=LOAD_SECONDS))

    async def end_canary(self, alias: str) -> None:
        request = pb.SetCanaryRequest(alias=alias, weight=0, author=self._author)
        await call_lora_server(self._address, lambda server: server.SetCanary(request, timeout=LOAD_SECONDS))

    async def why_taken_back(self, alias: str) -> str:
        request = pb.HistoryRequest(name=alias.partition("@")[0], limit=20)
        found = await call_lora_server(self._address, lambda server: server.History(request, timeout=CALL_SECONDS))
        for change in found.changes:
            if change.subject == alias:
                return change.reason or f"{change.kind} by {change.author or 'nobody named'}"
        return "nobody says why"

    async def move(self, alias: str, version: str, expected: str) -> None:
        request = pb.SetAliasRequest(alias=alias, version=version, expected_version=expected, author=self._author)
        await call_lora_server(self._address, lambda server: server.SetAlias(request, timeout=LOAD_SECONDS))

    async def retire(self, version: str, reason: str) -> None:
        request = pb.RetireRequest(version=version, author=self._author, reason=reason)
        await call_lora_server(self._address, lambda server: server.Retire(request, timeout=CALL_SECONDS))


class Trainer:
    """Starts and follows training jobs of a lora-server; implements TrainingService.

    Every method raises PointsmanError if the call fails, and CommandError if a token or TLS file cannot be used.
    """

    def __init__(self, address: str, report_progress: Callable[[str, dict[str, object]], None]) -> None:
        """Takes the lora-server's address (HOST:PORT); `report_progress` gets the kind and fields of each job event."""
        self._address = address
        self._tell = report_progress

    async def start(self, spec: TrainingSpec) -> str:
        started = await self._find_started_job(spec)
        if started:
            return started
        request = training_pb2.CreateTrainingJobRequest(
            name=spec.name,
            data=str(spec.data.absolute()),
            heldout=str(spec.heldout.absolute()) if spec.heldout else "",
            method=spec.method,
            parent=spec.parent,
            author=spec.author,
            recipe=training_pb2.TrainingRecipe(**spec.recipe),
            facts=spec.facts,
        )
        job = await call_training(
            self._address, lambda server: server.CreateJob(request, timeout=TRAINING_CALL_SECONDS)
        )
        return str(job.id)

    async def _find_started_job(self, spec: TrainingSpec) -> str:
        """Returns the id of the job that this retraining started before it was killed; empty if there is none.

        The author of the job names the retraining. Failed and cancelled jobs are not returned.
        """
        request = training_pb2.ListTrainingJobsRequest(name=spec.name)
        found = await call_training(self._address, lambda server: server.List(request, timeout=TRAINING_CALL_SECONDS))
        failed = (training_pb2.TRAINING_STATE_FAILED, training_pb2.TRAINING_STATE_CANCELLED)
        mine = (job for job in found.jobs if job.author == spec.author and job.state not in failed)
        return next((str(job.id) for job in mine), "")

    async def follow(self, job: str) -> TrainingResult:
        """Reports the events of the job with id `job` until it ends, and returns its result."""
        cut_short = ""
        async for kind, facts in training_events(self._address, job):
            self._tell(kind, facts)
            if kind == "done":
                cut_short = explain_end(facts)
        request = training_pb2.GetTrainingJobRequest(id=job)
        found = await call_training(self._address, lambda server: server.Get(request, timeout=TRAINING_CALL_SECONDS))
        return TrainingResult(STATE_NAMES.get(found.state, "?"), found.version, found.error, cut_short)


class TrainingService(Protocol):
    """Interface for training jobs; `Trainer` implements it."""

    async def start(self, spec: TrainingSpec) -> str:
        """Starts a training job and returns its id.

        If a job with this name and author exists that has neither failed nor been cancelled, returns the id of that job
        instead. Raises PointsmanError if the call fails.
        """
        ...

    async def follow(self, job: str) -> TrainingResult: ...


class AliasLookup(Protocol):
    """Interface for looking up an alias; `Registry` implements it."""

    async def stable(self, alias: str) -> str:
        """Returns the version to which the alias "NAME@ALIAS" points; empty if the alias does not exist."""
        ...


class CollectionSketches(Protocol):
    """Interface for summarizing the documents on which an adapter is trained; `CollectionDates` implements it."""

    async def __call__(self) -> Mapping[str, str]:
        """Returns entries for the adapter's manifest: the time, and sketches (summaries) of the teacher's collections.

        Raises PointsmanError if a call of the retriever fails.
        """
        ...


@dataclass(frozen=True, slots=True)
class TrainStep:
    """Step 2 of a retraining: trains on the data set, and waits until the new version is registered; implements `Step`.

    The retraining ends after this step if the alias already points to the resulting version.
    """

    plan: RetrainPlan
    method: RetrainMethod
    trainer: TrainingService
    registry: AliasLookup
    dates: CollectionSketches
    name: str = "train"

    async def take(self, state: RunState, note: Callable[[Facts], None]) -> StepResult:
        job = str(state.facts(self.name).get("job", ""))
        if not job:
            job = await self.trainer.start(await self._training_spec(state))
            note({"job": job})
        ended = await self.trainer.follow(job)
        if ended.state != "succeeded" or not ended.version:
            note({"job": ""})  # the next attempt starts another job
            raise CommandError(f"the training {job} {ended.state}: {ended.error or 'nothing was registered'}")
        if ended.version == await self.registry.stable(self.plan.alias):
            return StepResult(f"{ended.version}, which serves already", {}, f"{ended.version} is what serves already")
        summary = "; ".join(filter(None, (f"{ended.version} by {job}", ended.cut_short)))
        return StepResult(summary, {"version": ended.version, "cut_short": ended.cut_short})

    async def _training_spec(self, state: RunState) -> TrainingSpec:
        data = state.facts("data")
        pairs = self.method.learns_from_pairs
        left_out = EXCLUDED_FOR_PAIRS if pairs else ()
        recipe = {
            name: value for name, value in self.plan.training.items() if value is not None and name not in left_out
        }
        return TrainingSpec(
            name=self.plan.adapter,
            data=Path(data["train_file"]),
            heldout=Path(data["heldout_file"]) if data["heldout_file"] else None,
            method=self.method.name,
            parent=await self.registry.stable(self.plan.alias) if pairs else "",
            recipe={**recipe, "baseline_shots": 0},  # the next step compares with what serves now
            facts={"data_set": f"{self.plan.task}/{data['name']}", **await self.dates()},
            author=f"retrain {state.run}",
        )


@dataclass(frozen=True, slots=True)
class CollectionDates:
    """Reads sketches (small summaries) of the documents in `collections`; implements CollectionSketches.

    The sketches are stored with the adapter, so that `pointsman adapters freshness` can measure later changes of the
    documents.
    """

    retriever: str
    """The retriever's address, HOST:PORT."""
    tenant: str
    collections: Sequence[str]
    """The names of the collections that the teacher path searches."""

    async def __call__(self) -> Mapping[str, str]:
        """Returns entries for the adapter's manifest: the time as DATA_TIME_FACT, and a sketch of each collection.

        The name of a sketch's entry is MANIFEST_KEY_PREFIX and the collection's name. Raises as `fetch_sketch` does.
        """
        sketches = {name: await fetch_sketch(self.retriever, self.tenant, name) for name in self.collections}
        return {
            DATA_TIME_FACT: str(round(time.time())),
            **{MANIFEST_KEY_PREFIX + name: str(sketch) for name, sketch in sketches.items()},
        }
