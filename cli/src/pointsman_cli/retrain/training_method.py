"""Asks the lora-server for the properties of a training method that a retraining depends on."""

from dataclasses import dataclass

from pointsman.v1 import training_pb2

from pointsman_cli.errors import UsageError
from pointsman_cli.jobs import DESCRIBE_SECONDS, call_training


@dataclass(frozen=True, slots=True)
class RetrainMethod:
    """A training method by name, and whether it learns from preference pairs instead of from conversations."""

    name: str
    learns_from_pairs: bool = False
    """Whether the method learns from pairs of a preferred and a rejected answer, instead of from conversations."""


async def fetch_method(address: str, name: str) -> RetrainMethod:
    """Asks the lora-server at `address` (HOST:PORT) for the training method `name`.

    Raises UsageError if an engine cannot serve the method's result as an adapter, and PointsmanError if the method is
    unknown or the call fails.
    """
    request = training_pb2.DescribeTrainingMethodRequest(name=name)
    found = await call_training(address, lambda server: server.DescribeMethod(request, timeout=DESCRIBE_SECONDS))
    if found.must_be_merged:
        raise UsageError(f"the result of --method {name} is a whole model; a retraining needs one that is an adapter")
    return RetrainMethod(name, found.learns_from_pairs)
