"""What an evaluation found, as it is written to a file and read again."""

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
    """What answered: the base model, or the adapter's version."""
    answers: int
    """Asked for, failures among them."""
    failures: Mapping[str, int]
    """By code. Each scored 0."""
    unscored: int
    """Answers of which the judge could not say anything; they are in no mean."""
    score: Interval | None
    """From 0 to 1; None where nothing was scored."""
    well_formed: float
    """Share of all that came to its end, and is JSON of the label's fields where the label is an object."""
    first_token: Quantiles | None
    total: Quantiles | None
    prompt_tokens: float
    """This and the next are means of the answers that came."""
    cached_tokens: float
    completion_tokens: float
    prompt_tokens_p95: float
    context_window: int
    usd_per_1000: Mapping[str, float]
    """Of a thousand answers, by component: "prompt", "cached", "completion", "retrieval"."""
    judge_usd: float
    """What judging all of them cost."""
    on_front: bool
    """No other path is as good for less, or better for as much."""

    @property
    def mean(self) -> float:
        """Of its score; 0 where nothing was scored."""
        return self.score.mean if self.score else 0.0

    @property
    def cost(self) -> float:
        """Dollars for a thousand answers."""
        return sum(self.usd_per_1000.values())

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class Pair:
    """`first` less `second`, on the rows that both have a score for."""

    first: str
    second: str
    rows: int
    difference: Interval
    p_value: float
    p_adjusted: float
    """Holm's, over the pairs of the task."""
    test: str


@dataclass(frozen=True, slots=True)
class Confusion:
    path: str
    field: str
    """Of the label; empty where the label is the whole text."""
    labels: tuple[str, ...]
    """Expected, in the order of the rows of `counts`."""
    answered: tuple[str, ...]
    """In the order of its columns: the labels, and what was none of them."""
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
    """The widest first."""
    disagreeing: int
    """Rows in all on which two paths scored differently."""


@dataclass(frozen=True, slots=True)
class Report:
    version: int
    dataset: str
    sha256: str
    generation: str
    """The configuration that answered."""
    at_once: int
    """Requests under way together: the latencies are of this load."""
    confidence: float
    tasks: tuple[TaskReport, ...]


_SHAPE = TypeAdapter(Report)


def write(report: Report, file: Path) -> None:
    file.write_bytes(_SHAPE.dump_json(report, indent=2) + b"\n")


def read(file: Path) -> Report:
    """Raises Misused where `file` is no report of this version."""
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
