"""The lora-server's training, alias and canary methods, as the steps use them."""

from collections.abc import Callable

from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import training_pb2

from pointsman_cli.grpc_clients import CALL_SECONDS, LOAD_SECONDS, call_lora_server, fetch_adapters
from pointsman_cli.jobs import METHODS, STATE_NAMES, TRAINING_CALL_SECONDS, call_training, training_events
from pointsman_cli.retrain.plan import CanaryTerms
from pointsman_cli.retrain.rollout_steps import AliasState
from pointsman_cli.retrain.train_step import TrainingResult, TrainingSpec

MIN_CANARY_REQUESTS = 20
"""The lora-server's default number of requests per version before it compares a canary."""


class Registry:
    """Aliases and versions; every method raises PointsmanError on failure."""

    def __init__(self, address: str, author: str) -> None:
        self._address = address
        self._author = author

    async def standing(self, alias: str) -> AliasState | None:
        found = await fetch_adapters(self._address, alias.partition("@")[0])
        for one in found.aliases:
            if one.alias == alias:
                return AliasState(one.version, one.canary_version, one.canary_requests)
        return None

    async def stable(self, alias: str) -> str:
        standing = await self.standing(alias)
        return standing.stable if standing else ""

    async def set_canary(self, alias: str, version: str, terms: CanaryTerms, expected: str) -> None:
        request = pb.SetCanaryRequest(
            alias=alias,
            version=version,
            weight=terms.weight,
            terms=pb.CanaryTerms(min_requests=min(MIN_CANARY_REQUESTS, terms.least_requests)),
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
    """Training jobs; every method raises PointsmanError on failure."""

    def __init__(self, address: str, tell: Callable[[str, dict[str, object]], None]) -> None:
        """`tell` gets every event of a job with its facts."""
        self._address = address
        self._tell = tell

    async def start(self, lesson: TrainingSpec) -> str:
        begun = await self._begun(lesson)
        if begun:
            return begun
        request = training_pb2.CreateTrainingJobRequest(
            name=lesson.name,
            data=str(lesson.data.absolute()),
            heldout=str(lesson.heldout.absolute()) if lesson.heldout else "",
            method=METHODS[lesson.method],
            parent=lesson.parent,
            author=lesson.author,
            recipe=training_pb2.TrainingRecipe(**lesson.recipe),
            facts=lesson.facts,
        )
        job = await call_training(
            self._address, lambda server: server.CreateJob(request, timeout=TRAINING_CALL_SECONDS)
        )
        return str(job.id)

    async def _begun(self, lesson: TrainingSpec) -> str:
        """Finds a job that this run started before it was killed; the job's author names the run."""
        request = training_pb2.ListTrainingJobsRequest(name=lesson.name)
        found = await call_training(self._address, lambda server: server.List(request, timeout=TRAINING_CALL_SECONDS))
        failed = (training_pb2.TRAINING_STATE_FAILED, training_pb2.TRAINING_STATE_CANCELLED)
        mine = (job for job in found.jobs if job.author == lesson.author and job.state not in failed)
        return next((str(job.id) for job in mine), "")

    async def follow(self, job: str) -> TrainingResult:
        """Waits for the end of a job."""
        async for kind, facts in training_events(self._address, job):
            self._tell(kind, facts)
        request = training_pb2.GetTrainingJobRequest(id=job)
        found = await call_training(self._address, lambda server: server.Get(request, timeout=TRAINING_CALL_SECONDS))
        return TrainingResult(STATE_NAMES.get(found.state, "?"), found.version, found.error)
