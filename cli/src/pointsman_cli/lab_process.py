"""Runs an analysis of the lab (the package `pointsman_lab`) as a child process; prints progress and report."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import prepare_embedding_model
from pointsman_cli.errors import CommandError
from pointsman_cli.options import print_json
from pointsman_cli.processes import ProcessEnd, run_to_end
from pointsman_cli.tables import print_table

LAB_MODULE = "pointsman_lab"


_PROGRESS_LINE = re.compile(r"(?P<stage>.+): (?P<done>\d+) of (?P<total>\d+)")


@dataclass(frozen=True, slots=True)
class LabJob:
    """One command of the package `pointsman_lab` to run as a child process: its arguments and environment."""

    arguments: Sequence[str]
    data_dir: DataDir
    as_json: bool
    """Whether `run_lab` prints the report as JSON instead of text and tables."""
    needs_model: bool = True
    """Whether the command needs the embedding model (text to vector), which is then created if it is missing."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the child process, in addition to those of this process."""


async def run_lab(job: LabJob) -> None:
    """Runs a command of `pointsman_lab` as a child process, shows its progress, and prints its report.

    Raises CommandError if the embedding model cannot be prepared, or the command ends with another exit code than 0. If
    it ends so because of a failed check, such as `--fail-if-changed`, the report is printed first.
    """
    report, end = await _run(job)
    if report is not None:
        _show(report, job.as_json)
    if end.code != 0:
        raise CommandError(end.reason)


async def lab_facts(job: LabJob) -> dict[str, Any]:
    """Runs a command of `pointsman_lab` as a child process, and returns its report as JSON instead of printing it.

    The keys of the report depend on the command. Shows the progress on standard error. Raises CommandError if the
    embedding model cannot be prepared, or the command fails.
    """
    report, end = await _run(job)
    if report is None or end.code != 0:
        raise CommandError(end.reason)
    facts: dict[str, Any] = report["facts"]
    return facts


async def _run(job: LabJob) -> tuple[dict[str, Any] | None, ProcessEnd]:
    """Runs the lab as a child process; returns its report (None if it printed none), and how the process ended.

    Raises CommandError if the embedding model cannot be prepared.
    """
    errors = Console(stderr=True)
    if job.needs_model:
        await prepare_embedding_model(sys.executable, job.data_dir, lambda line: errors.print(line, style="dim"))
    program = [sys.executable, "-m", LAB_MODULE, "--json", *job.arguments]
    environment = {"POINTSMAN_GATEWAY_EMBEDDING_MODEL": str(job.data_dir.embedding_model), **job.environment}
    output: list[str] = []
    with _LabProgress(errors) as progress:
        end = await run_to_end(program, environment, output.append, progress.show)
    return (json.loads(output[-1]) if output else None), end


def _show(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(report["facts"])
        return
    console = Console()
    for section in report["page"]:
        console.print(Text(section["heading"], style="bold"), soft_wrap=True)
        for line in section["lines"]:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        if section["rows"]:
            print_table(section["columns"], section["rows"])
        console.print()


@dataclass
class _LabProgress:
    """Shows the lab's progress lines ("STAGE: 3 of 10") as one bar for each stage, and prints other lines as they are.

    If the output is no terminal, it prints one line when a stage ends instead of a bar.
    """

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
