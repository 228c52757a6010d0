"""The report of an evaluation (`pointsman eval`), and the function that reads it from its JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pointsman_scoring.intervals import Interval
from pydantic import TypeAdapter, ValidationError

from pointsman_cli.errors import UsageError

VERSION = 1


@dataclass(frozen=True, slots=True)
class LatencyQuantiles:
    """The median and the 95th percentile of a path's latency, in seconds."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class EvaluatedPath:
    """The results of one path on the rows of one task: scores, latencies in seconds, tokens and cost in dollars."""

    path: str
    kind: str
    """The kind of path: "prompt", "rag", "lora", "tuned" or "hybrid"."""
    adapter: str
    """The adapter as the configuration names it, such as an alias ("triage@prod"); empty if the path has none."""
    model: str
    """The base models or adapter versions that answered, separated by commas."""
    answers: int
    """The number of requests that were sent to the path, including failed ones."""
    failures: Mapping[str, int]
    """The number of failed requests by error code; each failed request scores 0."""
    unscored: int
    """The number of answers to which the judging model gave no score; the mean score leaves them out."""
    score: Interval | None
    """The mean score, 0 to 1, with its confidence interval; None if no answer has a score."""
    well_formed: float
    """Share, 0 to 1, of all requests whose answer is neither empty nor cut off at the token limit.

    If the expected output is a JSON object, the answer must be an object with the same keys; if the expected output is
    an array, the answer must be an array.
    """
    first_token: LatencyQuantiles | None
    """The time to the first token; None if no answer had one."""
    total: LatencyQuantiles | None
    """The time of the whole answer; None if no request succeeded."""
    prompt_tokens: float
    """The mean number of tokens of the prompt, cached ones included, over the successful answers."""
    cached_tokens: float
    """The mean number of cached tokens of the prompt over the successful answers."""
    completion_tokens: float
    """The mean number of tokens of the answer over the successful answers."""
    prompt_tokens_p95: float
    """The 95th percentile of the number of tokens of the prompt over the successful answers."""
    context_window: int
    """The number of tokens in the context window of the path's model."""
    usd_per_1000: Mapping[str, float]
    """Dollars for 1,000 successful answers, by component: "prompt", "cached", "completion", "retrieval"."""
    judge_usd: float
    """Total cost of the judging model in dollars; no other field includes this cost."""
    on_front: bool
    """Whether the path is on the line of best paths (Pareto front) in score and cost.

    It is not on this line if it has no score or cost, or if another path has at least its score for at most its cost,
    and a higher score or a lower cost.
    """
    fingerprint: str = ""
    """A digest of the path's configuration, prompts and examples; empty in a report of an earlier version."""
    row_scores: tuple[float | None, ...] = ()
    """The score of each row of the task, in the order of `TaskReport.row_ids`; None if the judge gave none."""
    row_usd: tuple[float | None, ...] = ()
    """Dollars for each row's answer; None if the request failed."""

    @property
    def mean(self) -> float:
        """Returns the path's mean score, 0 to 1; 0 if no answer has a score."""
        return self.score.mean if self.score else 0.0

    @property
    def cost(self) -> float:
        """Returns the dollars of 1,000 requests on the path; 0 if no request succeeded."""
        return sum(self.usd_per_1000.values())

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class Pair:
    """The statistical comparison of two paths' scores, on the rows for which both have one."""

    first: str
    second: str
    rows: int
    """The number of rows for which both paths have a score."""
    difference: Interval
    """The mean score of the path `first` minus that of the path `second`, with its confidence interval."""
    p_value: float
    p_adjusted: float
    """The p-value of the test, adjusted by Holm's method for the number of pairs of the task."""
    test: str
    """The statistical test of the difference: "mcnemar" or "permutation"."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """A confusion matrix of one path: how often it answered each label, for each expected label.

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
    """The answer of one path to a row, with its score (0 to 1; None if the judge gave none)."""

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
    """The results of all paths on the rows of one task in an evaluation, with comparisons of the paths."""

    task: str
    metric: str
    """The name of the metric that scored the answers."""
    rows: int
    paths: tuple[EvaluatedPath, ...]
    pairs: tuple[Pair, ...]
    confusions: tuple[Confusion, ...]
    disagreements: tuple[Disagreement, ...]
    """Rows on which paths scored differently, largest difference first, at most `EvalSettings.examples` of them."""
    disagreeing: int
    """The number of rows on which paths scored differently, including those not in `disagreements`."""
    row_ids: tuple[str, ...] = ()
    """The ids of the rows, in the order of the data set; empty in a report of an earlier version."""
    metric_settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the metric, with its options, as in tasks.yaml."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A rule that chooses a path for each request, such as "auto" or "always rag", and its score and cost."""

    name: str
    score: Interval
    usd_per_1000: float
    """Dollars for 1,000 requests."""
    auto_difference: Interval
    """The mean score of `auto` (the gateway's own choice) minus the mean score of this rule, on the same rows."""


@dataclass(frozen=True, slots=True)
class Mixed:
    """How well the gateway chose paths itself (`model: auto`), compared with fixed rules, on requests of several tasks.

    All numbers are weighted by the tasks' shares of the requests.
    """

    shares: Mapping[str, float]
    """The share of the requests that each task has, by the task's name; the sum is 1."""
    choices: tuple[Choice, ...]
    misrouted: float
    """Share of the rows to which the gateway assigned a wrong task, or a task although they belong to none."""
    abstained: float
    """Share of the rows to which the gateway assigned no task although they belong to one."""
    lost_score: float
    """By how much the mean score of all rows would be higher without wrong or missing tasks.

    Each row with a wrong or missing task then counts with the best path of its own task.
    """
    lost_usd_per_1000: float
    """How many dollars less 1,000 requests would cost without wrong or missing tasks; negative if more."""


@dataclass(frozen=True, slots=True)
class Report:
    """The results of an evaluation, as `pointsman eval --json` writes them."""

    version: int
    """The version number of the file format; this release reads and writes VERSION."""
    dataset: str
    """The name of the data set's file."""
    sha256: str
    """The SHA-256 of the data set's text, in hexadecimal digits."""
    revision: str
    """The revision of the gateway's configuration that answered."""
    at_once: int
    """The number of concurrent requests in the evaluation: the load under which the latencies were measured."""
    confidence: float
    """The confidence level of all intervals, such as 0.95."""
    tasks: tuple[TaskReport, ...]
    mixed: Mixed | None = None
    """The comparison that `pointsman eval --mixed` makes; None without this option."""


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
        raise UsageError(
            f"cannot read {file}: {error.strerror or error}; `pointsman eval --json {file}` writes it"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UsageError(f"{file} is not a report of `pointsman eval --json`: {where}: {first['msg']}") from error
    if report.version != VERSION:
        raise UsageError(
            f"{file} has version {report.version} of the report's format, and this command reads {VERSION}; "
            "evaluate again"
        )
    return report
