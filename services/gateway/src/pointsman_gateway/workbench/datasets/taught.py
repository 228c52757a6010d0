"""Answers that the teacher path was asked for: those that the task's validators do not refuse."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pointsman_gateway.config.json_lines import numbered
from pointsman_gateway.config.load import ConfigError
from pointsman_gateway.validation.stage import Validator
from pointsman_gateway.validation.transcript import Choice
from pointsman_gateway.workbench.datasets.rows import Row, Source, canonical

BLIND = "mean_logprob"
"""The validator that knows only answers which come with their log-probabilities."""


def read_taught(file: Path, validators: Sequence[Validator]) -> tuple[tuple[Row, ...], int]:
    """Lines of {"text", "answer"}; and how many were refused. Raises ConfigError."""
    judges = [validator for validator in validators if validator.name != BLIND]
    asked = list(_lines(file))
    good = [row for row, choice in asked if not any(judge.objection(choice) for judge in judges)]
    return tuple(good), len(asked) - len(good)


def _lines(file: Path) -> Iterator[tuple[Row, Choice]]:
    for number, line in numbered(file.read_text("utf-8")):
        try:
            read = json.loads(line)
            text, answer, reason = str(read["text"]), str(read["answer"]), str(read.get("finish_reason", "stop"))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'{file}:{number} is no {{"text": ..., "answer": ...}}: {error}') from error
        yield Row((("user", text),), canonical(answer), Source.TEACHER), Choice(answer, reason)
