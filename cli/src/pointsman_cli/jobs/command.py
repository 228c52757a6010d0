"""`pointsman jobs`: list, watch, cancel; `pointsman train --on-server` starts one."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pointsman.v1 import training_pb2 as pb
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pointsman_cli import run_file
from pointsman_cli.data_dir import DataDir
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.jobs import calls
from pointsman_cli.jobs.watching import follow
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, RunningLoraServerOption

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as `jobs list` shows it.")]


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
    """List the jobs, newest first."""
    request = pb.ListTrainingJobsRequest(name=name)
    found = _ask(lora_server, data_dir, lambda server: server.List(request, timeout=calls.SECONDS))
    table = Table("job", "method", "state", "started", "result", box=None, pad_edge=False)
    for job in found.jobs:
        cells = (job.id, job.method, _state(job), _time(job), _result(job))
        table.add_row(*map(Text, cells))
    Console(width=None if Console().is_terminal else 200).print(table)


def watch(
    job: JobArgument, lora_server: RunningLoraServerOption = "", data_dir: DataDirOption = DEFAULT_DATA_DIR
) -> None:
    """Show all progress of a job until it ends. Ctrl-C does not stop the job."""
    run_interruptibly(follow(_address(lora_server, data_dir), job, job, Console()))


def cancel(
    job: JobArgument, lora_server: RunningLoraServerOption = "", data_dir: DataDirOption = DEFAULT_DATA_DIR
) -> None:
    """Stop a job; its progress is lost."""
    request = pb.CancelTrainingJobRequest(id=job)
    found = _ask(lora_server, data_dir, lambda server: server.Cancel(request, timeout=calls.SECONDS))
    typer.echo(f"{found.id} {_state(found)}")


def _ask(lora_server: str, data_dir: Path, question: Callable[[Any], Awaitable[Any]]) -> Any:
    return run_interruptibly(calls.ask(_address(lora_server, data_dir), question))


def _address(named: str, data_dir: Path) -> str:
    running = run_file.read(DataDir.at(data_dir).run_file)
    return named or (running.lora_server if running else "")


def _state(job: pb.TrainingJob) -> str:
    state = calls.STATE_NAMES.get(job.state, "?")
    return f"{state}, resumed {job.resumed} times" if job.resumed else state


def _time(job: pb.TrainingJob) -> str:
    if not job.started_unix_ms:
        return "in line"
    return datetime.fromtimestamp(job.started_unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _result(job: pb.TrainingJob) -> str:
    return job.version or job.merged or job.error.partition("\n")[0]
