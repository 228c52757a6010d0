"""The gRPC service of training jobs: converts requests and delegates to `JobQueue`."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from pointsman.v1 import training_pb2 as pb
from pointsman.v1 import training_pb2_grpc
from pointsman_servicekit.grpc_errors import Context
from pointsman_servicekit.service_tokens import author_of, method_roles

from pointsman_lora_server.jobs.job import Job, JobRequest, JobState
from pointsman_lora_server.jobs.queue import JobQueue

SERVICE = pb.DESCRIPTOR.services_by_name["Training"].full_name
DEFAULT_METHOD = "lora"

METHOD_ROLES = method_roles(SERVICE, read=["Get", "List", "Watch"], admin=["CreateJob", "Cancel"])
"""The role that a peer with a token needs for each method."""

_STATE = {
    JobState.QUEUED: pb.TRAINING_STATE_QUEUED,
    JobState.RUNNING: pb.TRAINING_STATE_RUNNING,
    JobState.SUCCEEDED: pb.TRAINING_STATE_SUCCEEDED,
    JobState.FAILED: pb.TRAINING_STATE_FAILED,
    JobState.CANCELLED: pb.TRAINING_STATE_CANCELLED,
}


class TrainingServicer(training_pb2_grpc.TrainingServicer):
    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    async def CreateJob(self, request: pb.CreateTrainingJobRequest, context: Context) -> pb.TrainingJob:
        return _to_job(await self._queue.create(_from_request(request)))

    async def Get(self, request: pb.GetTrainingJobRequest, context: Context) -> pb.TrainingJob:
        return _to_job(self._queue.get(request.id))

    async def List(self, request: pb.ListTrainingJobsRequest, context: Context) -> pb.ListTrainingJobsResponse:
        return pb.ListTrainingJobsResponse(jobs=map(_to_job, self._queue.list(request.name)))

    async def Watch(self, request: pb.WatchTrainingJobRequest, context: Context) -> AsyncIterator[pb.TrainingEvent]:
        async for number, event in self._queue.watch(request.id, getattr(request, "from")):
            yield _to_event(number, event)

    async def Cancel(self, request: pb.CancelTrainingJobRequest, context: Context) -> pb.TrainingJob:
        return _to_job(await self._queue.cancel(request.id))


def _from_request(request: pb.CreateTrainingJobRequest) -> JobRequest:
    """Converts a request to a job; recipe fields become the trainer's options, as its command line takes them."""
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


def _to_job(job: Job) -> pb.TrainingJob:
    return pb.TrainingJob(
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


def _to_event(number: int, event: dict[str, Any]) -> pb.TrainingEvent:
    facts = {name: value for name, value in event.items() if name != "event"}
    return pb.TrainingEvent(number=number, event=event["event"], facts=ParseDict(facts, Struct()))
