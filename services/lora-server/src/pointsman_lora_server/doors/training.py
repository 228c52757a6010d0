"""The gRPC door of training jobs: converts, and hands on."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from pointsman.v1 import training_pb2 as pb
from pointsman.v1 import training_pb2_grpc
from pointsman_servicekit.errors import InvalidArgument
from pointsman_servicekit.grpc_errors import Context

from pointsman_lora_server.jobs.job import Job, Order, State
from pointsman_lora_server.jobs.line import Line

SERVICE = pb.DESCRIPTOR.services_by_name["Training"].full_name

_METHODS = {
    pb.TRAINING_METHOD_UNSPECIFIED: "lora",
    pb.TRAINING_METHOD_LORA: "lora",
    pb.TRAINING_METHOD_RSLORA: "rslora",
    pb.TRAINING_METHOD_DORA: "dora",
    pb.TRAINING_METHOD_QLORA: "qlora",
    pb.TRAINING_METHOD_DPO: "dpo",
}
_METHOD = {name: method for method, name in _METHODS.items()}
_STATE = {
    State.QUEUED: pb.TRAINING_STATE_QUEUED,
    State.RUNNING: pb.TRAINING_STATE_RUNNING,
    State.SUCCEEDED: pb.TRAINING_STATE_SUCCEEDED,
    State.FAILED: pb.TRAINING_STATE_FAILED,
    State.CANCELLED: pb.TRAINING_STATE_CANCELLED,
}


class TrainingServicer(training_pb2_grpc.TrainingServicer):
    def __init__(self, line: Line) -> None:
        self._line = line

    async def CreateJob(self, request: pb.CreateTrainingJobRequest, context: Context) -> pb.TrainingJob:
        return _job(await self._line.start(_order(request)))

    async def Get(self, request: pb.GetTrainingJobRequest, context: Context) -> pb.TrainingJob:
        return _job(self._line.get(request.id))

    async def List(self, request: pb.ListTrainingJobsRequest, context: Context) -> pb.ListTrainingJobsResponse:
        return pb.ListTrainingJobsResponse(jobs=map(_job, self._line.list(request.name)))

    async def Watch(self, request: pb.WatchTrainingJobRequest, context: Context) -> AsyncIterator[pb.TrainingEvent]:
        async for number, event in self._line.watch(request.id, getattr(request, "from")):
            yield _event(number, event)

    async def Cancel(self, request: pb.CancelTrainingJobRequest, context: Context) -> pb.TrainingJob:
        return _job(await self._line.cancel(request.id))


def _order(request: pb.CreateTrainingJobRequest) -> Order:
    """Raises InvalidArgument where a newer client asks for what we do not know."""
    if request.method not in _METHODS:
        raise InvalidArgument(f"method {request.method} is not known here", code="bad_method", param="method")
    options = {field.name.replace("_", "-"): _number(value) for field, value in request.recipe.ListFields()}
    return Order(
        name=request.name,
        data=Path(request.data),
        heldout=Path(request.heldout) if request.heldout else None,
        system=Path(request.system) if request.system else None,
        method=_METHODS[request.method],
        parent=request.parent,
        word=request.alias,
        force=request.force,
        author=request.author,
        options=options,
        facts=dict(request.facts),
    )


def _number(value: float) -> str:
    """As the trainer's command line takes it."""
    return repr(value)


def _job(job: Job) -> pb.TrainingJob:
    return pb.TrainingJob(
        id=job.id,
        name=job.order.name,
        method=_METHOD[job.order.method],
        state=_STATE[job.state],
        error=job.error,
        resumed=job.resumed,
        created_unix_ms=job.created_unix_ms,
        started_unix_ms=job.started_unix_ms,
        ended_unix_ms=job.ended_unix_ms,
        version=job.version,
        merged=job.merged,
        author=job.order.author,
    )


def _event(number: int, event: dict[str, Any]) -> pb.TrainingEvent:
    facts = {name: value for name, value in event.items() if name != "event"}
    return pb.TrainingEvent(number=number, event=event["event"], facts=ParseDict(facts, Struct()))
