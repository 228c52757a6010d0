"""Stores the answers and the summary of each cell, so that no later run repeats the work, even in another checkout."""

import gzip
import hashlib
import json
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from pointsman_scoring.intervals import Interval, mean_interval

from benchmarks.experiment.folder import ROOT, Row
from benchmarks.experiment_public import scoring
from benchmarks.experiment_public.cells import Cell


@dataclass(frozen=True, slots=True)
class Answer:
    row: str
    text: str
    score: float
    """The answer's score; 0 if the request failed."""
    usd: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    set: str
    path: str
    rows: int
    """Number of training rows, or of examples that a prompt may show."""
    seed: int
    tested: int
    """Number of test rows."""
    test_sha256: str
    answers_sha256: str
    """The SHA-256 of the stored answers before compression."""
    score: Interval
    secondary: float | None
    """The mean of the set's secondary metric; None if it has none."""
    usd_per_1000: float
    prompt_tokens: float
    cached_tokens: float
    completion_tokens: float
    p50_seconds: float
    p95_seconds: float
    training: Mapping[str, Any] | None
    date: str
    commit: str

    @property
    def cell(self) -> Cell:
        return Cell(self.set, self.path, self.rows, self.seed)


def digest(rows: Iterable[Row]) -> str:
    """Returns the SHA-256 of rows as JSON Lines."""
    return hashlib.sha256(_lines(rows).encode()).hexdigest()


class ResultFolder:
    """The results of one base model: CELL.json and CELL.jsonl.gz for each cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self, cell: Cell, test: Sequence[Row], answers: Sequence[Answer], training: Mapping[str, Any] | None
    ) -> None:
        stored = _lines(asdict(answer) for answer in answers)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Without a time stamp, equal answers make equal files.
        self._answers(cell).write_bytes(gzip.compress(stored.encode(), mtime=0))
        summary = summarize(cell, test, answers, hashlib.sha256(stored.encode()).hexdigest(), training)
        self._summary(cell).write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")

    def summary(self, cell: Cell) -> Summary | None:
        """Returns the summary of a cell; None if the cell has not run."""
        if not self._summary(cell).is_file():
            return None
        found = json.loads(self._summary(cell).read_text("utf-8"))
        return Summary(**found | {"score": Interval(**found["score"])})

    def answers(self, cell: Cell) -> list[Answer]:
        lines = gzip.decompress(self._answers(cell).read_bytes()).decode().splitlines()
        return [Answer(**json.loads(line)) for line in lines]

    def is_done(self, cell: Cell, test: Sequence[Row]) -> bool:
        """Returns whether the cell has run on these test rows."""
        summary = self.summary(cell)
        return summary is not None and summary.test_sha256 == digest(test)

    def _summary(self, cell: Cell) -> Path:
        return self.folder / f"{cell}.json"

    def _answers(self, cell: Cell) -> Path:
        return self.folder / f"{cell}.jsonl.gz"


def summarize(
    cell: Cell, test: Sequence[Row], answers: Sequence[Answer], answers_sha256: str, training: Mapping[str, Any] | None
) -> Summary:
    expected = {row["id"]: row["output"] for row in test}
    _, secondary = scoring.SECONDARY.get(cell.set, ("", None))
    p50, p95 = np.percentile([answer.seconds for answer in answers], [50, 95])
    return Summary(
        set=cell.set, path=cell.path, rows=cell.rows, seed=cell.seed, tested=len(test), test_sha256=digest(test),
        answers_sha256=answers_sha256, score=mean_interval([answer.score for answer in answers]),
        secondary=fmean(secondary(answer.text, expected[answer.row]) for answer in answers) if secondary else None,
        usd_per_1000=1000 * fmean(answer.usd for answer in answers),
        prompt_tokens=fmean(answer.prompt_tokens for answer in answers),
        cached_tokens=fmean(answer.cached_tokens for answer in answers),
        completion_tokens=fmean(answer.completion_tokens for answer in answers),
        p50_seconds=float(p50), p95_seconds=float(p95), training=training,
        date=time.strftime("%Y-%m-%d"), commit=_commit(),
    )  # fmt: skip


def read_answers(file: Path) -> list[Answer]:
    """Reads the answers that `pointsman eval` wrote. If a row was asked several times, its last answer counts."""
    found: dict[str, Answer] = {}
    for line in file.read_text("utf-8").splitlines()[1:]:
        row = json.loads(line)
        usd = sum(row["cost_parts_usd"].values())
        found[row["row"]] = Answer(
            row["row"], row["text"], row["score"] or 0.0, round(usd, 10),
            row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"], round(row["total"], 3),
        )  # fmt: skip
    return list(found.values())


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
