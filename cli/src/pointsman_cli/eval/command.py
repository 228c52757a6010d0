"""`pointsman eval`: runs an evaluation with a progress bar, and writes its reports."""

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import CommandError, UsageError, run_interruptibly
from pointsman_cli.eval.catalog import read_catalog
from pointsman_cli.eval.dataset import Dataset, read_dataset
from pointsman_cli.eval.html_report import write_html
from pointsman_cli.eval.mixed import check_choices
from pointsman_cli.eval.plan import Selection, make_plan
from pointsman_cli.eval.report import Report, read_report, write_report
from pointsman_cli.eval.report_tables import print_report
from pointsman_cli.eval.runner import Answer, AnswerFile, run_plan, scores_of
from pointsman_cli.eval.statistics import EvalSettings, build_report
from pointsman_cli.gateway_http import open_client, post_json
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    KEY_VARIABLE,
    DataDirOption,
    KeyEnvOption,
    UrlOption,
    api_key,
    bearer,
    gateway_url,
    table_console,
)

_PAST_THE_CACHE = {"cache-control": "no-store"}

_PLAIN_SECONDS = 10.0  # between two progress lines if there is no terminal


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
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Also let the gateway choose (auto), and compare it with fixed choices.")
    ] = False,
    shares: Annotated[
        str, typer.Option(metavar="TASK=SHARE,...", help="With --mixed: shares of the tasks; default: the data set's.")
    ] = "",
    chosen_by: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT",
            help="With --mixed: --json of other rows, by which the best path per task is chosen.",
            show_default=False,
        ),
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
    as_ratings: Annotated[
        bool, typer.Option("--as-ratings", help="Send the scores to the gateway, as ratings of the paths (best_value).")
    ] = False,
    examples: Annotated[int, typer.Option(min=0, help="Disagreements to show for each task.")] = 30,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Confidence level of the intervals.")] = 0.95,
    url: UrlOption = "",
    key_env: KeyEnvOption = KEY_VARIABLE,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Send a labelled data set through every path that can answer it; compare quality, latency, tokens and cost.

    A path is one way to answer, such as a prompt or an adapter. Uses the running gateway and bypasses its cache. Rows,
    paths and metrics are checked before the first request.
    """
    if answers and resume:
        raise UsageError("--answers starts a new file and --resume continues one; give only one of them")
    read = read_dataset(dataset, task, limit)
    wanted = Selection(
        tuple(name.strip() for name in paths.split(",") if name.strip()),
        metric,
        _text(judge_prompt) if judge_prompt else "",
        mixed,
    )
    if not mixed and (shares or chosen_by):
        raise UsageError("--shares and --chosen-by need --mixed")
    kept = resume or answers or _new_file(DataDir.at(data_dir), dataset)
    for file in (json_file, html_file):
        _must_be_writable(file)
    earlier = read_report(chosen_by) if chosen_by else None
    terms = EvalSettings(concurrency, confidence, examples, _shares(shares), earlier)
    at, headers = gateway_url(url, data_dir), _PAST_THE_CACHE | bearer(api_key(key_env))
    found = run_interruptibly(evaluated(open_client(at, headers), read, wanted, kept, resume is not None, terms))
    print_report(table_console(), found)
    if json_file:
        write_report(found, json_file)
    if html_file:
        write_html(found, html_file)
    if as_ratings:
        run_interruptibly(_send_scores(open_client(at, headers), kept))


async def _send_scores(client: httpx.AsyncClient, kept: Path) -> None:
    """Sends the scores in the file of answers `kept` to the gateway, and prints how many paths' scores are accepted.

    Raises CommandError if the file has no scores, or the gateway refuses them.
    """
    console, body = Console(stderr=True, highlight=False), scores_of(kept)
    if not body["results"]:
        raise CommandError("no answer has a score, so there is nothing to send as ratings")
    try:
        async with client:
            reply = await post_json(client, "/v1/evaluations", body)
    except CommandError as error:
        raise CommandError(
            f"the gateway did not take the scores as ratings: {error}; --resume {kept} --as-ratings sends them again"
        ) from None
    for ignored in reply["ignored"]:
        _say(console, f"{ignored['task']}: {ignored['reason']}")
    rows = sum(result["rows"] for result in body["results"])
    _say(console, f"{rows} scores sent: those of {reply['counted']} of {len(body['results'])} paths count as ratings")


async def evaluated(
    client: httpx.AsyncClient, dataset: Dataset, wanted: Selection, kept: Path, resume: bool, terms: EvalSettings
) -> Report:
    """Sends the rows of `dataset` to the paths that `wanted` selects, and returns the report; closes `client`.

    Each answer is stored in the file `kept` as it arrives; with `resume`, the successful answers in this file are used
    again. Raises UsageError before the first row is sent if the selection, the shares in `terms` or the file do not fit
    the data set; CommandError if the evaluation cannot continue.
    """
    console = Console(stderr=True, highlight=False)
    async with client:
        planned = make_plan(dataset, await read_catalog(client), wanted, client)
        check_choices(planned, terms.shares, terms.chosen_by)
        with AnswerFile(kept, planned, resume) as file:
            _say(console, f"{planned.requests} requests, {len(file.known)} answered before; answers in {kept}")
            try:
                with EvaluationProgress(console, planned.requests, len(file.known)) as progress:
                    came = await run_plan(planned, client, file, terms.at_once, progress)
            except (CommandError, asyncio.CancelledError):
                _say(console, f"what was answered is kept; the same command with --resume {kept} goes on")
                raise
    return build_report(planned, came, terms)


def _shares(text: str) -> dict[str, float]:
    found = {}
    for part in filter(None, text.split(",")):
        name, _, share = part.partition("=")
        try:
            found[name.strip()] = float(share)
        except ValueError:
            raise UsageError(f"--shares has {part!r}; it must be TASK=SHARE, such as triage=0.5") from None
        if not 0 <= found[name.strip()] < float("inf"):
            raise UsageError(f"--shares has {part!r}; a share is 0 or more")
    return found


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
    """Raises UsageError if a report could not be written to the file; does nothing if `file` is None."""
    if file and (not file.parent.is_dir() or file.is_dir() or not os.access(file.parent, os.W_OK)):
        raise UsageError(f"cannot write {file}: its folder is missing or not yours, or it is a folder")


class EvaluationProgress:
    def __init__(self, console: Console, total: int, known: int) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("asking", total=total, completed=known, now="")
        self._total, self._done = total, known
        self._failures: Counter[str] = Counter()
        self._usd = 0.0
        self._said_at = time.monotonic()

    def __enter__(self) -> "EvaluationProgress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def came(self, answer: Answer) -> None:
        self._done += 1
        self._usd += answer.cost_usd + answer.judge_usd
        if not answer.is_ok:
            self._failures[answer.outcome] += 1
        self._bar.update(self._task, advance=1, now=self._now())
        if not self._console.is_terminal and time.monotonic() - self._said_at > _PLAIN_SECONDS:
            self._said_at = time.monotonic()
            self._console.print(f"{self._done} of {self._total}, {self._now()}", highlight=False)

    def _now(self) -> str:
        failed = "".join(f", {code} {count}" for code, count in self._failures.items())
        return f"{self._usd:.6f} dollars{failed}"
