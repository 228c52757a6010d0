"""`pointsman eval`."""

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import CommandError, UsageError, run_interruptibly
from pointsman_cli.eval import catalogue, figures, page, plan, report, rows, running, tables
from pointsman_cli.eval.answers import AnswerFile
from pointsman_cli.eval.figures import Terms
from pointsman_cli.eval.plan import Wanted
from pointsman_cli.eval.progress import EvaluationProgress
from pointsman_cli.eval.report import Report
from pointsman_cli.eval.rows import Dataset
from pointsman_cli.gateway.http_client import open_client
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    KEY_VARIABLE,
    DataDirOption,
    KeyEnvOption,
    UrlOption,
    api_key,
    bearer,
    gateway_url,
)

_PAST_THE_CACHE = {"cache-control": "no-store"}


def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help='JSON Lines of {"text" or "messages", "output" or "facts", "task", "id"}; the last two are optional.',
        ),
    ],
    task: Annotated[str, typer.Option(help="The task of rows without one.")] = "",
    paths: Annotated[
        str, typer.Option(metavar="A,B", help="Paths to compare; default: all that can answer the row's task.")
    ] = "",
    metric: Annotated[
        str, typer.Option(help="NAME, NAME=TEXT (regex, entry_point) or judge=MODEL; default: the task's metric.")
    ] = "",
    judge_prompt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Criteria for --metric judge=MODEL.", show_default=False)
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Concurrent requests.")] = 8,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N rows.", show_default=False)
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Store the answers in this new file; default: one in the data directory.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Continue with this file of answers; failed requests are repeated.", show_default=False
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON, for `pointsman advise`.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one HTML page.")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Disagreements to show for each task.")] = 30,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Confidence level of the intervals.")] = 0.95,
    url: UrlOption = "",
    key_env: KeyEnvOption = KEY_VARIABLE,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Send a labelled data set through every path that can answer it; compare quality, latency, tokens and cost.

    Uses the running gateway and bypasses its cache. Rows, paths and metrics are checked before the first request.
    """
    if answers and resume:
        raise UsageError("--answers starts a new file and --resume continues one; give only one of them")
    read = rows.read(dataset, task, limit)
    wanted = Wanted(
        tuple(name.strip() for name in paths.split(",") if name.strip()),
        metric,
        _text(judge_prompt) if judge_prompt else "",
    )
    kept = resume or answers or _new_file(DataDir.at(data_dir), dataset)
    for file in (json_file, html_file):
        _must_be_writable(file)
    terms = Terms(concurrency, confidence, examples)
    client = open_client(gateway_url(url, data_dir), _PAST_THE_CACHE | bearer(api_key(key_env)))
    found = run_interruptibly(evaluated(client, read, wanted, kept, resume is not None, terms))
    tables.show(Console(highlight=False), found)
    if json_file:
        report.write(found, json_file)
    if html_file:
        page.write(found, html_file)


async def evaluated(
    client: httpx.AsyncClient, dataset: Dataset, wanted: Wanted, kept: Path, resume: bool, terms: Terms
) -> Report:
    """Asks, and keeps what comes in `kept`. Raises CommandError; what had come is in the file then."""
    console = Console(stderr=True, highlight=False)
    async with client:
        planned = plan.make(dataset, await catalogue.read(client), wanted, client)
        with AnswerFile(kept, planned, resume) as file:
            _say(console, f"{planned.requests} requests, {len(file.known)} answered before; answers in {kept}")
            try:
                with EvaluationProgress(console, planned.requests, len(file.known)) as progress:
                    came = await running.run(planned, client, file, terms.at_once, progress)
            except (CommandError, asyncio.CancelledError):
                _say(console, f"what was answered is kept; the same command with --resume {kept} goes on")
                raise
    return figures.report(planned, came, terms)


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False)


def _new_file(data_dir: DataDir, dataset: Path) -> Path:
    return data_dir.folder / "evaluations" / f"{dataset.stem}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {error}") from error


def _must_be_writable(file: Path | None) -> None:
    """A report that cannot be written is known before its answers are paid for."""
    if file and (not file.parent.is_dir() or file.is_dir() or not os.access(file.parent, os.W_OK)):
        raise UsageError(f"cannot write {file}: its folder is missing or not yours, or it is a folder")
