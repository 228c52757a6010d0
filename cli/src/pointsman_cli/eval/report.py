"""The report of an evaluation: its JSON file, and its tables for the terminal."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pointsman_scoring.intervals import Interval
from pydantic import TypeAdapter, ValidationError
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman_cli.errors import UsageError
from pointsman_cli.options import plain_table

VERSION = 1

_NOTHING = "-"
_SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class LatencyQuantiles:
    """The median and the 95th percentile of a path's latency, in seconds."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class EvaluatedPath:
    """The figures of one path on the rows of one task."""

    path: str
    kind: str
    """The kind of path: "prompt", "rag", "lora", "tuned" or "hybrid"."""
    adapter: str
    """The adapter as the configuration names it, such as an alias ("triage@prod"); empty if the path has none."""
    model: str
    """The base models or adapter versions that answered, separated by commas."""
    answers: int
    """Number of requests, including failed ones."""
    failures: Mapping[str, int]
    """By error code, the number of failures; each scores 0."""
    unscored: int
    """Answers without a score from the judge; they are in no mean."""
    score: Interval | None
    """The mean score, 0 to 1, with its confidence interval; None if nothing was scored."""
    well_formed: float
    """Share, 0 to 1, of all requests whose answer is neither empty nor cut off at the token limit.

    If the expected output is a JSON object, the answer must have the same keys; if it is an array, it must be one, too.
    """
    first_token: LatencyQuantiles | None
    """The time to the first token; None if no answer had one."""
    total: LatencyQuantiles | None
    """The time of the whole answer; None if no request succeeded."""
    prompt_tokens: float
    """Mean over the successful answers, as the next two fields."""
    cached_tokens: float
    completion_tokens: float
    prompt_tokens_p95: float
    """The 95th percentile over the successful answers."""
    context_window: int
    """Tokens of the context window of the path's model."""
    usd_per_1000: Mapping[str, float]
    """Dollars for 1,000 successful answers, by component: "prompt", "cached", "completion", "retrieval"."""
    judge_usd: float
    """Total cost of the judge in dollars; it is in no other figure."""
    on_front: bool
    """Whether no other path is at least as good for at most the same cost, and better in one of the two.

    False for a path without a score or cost.
    """
    fingerprint: str = ""
    """A digest of the path's configuration, prompts and examples; empty in a report of an earlier version."""
    row_scores: tuple[float | None, ...] = ()
    """The score of each row of the task, in the order of `TaskReport.row_ids`; None if the judge gave none."""
    row_usd: tuple[float | None, ...] = ()
    """Dollars for each row's answer; None if the request failed."""

    @property
    def mean(self) -> float:
        """Returns the path's mean score; 0 if nothing was scored."""
        return self.score.mean if self.score else 0.0

    @property
    def cost(self) -> float:
        """Returns the cost in dollars of 1,000 of the path's answers; 0 if no request succeeded."""
        return sum(self.usd_per_1000.values())

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class Pair:
    """The comparison of the paths `first` and `second` on the rows for which both have a score."""

    first: str
    second: str
    rows: int
    """The number of these rows."""
    difference: Interval
    """The mean score of `first` minus that of `second`."""
    p_value: float
    p_adjusted: float
    """The p-value, adjusted by Holm's method over the pairs of the task."""
    test: str
    """The test that was used: "mcnemar" or "permutation"."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often one path answered each label, for each expected label.

    Labels are the expected texts of the rows if there are only a few different ones, such as names of categories.
    """

    path: str
    field: str
    """The JSON field that holds the label; empty if the label is the whole text."""
    labels: tuple[str, ...]
    """The expected labels, in the order of the rows of `counts`."""
    answered: tuple[str, ...]
    """The names of the columns of `counts`: the labels, then "(something else)", "(no JSON)" and "(failed)" if any."""
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class PathAnswer:
    """The answer of one path to a row."""

    path: str
    score: float | None
    """The score from 0 to 1; None if the judge gave no score."""
    outcome: str
    """The outcome of the request: "ok", or an error code."""
    text: str
    """The answer, or the error's message, cut to 2,000 characters."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A row on which two paths scored differently; texts are cut to 2,000 characters."""

    row: str
    """The row's id."""
    asked: str
    expected: str
    answers: tuple[PathAnswer, ...]


@dataclass(frozen=True, slots=True)
class TaskReport:
    """The results of the rows of one task."""

    task: str
    metric: str
    """The metric's name."""
    rows: int
    paths: tuple[EvaluatedPath, ...]
    pairs: tuple[Pair, ...]
    confusions: tuple[Confusion, ...]
    disagreements: tuple[Disagreement, ...]
    """Rows on which paths scored differently, largest difference first; not all, but as many as were asked for."""
    disagreeing: int
    """The number of all rows on which two paths scored differently."""
    row_ids: tuple[str, ...] = ()
    """The ids of the rows, in the order of the data set; empty in a report of an earlier version."""
    metric_settings: Mapping[str, Any] = field(default_factory=dict)
    """The metric as in tasks.yaml, with its options."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to choose the paths for requests of several tasks, such as "auto" or "always rag", and its result."""

    name: str
    score: Interval
    usd_per_1000: float
    """Dollars for 1,000 requests."""
    auto_difference: Interval
    """The score of `auto` minus the score of this choice, on the same rows."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """The result of `auto` on requests of several tasks; all figures are weighted by the tasks' shares."""

    shares: Mapping[str, float]
    """The share of each task, by task; the sum is 1."""
    choices: tuple[Choice, ...]
    misrouted: float
    """Share of the rows that got another task than their own, or a task although they belong to none."""
    abstained: float
    """Share of the rows that got no task although they have one."""
    lost_score: float
    """By how much the mean score of all rows would be higher if rows with a wrong or missing task had taken the best
    path of their own task."""
    lost_usd_per_1000: float
    """By how many dollars 1,000 requests would be cheaper in that case; may be negative."""


@dataclass(frozen=True, slots=True)
class Report:
    """The results of an evaluation, as `pointsman eval --json` writes them."""

    version: int
    """The version of this format, VERSION."""
    dataset: str
    """The name of the data set's file."""
    sha256: str
    """The SHA-256 of the data set."""
    revision: str
    """The id of the configuration that answered."""
    at_once: int
    """The number of concurrent requests; the latencies are those under this load."""
    confidence: float
    """The confidence level of all intervals, such as 0.95."""
    tasks: tuple[TaskReport, ...]
    mixed: Mixed | None = None
    """The comparison of `pointsman eval --mixed`; None without this option."""


_SHAPE = TypeAdapter(Report)


def write_report(report: Report, file: Path) -> None:
    file.write_bytes(_SHAPE.dump_json(report, indent=2) + b"\n")


def read_report(file: Path) -> Report:
    """Reads a report that `pointsman eval --json` wrote.

    Raises UsageError if the file cannot be read, is no report, or has another version than VERSION.
    """
    try:
        report = _SHAPE.validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UsageError(f"{file} is no report of `pointsman eval --json`: {where}: {first['msg']}") from error
    if report.version != VERSION:
        raise UsageError(f"{file} is of version {report.version}; this command reads {VERSION}")
    return report


def print_report(console: Console, report: Report) -> None:
    console.print(Text(f"{report.dataset}, {report.at_once} at once, configuration {report.revision}", style="dim"))
    for task in report.tasks:
        console.print(Group(*_task_lines(task, report.confidence)))
    if report.mixed:
        console.print(Group(*_mixed_lines(report.mixed)))


def _task_lines(task: TaskReport, confidence: float) -> Iterator[RenderableType]:
    yield Text()
    yield Text(f"{task.task}: {task.rows} rows, {task.metric}; intervals of {confidence:.0%}", style="bold")
    yield _figures(task)
    yield Text(f"$ per 1,000: mean of the receipts{_training_shares(task)}", style="dim")
    for path in task.paths:
        if path.failed:
            codes = ", ".join(f"{code} {count}" for code, count in path.failures.items())
            yield Text(f"{path.path}: {path.failed} of {path.answers} failed and score 0 ({codes})", style="red")
        if path.unscored:
            yield Text(f"{path.path}: the judge could not say of {path.unscored}; they are left out", style="red")
    judged = sum(path.judge_usd for path in task.paths)
    if judged:
        yield Text(f"the judging cost {judged:.6f} dollars, which is in no figure above", style="dim")
    if task.pairs:
        yield Text()
        yield _pairs(task)


def _figures(task: TaskReport) -> Table:
    columns = ("kind", "score", "from to", "form", "TTFT\np50 p95", "total\np50 p95", "tokens\nin", "cached", "out")
    table = plain_table("path", right=(*columns, "$ per\n1,000"), gap=1)
    table.add_column("", no_wrap=True, vertical="bottom")
    for path in sorted(task.paths, key=_worse):
        table.add_row(Text(path.path), *_row(path), style="" if path.answers > path.failed else "dim")
    return table


def _training_shares(task: TaskReport) -> str:
    shares = {path.path: share for path in task.paths if (share := path.usd_per_1000.get("training"))}
    trainings = ", ".join(f"{path}'s {share:.4f}" for path, share in shares.items())
    return f"; of it for the training of adapters: {trainings}" if trainings else ""


def _mixed_lines(mixed: Mixed) -> Iterator[RenderableType]:
    yield Text()
    yield Text("mixed: " + ", ".join(f"{share:.0%} {task}" for task, share in mixed.shares.items()), style="bold")
    columns = ("score", "from to", "$ per\n1,000", "auto\nis better by", "from to")
    table = plain_table("choice", right=columns, gap=1)
    for choice in mixed.choices:
        score, difference = choice.score, choice.auto_difference
        table.add_row(
            choice.name, f"{score.mean:.3f}", f"{score.low:.2f} {score.high:.2f}", f"{choice.usd_per_1000:.4f}",
            f"{difference.mean:+.3f}", f"{difference.low:+.2f} {difference.high:+.2f}",
        )  # fmt: skip
    yield table
    yield Text(
        f"{mixed.misrouted:.1%} of the rows got a wrong task, {mixed.abstained:.1%} none; this costs "
        f"{mixed.lost_score:.3f} of the score and {mixed.lost_usd_per_1000:.4f} dollars per 1,000"
    )


def _worse(path: EvaluatedPath) -> float:
    return -path.score.mean if path.score else 1.0


def _row(path: EvaluatedPath) -> Iterator[str]:
    yield path.kind
    yield f"{path.score.mean:.3f}" if path.score else _NOTHING
    yield f"{path.score.low:.2f} {path.score.high:.2f}" if path.score else _NOTHING
    yield f"{path.well_formed:.0%}"
    yield _seconds(path.first_token)
    yield _seconds(path.total)
    yield f"{path.prompt_tokens:.0f}"
    yield f"{path.cached_tokens:.0f}"
    yield f"{path.completion_tokens:.0f}"
    yield f"{path.cost:.4f}" if path.usd_per_1000 else _NOTHING
    yield "front" if path.on_front else ""


def _seconds(quantiles: LatencyQuantiles | None) -> str:
    return f"{quantiles.p50:.2f} {quantiles.p95:.2f}" if quantiles else _NOTHING


def _pairs(task: TaskReport) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for column in ("better", "by", "from to", "than", "p", "(Holm)", ""):
        table.add_column(column, no_wrap=column not in ("better", "than"), overflow="fold")
    for pair in task.pairs:
        table.add_row(*_pair(pair))
    return table


def _pair(pair: Pair) -> Iterator[Text]:
    sign = -1 if pair.difference.mean < 0 else 1
    better, worse = (pair.first, pair.second) if sign > 0 else (pair.second, pair.first)
    low, high = sorted((sign * pair.difference.low, sign * pair.difference.high))
    yield Text(better)
    yield Text(f"{sign * pair.difference.mean:.3f}")
    yield Text(f"{low:.2f} {high:.2f}")
    yield Text(worse)
    yield Text(probability(pair.p_value))
    yield Text(probability(pair.p_adjusted))
    yield Text("" if pair.p_adjusted < _SIGNIFICANT else "may be chance", style="dim")


def probability(p_value: float) -> str:
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
