"""Reads scores and costs that were measured elsewhere: a CSV, JSON Lines or Parquet file with a row for each answer.

Its columns are `text` (the request), `path`, `score` (0 to 1) and `cost` (dollars of the answer; empty if unknown).
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pointsman_gateway.config.example_files import numbered_lines
from pointsman_gateway.config.field_types import ConfigError

from pointsman_lab.prediction.evaluation import Evaluation

MAX_PATHS = 50
MAX_CELL_CHARACTERS = 10_000_000
"""The longest cell of a CSV file that is read; Python's default limit is too low for some prompts."""
COLUMNS = ("text", "path", "score", "cost")

Rows = Iterator[tuple[int, Mapping[str, Any]]]
"""The rows of a file as (number from 1, values by column)."""


def read_scores(file: Path) -> Evaluation:
    """Reads a CSV, JSON Lines or Parquet file with the columns `text`, `path`, `score` (0 to 1) and `cost` (dollars).

    Several answers of a path to the same text become one answer with the mean of their scores and of their known costs.

    Raises ConfigError if the file cannot be read, if a row lacks a column or has an invalid value, if there are not 2
    to MAX_PATHS paths, or if a path has no cost at all.
    """
    read = READERS.get(file.suffix.lower())
    if read is None:
        raise ConfigError(f"{file} is not a file of scores; known: {', '.join(READERS)}")
    scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        for number, row in read(file):
            where = f"{file}, row {number}"
            text, path = _text(row, "text", where), _text(row, "path", where)
            answer = _score(row, where), _usd(row, where)
            scores.setdefault((text, path), []).append(answer)
    except (OSError, UnicodeError, csv.Error) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    return _to_evaluation(scores, file)


def _to_evaluation(answers: Mapping[tuple[str, str], list[tuple[float, float]]], file: Path) -> Evaluation:
    texts = {text: at for at, text in enumerate(dict.fromkeys(text for text, _ in answers))}
    paths = {path: at for at, path in enumerate(dict.fromkeys(path for _, path in answers))}
    if not 2 <= len(paths) <= MAX_PATHS:
        number = f"{len(paths)} path{'s' * (len(paths) != 1)}"
        raise ConfigError(f"{file} has scores of {number}; 2 to {MAX_PATHS} are compared")
    scores, usd = np.full((2, len(texts), len(paths)), np.nan)
    for (text, path), pairs in answers.items():
        at = texts[text], paths[path]
        scores[at] = np.mean([score for score, _ in pairs])
        if known := [cost for _, cost in pairs if not np.isnan(cost)]:
            usd[at] = np.mean(known)
    if unknown := [path for path, at in paths.items() if np.isnan(usd[:, at]).all()]:
        raise ConfigError(
            f"{file} has no cost of path '{unknown[0]}': write dollars into the column 'cost' of some of its rows"
        )
    lengths = np.array([max(1, len(text)) for text in texts], float)
    return Evaluation(list(texts), tuple(paths), scores, usd, np.nanmean(usd, axis=0), lengths)


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = _column(row, name, where)
    if not isinstance(value, str | int | float):
        raise ConfigError(f"{where}: '{name}' is not a text")
    return str(value)


def _column(row: Mapping[str, Any], name: str, where: str) -> object:
    value = row.get(name)
    if value in (None, ""):
        raise ConfigError(f"{where}: '{name}' is missing; the columns are {', '.join(COLUMNS)}")
    return value


def _score(row: Mapping[str, Any], where: str) -> float:
    score = _number(_column(row, "score", where), "score", where)
    if not 0 <= score <= 1:
        raise ConfigError(f"{where}: the score {score:g} is not between 0 and 1")
    return score


def _usd(row: Mapping[str, Any], where: str) -> float:
    """Returns the dollars of the answer; NaN if they are not known."""
    if row.get("cost") in (None, ""):
        return float("nan")
    usd = _number(row["cost"], "cost", where)
    if not 0 <= usd < float("inf"):
        raise ConfigError(f"{where}: the cost {usd:g} is not a number of dollars")
    return usd


def _number(value: object, name: str, where: str) -> float:
    try:
        return float(str(value)) if not isinstance(value, bool) else float(value)
    except ValueError as error:
        raise ConfigError(f"{where}: the {name} {str(value)[:50]!r} is not a number") from error


def _read_csv(file: Path) -> Rows:
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines), 1):
            if None in row:
                raise ConfigError(f"{file}, row {number} has more cells than the header; quote texts with commas")
            yield number, row


def _read_json_lines(file: Path) -> Rows:
    for number, line in numbered_lines(file.read_text("utf-8-sig")):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{file}, row {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{file}, row {number} is not a JSON object; write one for each answer")
        yield number, row


def _read_parquet(file: Path) -> Rows:
    try:
        # It need not be installed.
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ConfigError(f"{file} needs pyarrow, which is not installed; write the scores as CSV") from error
    try:
        columns = [name for name in COLUMNS if name in parquet.read_schema(file).names]
        yield from enumerate(parquet.read_table(file, columns=columns).to_pylist(), 1)
    except ArrowException as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error


READERS: Mapping[str, Callable[[Path], Rows]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
