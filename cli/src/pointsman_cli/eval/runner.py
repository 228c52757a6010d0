"""Sends each row through each path, scores the answers, and stores them.

Answers are stored in a JSON Lines file, one line as soon as each arrives.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TextIO

import httpx

from pointsman_cli.errors import CommandError, Refused, Unreachable, UsageError
from pointsman_cli.eval.dataset import Row, whole_lines
from pointsman_cli.eval.plan import AUTO, UNKNOWN, EvaluationPlan, Scorer
from pointsman_cli.gateway_http import AnswerEnd, Decision, TextChunk, run_concurrently, stream_answer

OK = "ok"

_MAX_ATTEMPTS = 5
_MAX_WAIT_SECONDS = 60.0  # a longer wait for a rate limit counts as a failure


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
    answered_by: str = ""
    """The path that the gateway chose; empty if the request named its path."""
    decided_task: str = ""
    """The task that the gateway assigned; empty if the request named its path."""
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
        """Returns the dollars that the answer cost, without those of a judge that scored it."""
        return sum(self.cost_parts_usd.values())


def file_header(plan: EvaluationPlan) -> dict[str, Any]:
    """Returns an answer file's first line: data set, metric and paths, without which it cannot be continued."""
    return {
        "evaluation": 1,
        "dataset": plan.dataset.file.name,
        "sha256": plan.dataset.digest,
        "tasks": {name: dict(task.metric) for name, task in plan.tasks.items()},
        "paths": {
            path: plan.catalog.paths[path].fingerprint
            for path in sorted({path for task in plan.tasks.values() for path in task.paths})
        }
        | ({AUTO: plan.catalog.generation} if plan.is_mixed else {}),
    }


class AnswerFile:
    """A file to which the evaluation's answers are written: a new one, or one of an interrupted run to continue."""

    def __init__(self, file: Path, plan: EvaluationPlan, resume: bool) -> None:
        """Takes the `file`, which is opened on entry; with `resume` it is continued, otherwise new.

        Entering raises UsageError if a new file exists already or cannot be written, or a file is of another
        evaluation.
        """
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

    def __exit__(self, *error: object) -> None:
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


def scores_of(file: Path) -> dict[str, Any]:
    """Returns the body of a request to `/v1/evaluations` from a complete file of answers.

    It has the mean score of each path by task and by answering model, without failed answers and those of `auto`.
    Raises UsageError if the file cannot be read.
    """
    (_, first), *lines = whole_lines(file)
    header, scores = json.loads(first), dict[tuple[str, str, str], list[float]]()
    for _, line in lines:
        answer = Answer(**json.loads(line))
        if answer.is_ok and answer.score is not None and answer.path != AUTO and answer.task != UNKNOWN:
            scores.setdefault((answer.task, answer.path, answer.model), []).append(answer.score)
    results = [
        {
            "task": task, "path": path, "fingerprint": header["paths"][path], "model": model,
            "rows": len(of_path), "score": sum(of_path) / len(of_path),
        }
        for (task, path, model), of_path in scores.items()
    ]  # fmt: skip
    return {"id": header["sha256"], "results": results}


@dataclass(frozen=True, slots=True)
class RowRequest:
    row: Row
    path: str
    scorer: Scorer

    @property
    def place(self) -> tuple[str, str]:
        """Returns the row and the path, by which the answer is stored."""
        return self.row.id, self.path


async def answer_row(client: httpx.AsyncClient, work: RowRequest) -> Answer:
    """Returns a row's scored answer; a failed request becomes an answer with its error code.

    Raises Unreachable if no gateway answers, and CommandError if the scorer fails: then nothing can continue.
    """
    answer = await _answer(client, work)
    if not answer.is_ok:
        return answer
    verdict = await work.scorer.judge(work.row, answer.text)
    return replace(answer, score=verdict.score, note=verdict.note, judge_usd=verdict.usd)


async def _answer(client: httpx.AsyncClient, work: RowRequest) -> Answer:
    """Requests an answer, and repeats it after a rate limit; returns it without a score, or a failed one.

    Raises Unreachable if no gateway answers.
    """
    for tries_left in reversed(range(_MAX_ATTEMPTS)):
        try:
            return await _request(client, work)
        except Unreachable:
            raise
        except Refused as error:
            if error.retry_after is None or error.retry_after > _MAX_WAIT_SECONDS or not tries_left:
                return _failed_answer(work, error.code, str(error))
            await asyncio.sleep(error.retry_after)  # the client's own rate limit is no failure of the path
        except CommandError as error:
            return _failed_answer(work, "broken_answer", str(error))
    raise AssertionError("the last try returns")


async def _request(client: httpx.AsyncClient, work: RowRequest) -> Answer:
    pieces, ending, first, task = [], AnswerEnd(), None, ""
    began = time.perf_counter()
    async for event in stream_answer(client, _body(work)):
        if isinstance(event, TextChunk):
            first = time.perf_counter() - began if first is None else first
            pieces.append(event.content)
        elif isinstance(event, AnswerEnd):
            ending = event
        elif isinstance(event, Decision):
            task = event.task
    total = time.perf_counter() - began
    if work.path not in (ending.path, AUTO):
        return _failed_answer(work, "answered_by_another", f"path {ending.path or '(none)'} answered")
    if ending.cost_usd is None or ending.prompt_tokens is None or ending.completion_tokens is None:
        return _failed_answer(work, "no_receipt", "the answer came without its tokens or a known cost")
    return Answer(
        work.row.id, work.row.task, work.path, OK, None,
        text="".join(pieces), answered_by=ending.path, decided_task=task, model=ending.model,
        finish_reason=ending.finish_reason,
        first_token=first, total=total,
        prompt_tokens=ending.prompt_tokens, cached_tokens=ending.cached_tokens,
        completion_tokens=ending.completion_tokens, cost_parts_usd=dict(ending.cost_parts_usd),
    )  # fmt: skip


def _body(work: RowRequest) -> dict[str, object]:
    return {
        "model": AUTO if work.path == AUTO else f"path:{work.path}",
        "messages": list(work.row.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _failed_answer(work: RowRequest, code: str, error: str) -> Answer:
    return Answer(work.row.id, work.row.task, work.path, code, 0.0, error=error)


class ProgressListener(Protocol):
    def came(self, answer: Answer) -> None:
        """Updates the display of progress by an answer that has arrived."""
        ...


async def run_plan(
    plan: EvaluationPlan, client: httpx.AsyncClient, answers: AnswerFile, at_once: int, watcher: ProgressListener
) -> list[Answer]:
    """Sends all requests of the plan that have no stored answer, `at_once` at a time; returns all answers in order.

    New answers are stored in the file `answers` and reported to `watcher`. Raises CommandError as `answer_row` does, at
    the first one.
    """
    planned = list(row_requests(plan))
    came = [answers.known[work.place] for work in planned if work.place in answers.known]

    async def ask(work: RowRequest) -> None:
        answer = await answer_row(client, work)
        answers.add(answer)
        came.append(answer)
        watcher.came(answer)

    await run_concurrently(ask, [work for work in planned if work.place not in answers.known], at_once)
    return _in_order(plan, came)


def row_requests(plan: EvaluationPlan) -> Iterator[RowRequest]:
    """Yields requests row by row; each row starts with another path, because later paths find warmer engine caches."""
    for task in plan.tasks.values():
        for number, row in enumerate(task.rows):
            for path in _rotate(plan.choices(task), number):
                yield RowRequest(row, path, task.scorer)


def _rotate(paths: Sequence[str], by: int) -> Sequence[str]:
    by %= len(paths)
    return (*paths[by:], *paths[:by])


def _in_order(plan: EvaluationPlan, answers: Sequence[Answer]) -> list[Answer]:
    """Sorts the answers by task, row and path."""
    by_place = {(answer.row, answer.path): answer for answer in answers}
    return [by_place[row.id, path] for task in plan.tasks.values() for row in task.rows for path in plan.choices(task)]
