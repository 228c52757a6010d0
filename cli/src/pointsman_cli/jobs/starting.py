"""Puts a training in line at the lora-server, and follows it."""

from dataclasses import dataclass

from pointsman.v1 import training_pb2 as pb
from rich.console import Console

from pointsman_cli.jobs import calls
from pointsman_cli.jobs.watching import follow
from pointsman_cli.train.job import Job


@dataclass(frozen=True, slots=True)
class Order:
    job: Job
    parent: str
    alias: str
    force: bool


async def start(address: str, order: Order, console: Console, *, watched: bool) -> None:
    """The job goes on when this is interrupted. Raises `CommandError` where it fails while it is watched."""
    started = await calls.ask(address, lambda server: server.CreateJob(request(order), timeout=calls.SECONDS))
    console.print(started.id, markup=False, highlight=False)
    if watched:
        await follow(address, started.id, order.job.name, console)


def request(order: Order) -> pb.CreateTrainingJobRequest:
    job = order.job
    recipe = {name.replace("-", "_"): value for name, value in job.options.items() if value is not None}
    return pb.CreateTrainingJobRequest(
        name=job.name,
        data=str(job.data.absolute()),
        heldout=str(job.heldout.absolute()) if job.heldout else "",
        system=str(job.system.absolute()) if job.system else "",
        method=job.method,
        parent=order.parent,
        alias=order.alias,
        force=order.force,
        recipe=pb.TrainingRecipe(**recipe),  # type: ignore[arg-type]  # by name; the message checks them
    )
