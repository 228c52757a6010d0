"""Stores the answers of an evaluation in a JSON Lines file, one line as soon as each arrives."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from pointsman_cli.errors import UsageError
from pointsman_cli.eval.dataset import whole_lines
from pointsman_cli.eval.plan import Plan

OK = "ok"


@dataclass(frozen=True, slots=True)
class Answer:
    row: str
    task: str
    path: str
    outcome: str
    """ "ok", or the gateway's error code."""
    score: float | None
    """From 0 to 1; 0 if there is no answer, None if the judge gave no score."""
    text: str = ""
    error: str = ""
    note: str = ""
    """The judge's comment."""
    model: str = ""
    """The base model or adapter version that answered."""
    finish_reason: str = ""
    first_token: float | None = None
    """Seconds from the request, as the client saw it."""
    total: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_parts_usd: Mapping[str, float] = field(default_factory=dict)
    judge_usd: float = 0.0

    @property
    def is_ok(self) -> bool:
        return self.outcome == OK

    @property
    def cost_usd(self) -> float:
        """Dollars without the judge."""
        return sum(self.cost_parts_usd.values())


def file_header(plan: Plan) -> dict[str, Any]:
    """Returns the first line of the file; a different data set, metric or path makes it another evaluation."""
    return {
        "evaluation": 1,
        "dataset": plan.dataset.file.name,
        "sha256": plan.dataset.digest,
        "tasks": {name: dict(task.metric) for name, task in plan.tasks.items()},
        "paths": {
            path: plan.catalogue.paths[path].fingerprint
            for path in sorted({path for task in plan.tasks.values() for path in task.paths})
        },
    }


class AnswerFile:
    """A new file of answers, or one to continue."""

    def __init__(self, file: Path, plan: Plan, resume: bool) -> None:
        """Raises UsageError on entry if a new file exists already, or if a file cannot be continued."""
        self.file = file
        self._heading = file_header(plan)
        self._resume = resume
        self.known: dict[tuple[str, str], Answer] = {}
        """Successful answers by row and path; failed ones are requested again."""
        self._open: TextIO | None = None

    def __enter__(self) -> "AnswerFile":
        if self._resume:
            self._read()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._open = self.file.open("a" if self._resume else "x", encoding="utf-8")
        except OSError as error:
            if (
                isinstance(error, FileExistsError) and self.file.exists()
            ):  # the error may instead come from a parent folder that is a file
                raise UsageError(f"{self.file} is there already; --resume {self.file} goes on with it") from None
            raise UsageError(f"cannot write {self.file}: {error.strerror or error}") from error
        if not self._resume:
            self._write(self._heading)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._open
        self._open.close()

    def add(self, answer: Answer) -> None:
        self._write(asdict(answer))

    def _write(self, data: Mapping[str, Any]) -> None:
        assert self._open
        self._open.write(json.dumps(data, ensure_ascii=False) + "\n")
        self._open.flush()

    def _read(self) -> None:
        lines = self._objects()
        first = next(lines, None)
        if first is None:
            raise UsageError(f"{self.file} holds no evaluation to go on with")
        if first.get("evaluation") != self._heading["evaluation"]:
            raise UsageError(f"{self.file} is no file of answers")
        different = [key for key, value in self._heading.items() if key != "dataset" and first.get(key) != value]
        if different:
            raise UsageError(
                f"{self.file} is of another evaluation ({', '.join(different)} differ); give the same set, paths and "
                "metric with the same configuration, or begin a new file"
            )
        for data in lines:
            answer = self._answer(data)
            if answer.is_ok:
                self.known[answer.row, answer.path] = answer

    def _answer(self, data: Mapping[str, Any]) -> Answer:
        try:
            return Answer(**data)
        except TypeError as error:
            raise UsageError(f"{self.file} holds something that is no answer: {error}") from None

    def _objects(self) -> Iterator[dict[str, Any]]:
        for number, line in whole_lines(self.file):
            try:
                yield dict(json.loads(line))
            except (ValueError, TypeError) as error:
                raise UsageError(f"{self.file}:{number} is no answer: {error}") from None
