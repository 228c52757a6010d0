"""Questions to the lora-server about its training jobs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.json_format import MessageToDict
from pointsman.v1 import training_pb2 as pb
from pointsman.v1 import training_pb2_grpc

from pointsman_cli import stubs
from pointsman_cli.channels import open_channel
from pointsman_cli.errors import Misused

SECONDS = 60.0
"""Files of the job are copied, or it is stopped, within it."""

STATE_NAMES = {
    pb.TRAINING_STATE_QUEUED: "queued",
    pb.TRAINING_STATE_RUNNING: "running",
    pb.TRAINING_STATE_SUCCEEDED: "succeeded",
    pb.TRAINING_STATE_FAILED: "failed",
    pb.TRAINING_STATE_CANCELLED: "cancelled",
}


async def ask(address: str, question: Callable[[Any], Awaitable[Any]]) -> Any:
    """`question` gets the stub. Raises a `PointsmanError` with the lora-server's own words where it refuses."""
    check(address)
    async with open_channel(address) as channel:
        with stubs.speaking_to("lora-server"):
            return await question(training_pb2_grpc.TrainingStub(channel))


async def watch(address: str, job: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Events with their facts, to the job's end."""
    check(address)
    async with open_channel(address) as channel:
        with stubs.speaking_to("lora-server"):
            async for event in training_pb2_grpc.TrainingStub(channel).Watch(pb.WatchTrainingJobRequest(id=job)):
                yield event.event, MessageToDict(event.facts)


def check(address: str) -> None:
    if not address:
        raise Misused("there is no lora-server: nothing runs here, and no --lora-server was given")
