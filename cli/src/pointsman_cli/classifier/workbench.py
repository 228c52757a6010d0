"""Runs the gateway's workbench as a child process, shows how far it is and then what it found."""

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

from pointsman_cli import example, models
from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import CommandError, Misused
from pointsman_cli.processes import Ended, run_to_end

MODULE = "pointsman_lab"
TASKS = "tasks.yaml"

_PROGRESS = re.compile(r"(?P<what>.+): (?P<done>\d+) of (?P<total>\d+)")


FolderArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A configuration folder, or an example folder with a pointsman.yaml.")
]
SinceOption = Annotated[
    str, typer.Option(metavar="AGE", help='How far back to read the request log, such as "30m", "24h" or "7d".')
]


@dataclass(frozen=True, slots=True)
class Job:
    arguments: Sequence[str]
    data_dir: DataDir
    as_json: bool


def config_folder(folder: Path) -> Path:
    """The configuration that `folder` is, or that its pointsman.yaml names."""
    if (folder / example.FILE).is_file():
        return example.load(folder).config
    if (folder / TASKS).is_file():
        return folder.absolute()
    raise Misused(f"{folder} is neither an example (no {example.FILE}) nor a configuration (no {TASKS})")


async def run(job: Job) -> None:
    """Shows what was found. Raises CommandError where it failed, or found what was asked to fail for."""
    found, ended = await _found(job)
    if found is not None:
        _show(found, job.as_json)
    if ended.code != 0:
        raise CommandError(ended.how)


async def facts_of(job: Job) -> dict[str, Any]:
    """What was found, shown to nobody. Raises CommandError where it failed."""
    found, ended = await _found(job)
    if found is None or ended.code != 0:
        raise CommandError(ended.how)
    facts: dict[str, Any] = found["facts"]
    return facts


async def _found(job: Job) -> tuple[dict[str, Any] | None, Ended]:
    """The report, where there is one, and how it ended."""
    errors = Console(stderr=True)
    await models.prepare_embedding_model(sys.executable, job.data_dir, lambda line: errors.print(line, style="dim"))
    program = [sys.executable, "-m", MODULE, "--json", *job.arguments]
    environment = {"POINTSMAN_GATEWAY_EMBEDDING_MODEL": str(job.data_dir.embedding_model)}
    found: list[str] = []
    with _Screen(errors) as screen:
        ended = await run_to_end(program, environment, found.append, screen.show)
    return (json.loads(found[-1]) if found else None), ended


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
class _Screen:
    """A bar for each thing that is being done; where there is no terminal, a line for each that is done."""

    console: Console
    _tasks: dict[str, TaskID] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> "_Screen":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, line: str) -> None:
        at = _PROGRESS.fullmatch(line)
        if at is None:
            self._say(line)
            return
        done, total = int(at["done"]), int(at["total"])
        if self._bars.disable:
            if done == total:
                self._say(line)
            return
        if at["what"] not in self._tasks:
            self._tasks[at["what"]] = self._bars.add_task(at["what"], total=total)
        self._bars.update(self._tasks[at["what"]], completed=done, total=total)

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
