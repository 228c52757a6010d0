"""Runs `pointsman_lab`, which analyses a configuration and its request log, as a child process and shows its report."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import prepare_embedding_model
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.example import EXAMPLE_FILE, load_example
from pointsman_cli.processes import ProcessEnd, run_to_end

LAB_MODULE = "pointsman_lab"
TASKS_FILE = "tasks.yaml"

_PROGRESS_LINE = re.compile(r"(?P<stage>.+): (?P<done>\d+) of (?P<total>\d+)")


FolderArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A configuration folder, or an example folder with a pointsman.yaml.")
]
SinceOption = Annotated[
    str, typer.Option(metavar="AGE", help='How far back to read the request log, such as "30m", "24h" or "7d".')
]


@dataclass(frozen=True, slots=True)
class LabJob:
    """Arguments of a lab command, and how to show its report."""

    arguments: Sequence[str]
    data_dir: DataDir
    as_json: bool


def config_folder(folder: Path) -> Path:
    """Returns `folder` if it is a configuration, or the configuration that its pointsman.yaml names; else raises
    UsageError.
    """
    if (folder / EXAMPLE_FILE).is_file():
        return load_example(folder).config
    if (folder / TASKS_FILE).is_file():
        return folder.absolute()
    raise UsageError(f"{folder} is neither an example (no {EXAMPLE_FILE}) nor a configuration (no {TASKS_FILE})")


async def run_lab(job: LabJob) -> None:
    """Runs the lab and prints its report; raises CommandError if it fails or reports a failed check
    (`--fail-if-changed`).
    """
    report, end = await _run(job)
    if report is not None:
        _show(report, job.as_json)
    if end.code != 0:
        raise CommandError(end.reason)


async def lab_facts(job: LabJob) -> dict[str, Any]:
    """Runs the lab and returns the facts of its report without printing it; raises CommandError if it fails."""
    report, end = await _run(job)
    if report is None or end.code != 0:
        raise CommandError(end.reason)
    facts: dict[str, Any] = report["facts"]
    return facts


async def _run(job: LabJob) -> tuple[dict[str, Any] | None, ProcessEnd]:
    """Returns the report, if there is one, and how the process ended."""
    errors = Console(stderr=True)
    await prepare_embedding_model(sys.executable, job.data_dir, lambda line: errors.print(line, style="dim"))
    program = [sys.executable, "-m", LAB_MODULE, "--json", *job.arguments]
    environment = {"POINTSMAN_GATEWAY_EMBEDDING_MODEL": str(job.data_dir.embedding_model)}
    output: list[str] = []
    with _LabProgress(errors) as progress:
        end = await run_to_end(program, environment, output.append, progress.show)
    return (json.loads(output[-1]) if output else None), end


def _show(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report["facts"], indent=2, ensure_ascii=False))
        return
    console = Console()
    for section in report["page"]:
        console.print(Text(section["heading"], style="bold"))
        for line in section["lines"]:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        if section["rows"]:
            console.print(_table(section["columns"], section["rows"]))
        console.print()


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


@dataclass
class _LabProgress:
    """One progress bar for each stage; without a terminal, one line for each finished stage."""

    console: Console
    _tasks: dict[str, TaskID] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> "_LabProgress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, line: str) -> None:
        match = _PROGRESS_LINE.fullmatch(line)
        if match is None:
            self._print(line)
            return
        done, total = int(match["done"]), int(match["total"])
        if self._bars.disable:
            if done == total:
                self._print(line)
            return
        if match["stage"] not in self._tasks:
            self._tasks[match["stage"]] = self._bars.add_task(match["stage"], total=total)
        self._bars.update(self._tasks[match["stage"]], completed=done, total=total)

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
