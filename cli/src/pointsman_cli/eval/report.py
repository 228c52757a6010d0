"""The report of an evaluation, and its JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pointsman_scoring.intervals import Interval
from pydantic import TypeAdapter, ValidationError

from pointsman_cli.errors import UsageError

VERSION = 1


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class PathFigures:
    path: str
    kind: str
    """ "prompt", "rag", "lora" or "hybrid"."""
    adapter: str
    model: str
    """The base model or adapter version that answered."""
    answers: int
    """Number of requests, including failed ones."""
    failures: Mapping[str, int]
    """By error code; each failure scores 0."""
    unscored: int
    """Answers without a score from the judge; they are in no mean."""
    score: Interval | None
    """From 0 to 1; None if nothing was scored."""
    well_formed: float
    """Share of all requests with a complete answer that, for JSON labels, has the label's fields."""
    first_token: Quantiles | None
    total: Quantiles | None
    prompt_tokens: float
    """Mean over the successful answers, as the next two fields."""
    cached_tokens: float
    completion_tokens: float
    prompt_tokens_p95: float
    context_window: int
    usd_per_1000: Mapping[str, float]
    """For 1,000 answers, by component: "prompt", "cached", "completion", "retrieval"."""
    judge_usd: float
    """Total cost of the judge."""
    on_front: bool
    """Whether no other path is as good for less, or better for the same cost."""

    @property
    def mean(self) -> float:
        """Mean score; 0 if nothing was scored."""
        return self.score.mean if self.score else 0.0

    @property
    def cost(self) -> float:
        """Dollars for 1,000 answers."""
        return sum(self.usd_per_1000.values())

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class Pair:
    """The difference `first` minus `second`, on rows that both have a score for."""

    first: str
    second: str
    rows: int
    difference: Interval
    p_value: float
    p_adjusted: float
    """Adjusted by Holm's method over the pairs of the task."""
    test: str


@dataclass(frozen=True, slots=True)
class Confusion:
    path: str
    field: str
    """The label's field; empty if the label is the whole text."""
    labels: tuple[str, ...]
    """Expected labels, in the order of the rows of `counts`."""
    answered: tuple[str, ...]
    """Answered labels in the order of the columns, followed by other outcomes."""
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class PathAnswer:
    path: str
    score: float | None
    outcome: str
    text: str


@dataclass(frozen=True, slots=True)
class Disagreement:
    row: str
    asked: str
    expected: str
    answers: tuple[PathAnswer, ...]


@dataclass(frozen=True, slots=True)
class TaskReport:
    task: str
    metric: str
    rows: int
    paths: tuple[PathFigures, ...]
    pairs: tuple[Pair, ...]
    confusions: tuple[Confusion, ...]
    disagreements: tuple[Disagreement, ...]
    """Largest difference first."""
    disagreeing: int
    """Total number of rows on which two paths scored differently."""


@dataclass(frozen=True, slots=True)
class Report:
    version: int
    dataset: str
    sha256: str
    generation: str
    """The configuration that answered."""
    at_once: int
    """Concurrent requests; the latencies hold for this load."""
    confidence: float
    tasks: tuple[TaskReport, ...]


_SHAPE = TypeAdapter(Report)


def write_report(report: Report, file: Path) -> None:
    file.write_bytes(_SHAPE.dump_json(report, indent=2) + b"\n")


def read_report(file: Path) -> Report:
    """Raises UsageError if the file is not a report of this version."""
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
