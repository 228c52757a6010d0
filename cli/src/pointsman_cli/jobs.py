"""`pointsman jobs`: lists, follows and cancels training jobs, which `pointsman train` starts."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from pointsman.v1 import training_pb2 as pb
from rich.console import Console

from pointsman_cli.data_dir import find_run
from pointsman_cli.errors import CommandError, UsageError, run_interruptibly
from pointsman_cli.grpc_clients import open_channel, service_errors, training_stub
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, RunningLoraServerOption
from pointsman_cli.tables import print_table
from pointsman_cli.train.kubernetes_job import cancel_training, follow_training
from pointsman_cli.train.options import TrainingJob
from pointsman_cli.train.progress import Message, TrainingProgress, to_event

TRAINING_CALL_SECONDS = 60.0
"""Timeout in seconds of a call of the training service, except DescribeMethod.

CreateJob copies the job's files, and Cancel waits for the job's process to stop.
"""
DESCRIBE_SECONDS = 70.0
"""Timeout in seconds of DescribeMethod, which describes a training method's options and may import torch.

The lora-server's own timeout is a little shorter.
"""
STATE_NAMES = {number: name.removeprefix("TRAINING_STATE_").lower() for name, number in pb.TrainingState.items()}

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as `train` or `jobs list` shows it.")]
KubernetesOption = Annotated[
    bool, typer.Option("--kubernetes", help="The job is one of `train --on-kubernetes`, in the kubeconfig's namespace.")
]


async def call_training(address: str, call: Callable[[Any], Awaitable[Any]]) -> Any:
    """Awaits `call` with a stub of the training service of the lora-server at `address`, and returns the result.

    Raises a PointsmanError as `service_errors` does, UsageError if the address is empty, or CommandError as
    `open_channel` does.
    """
    _require_address(address)
    async with open_channel(address) as channel:
        with service_errors("lora-server"):
            return await call(training_stub(channel))


async def training_events(address: str, job: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yields the kind (such as "step") and the fields of each event of the training job with id `job`.

    Begins with the first event of the job, and ends when the job ends or the lora-server stops. `to_event` converts the
    fields to objects. Raises a PointsmanError, UsageError or CommandError as `call_training` does.
    """
    _require_address(address)
    async with open_channel(address) as channel:
        with service_errors("lora-server"):
            async for event in training_stub(channel).Watch(pb.WatchTrainingJobRequest(id=job)):
                yield event.event, MessageToDict(event.facts)


def _require_address(address: str) -> None:
    if not address:
        raise UsageError(
            "there is no lora-server: nothing runs here; start it with `pointsman up EXAMPLE_FOLDER`, or name its "
            "address with --lora-server"
        )


@dataclass(frozen=True, slots=True)
class TrainingOrder:
    """A training job to start on the lora-server, the version it starts from, and the alias to move to its result."""

    job: TrainingJob
    init_from: str
    """The adapter version from which the training starts; empty if from none."""
    alias: str
    """The alias, such as "triage@prod", that the lora-server moves to the new version; empty: none."""
    force: bool
    """Whether to move the alias even if the evaluation found that prompting the base model is as good."""


async def start_job(address: str, order: TrainingOrder, console: Console, *, watched: bool) -> None:
    """Queues a training job and prints its id; with `watched`, then shows its progress until it ends.

    The job continues if this call is interrupted. Raises a PointsmanError, UsageError or CommandError as
    `call_training` does; with `watched`, also CommandError if the job fails or is cancelled.
    """
    started = await call_training(
        address, lambda server: server.CreateJob(training_request(order), timeout=TRAINING_CALL_SECONDS)
    )
    console.print(started.id, markup=False, highlight=False)
    if watched:
        await follow_job(address, started.id, order.job.name, console)


def training_request(order: TrainingOrder) -> pb.CreateTrainingJobRequest:
    job = order.job
    recipe = {name.replace("-", "_"): value for name, value in job.options.items() if value is not None}
    return pb.CreateTrainingJobRequest(
        name=job.name,
        data=str(job.data.absolute()),
        heldout=str(job.heldout.absolute()) if job.heldout else "",
        system=str(job.system.absolute()) if job.system else "",
        method=job.method,
        parent=order.init_from,
        alias=order.alias,
        force=order.force,
        recipe=pb.TrainingRecipe(**recipe),  # type: ignore[arg-type]  # by field name; protobuf checks them
    )


async def follow_job(address: str, job: str, name: str, console: Console) -> None:
    """Shows the progress of the job with id `job` until it ends; `name` is the label of the progress bar.

    Raises CommandError if the job fails or is cancelled, or if the lora-server stops; otherwise raises as
    `call_training` does.
    """
    with TrainingProgress(console, name) as progress:
        async for kind, facts in training_events(address, job):
            progress.show(to_event(kind, facts) or Message(f"{kind}: {facts}"))
    if progress.state is None or progress.state.state in ("queued", "running"):
        raise CommandError(f"the lora-server stopped; {job} continues when it is back: `pointsman jobs watch {job}`")
    if progress.state.state != "succeeded":
        raise CommandError(f"{job} {progress.state.state}: {progress.state.facts.get('error', 'it was stopped')}")


def build_app() -> typer.Typer:
    app = typer.Typer(
        help="List, follow and cancel training jobs of the lora-server. `train --on-server` starts one.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command("list")(list_jobs)
    for command in (watch, cancel):
        app.command()(command)
    return app


def list_jobs(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Only jobs of this adapter.")] = "",
    lora_server: RunningLoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """List the training jobs, newest first."""
    request = pb.ListTrainingJobsRequest(name=name)
    response = _call(lora_server, data_dir, lambda server: server.List(request, timeout=TRAINING_CALL_SECONDS))
    rows = [(job.id, job.method, _state(job), _time(job), _result(job)) for job in response.jobs]
    print_table(("job", "method", "state", "started", "result"), rows)


def watch(
    job: JobArgument,
    kubernetes: KubernetesOption = False,
    lora_server: RunningLoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show all progress of a training job until it ends. Ctrl-C does not stop the job.

    With --kubernetes and --lora-server, then registers the adapter that the job has trained.
    """
    if kubernetes:
        run_interruptibly(follow_training(job, lora_server, Console()))
        return
    run_interruptibly(follow_job(_address(lora_server, data_dir), job, job, Console()))


def cancel(
    job: JobArgument,
    kubernetes: KubernetesOption = False,
    lora_server: RunningLoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Stop a training job; what it has trained so far is lost."""
    if kubernetes:
        run_interruptibly(cancel_training(job))
        typer.echo(f"{job} is deleted once its pods have stopped")
        return
    request = pb.CancelTrainingJobRequest(id=job)
    response = _call(lora_server, data_dir, lambda server: server.Cancel(request, timeout=TRAINING_CALL_SECONDS))
    typer.echo(f"{response.id} {_state(response)}")


def _call(lora_server: str, data_dir: Path, call: Callable[[Any], Awaitable[Any]]) -> Any:
    return run_interruptibly(call_training(_address(lora_server, data_dir), call))


def _address(named: str, data_dir: Path) -> str:
    running = find_run(data_dir)
    return named or (running.lora_server if running else "")


def _state(job: pb.TrainingJob) -> str:
    state = STATE_NAMES.get(job.state, "?")
    return f"{state}, resumed {job.resumed} times" if job.resumed else state


def _time(job: pb.TrainingJob) -> str:
    if not job.started_unix_ms:
        return "-"
    return datetime.fromtimestamp(job.started_unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _result(job: pb.TrainingJob) -> str:
    return job.version or job.merged or job.error.partition("\n")[0]
