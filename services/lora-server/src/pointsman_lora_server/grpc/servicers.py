"""The gRPC services for adapters and for training jobs. They convert requests, and delegate to `AdapterService` and
`JobQueue`.
"""

from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc, training_pb2, training_pb2_grpc
from pointsman_servicekit.grpc_errors import Context
from pointsman_servicekit.service_tokens import author_of, method_roles

from pointsman_lora_server.adapters.service import AdapterService
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.grpc import messages
from pointsman_lora_server.grpc.messages import to_alias, to_change, to_placement, to_version
from pointsman_lora_server.jobs.job import Job, JobRequest, JobState
from pointsman_lora_server.jobs.queue import JobQueue

ADAPTERS = pb.DESCRIPTOR.services_by_name["LoraServer"].full_name
TRAINING = training_pb2.DESCRIPTOR.services_by_name["Training"].full_name
DEFAULT_METHOD = "lora"

METHOD_ROLES = {
    **method_roles(
        ADAPTERS,
        read=["List", "Get", "History", "Watch"],
        write=["EnsureLoaded", "ReportCanaryMetrics"],
        admin=["Register", "SetAlias", "SetCanary", "Rollback", "Pin", "SetPlacement", "Retire", "Delete"],
    ),
    **method_roles(TRAINING, read=["Get", "List", "Watch", "DescribeMethod"], admin=["CreateJob", "Cancel"]),
}
"""gRPC method -> the role (read, write or admin) that a client with a service token needs to call it."""

_STATE = {
    JobState.QUEUED: training_pb2.TRAINING_STATE_QUEUED,
    JobState.RUNNING: training_pb2.TRAINING_STATE_RUNNING,
    JobState.SUCCEEDED: training_pb2.TRAINING_STATE_SUCCEEDED,
    JobState.FAILED: training_pb2.TRAINING_STATE_FAILED,
    JobState.CANCELLED: training_pb2.TRAINING_STATE_CANCELLED,
}


class LoraServerServicer(lora_server_pb2_grpc.LoraServerServicer):
    def __init__(
        self, service: AdapterService, engine_state: EngineStateStore, identity: messages.EngineIdentity
    ) -> None:
        self._service = service
        self._engine_state = engine_state
        self._states = messages.StateMessages(identity)

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.AdapterVersion:
        messages.check_register(request)
        return to_version(
            await self._service.register(
                request.name,
                request.folder,
                alias_suffix=request.alias,
                facts=dict(request.facts),
                parent=request.parent,
                author=author_of(request.author),
                force=request.force,
            )
        )

    async def List(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:
        messages.check_filter(request.name)
        listing = await self._service.list(request.name)
        return pb.ListAdaptersResponse(
            versions=map(to_version, listing.versions),
            aliases=[to_alias(alias, await self._service.count_canary_requests(alias)) for alias in listing.aliases],
            placements=[to_placement(name, placement) for name, placement in listing.placements.items()],
        )

    async def Get(self, request: pb.GetAdapterRequest, context: Context) -> pb.AdapterVersion:
        messages.check_version_or_alias(request.version)
        return to_version(await self._service.get(request.version))

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.Alias:
        messages.check_author(request.author)
        return to_alias(
            await self._service.set_alias(
                request.alias, request.version, request.expected_version, author_of(request.author), request.force
            )
        )

    async def SetCanary(self, request: pb.SetCanaryRequest, context: Context) -> pb.Alias:
        messages.check_canary(request)
        terms = messages.from_terms(request.terms)
        return to_alias(
            await self._service.set_canary(
                request.alias,
                request.version,
                request.weight,
                terms,
                author=author_of(request.author),
                expected=request.expected_version,
                force=request.force,
            )
        )

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.Alias:
        messages.check_rollback(request)
        return to_alias(
            await self._service.roll_back(
                request.alias, request.expected_version, author_of(request.author), request.reason
            )
        )

    async def Pin(self, request: pb.PinRequest, context: Context) -> pb.AdapterVersion:
        messages.check_author(request.author)
        return to_version(await self._service.pin(request.version, request.pinned, author_of(request.author)))

    async def SetPlacement(self, request: pb.SetPlacementRequest, context: Context) -> pb.Placement:
        messages.check_author(request.author)
        placement = messages.from_placement(request.placement)
        expected = messages.from_placement(request.expected) if request.HasField("expected") else None
        await self._service.set_placement(request.placement.name, placement, expected, author_of(request.author))
        return to_placement(request.placement.name, placement)

    async def Retire(self, request: pb.RetireRequest, context: Context) -> pb.AdapterVersion:
        messages.check_author(request.author)
        return to_version(await self._service.retire(request.version, author_of(request.author), request.reason))

    async def Delete(self, request: pb.DeleteAdapterRequest, context: Context) -> pb.DeleteAdapterResponse:
        messages.check_author(request.author)
        await self._service.delete(request.version, author_of(request.author))
        return pb.DeleteAdapterResponse()

    async def History(self, request: pb.HistoryRequest, context: Context) -> pb.HistoryResponse:
        messages.check_filter(request.name)
        changes = await self._service.history(request.name, messages.history_limit(request.limit))
        return pb.HistoryResponse(changes=map(to_change, changes))

    async def EnsureLoaded(self, request: pb.EnsureLoadedRequest, context: Context) -> pb.EngineState:
        state = await self._service.ensure_loaded(request.version)
        return self._states.get(state, frozenset({request.version}) if request.changes else None)

    async def ReportCanaryMetrics(
        self, request: pb.ReportCanaryMetricsRequest, context: Context
    ) -> pb.ReportCanaryMetricsResponse:
        await self._service.report_canary_metrics(messages.from_outcomes(request.outcomes))
        return pb.ReportCanaryMetricsResponse()

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.EngineState]:
        async for state, changed in self._engine_state.watch_changes():
            yield self._states.get(state, changed if request.changes else None)


class TrainingServicer(training_pb2_grpc.TrainingServicer):
    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    async def CreateJob(
        self, request: training_pb2.CreateTrainingJobRequest, context: Context
    ) -> training_pb2.TrainingJob:
        return _to_job(await self._queue.create(_from_request(request)))

    async def Get(self, request: training_pb2.GetTrainingJobRequest, context: Context) -> training_pb2.TrainingJob:
        return _to_job(self._queue.get(request.id))

    async def List(
        self, request: training_pb2.ListTrainingJobsRequest, context: Context
    ) -> training_pb2.ListTrainingJobsResponse:
        return training_pb2.ListTrainingJobsResponse(jobs=map(_to_job, self._queue.list(request.name)))

    async def Watch(
        self, request: training_pb2.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[training_pb2.TrainingEvent]:
        async for number, event in self._queue.watch(request.id, getattr(request, "from")):
            yield _to_event(number, event)

    async def Cancel(
        self, request: training_pb2.CancelTrainingJobRequest, context: Context
    ) -> training_pb2.TrainingJob:
        return _to_job(await self._queue.cancel(request.id))

    async def DescribeMethod(
        self, request: training_pb2.DescribeTrainingMethodRequest, context: Context
    ) -> training_pb2.TrainingMethod:
        name = request.name or DEFAULT_METHOD
        return training_pb2.TrainingMethod(name=name, **asdict(await self._queue.describe_method(name)))


def _from_request(request: training_pb2.CreateTrainingJobRequest) -> JobRequest:
    """Converts a request to a `JobRequest`, with `DEFAULT_METHOD` if it names no training method.

    Fields of the request's recipe that are set become options of the trainer: max_minutes = 5 becomes {"max-minutes":
    "5.0"}.
    """
    options = {field.name.replace("_", "-"): repr(value) for field, value in request.recipe.ListFields()}
    return JobRequest(
        name=request.name,
        data=Path(request.data),
        heldout=Path(request.heldout) if request.heldout else None,
        system=Path(request.system) if request.system else None,
        method=request.method or DEFAULT_METHOD,
        parent=request.parent,
        alias_suffix=request.alias,
        force=request.force,
        author=author_of(request.author),
        options=options,
        facts=dict(request.facts),
    )


def _to_job(job: Job) -> training_pb2.TrainingJob:
    return training_pb2.TrainingJob(
        id=job.id,
        name=job.request.name,
        method=job.request.method,
        state=_STATE[job.state],
        error=job.error,
        resumed=job.resumed,
        created_unix_ms=job.created_unix_ms,
        started_unix_ms=job.started_unix_ms,
        ended_unix_ms=job.ended_unix_ms,
        version=job.version,
        merged=job.merged,
        author=job.request.author,
    )


def _to_event(number: int, event: dict[str, Any]) -> training_pb2.TrainingEvent:
    facts = {name: value for name, value in event.items() if name != "event"}
    return training_pb2.TrainingEvent(number=number, event=event["event"], facts=ParseDict(facts, Struct()))
