"""Sends each row of an evaluation's data set to each path, scores the answers, and stores them in a JSON Lines file.

Each answer is stored as soon as it arrives.
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
    """The scored answer of one path to one row, as it is stored in the file of answers."""

    row: str
    """The row's id."""
    task: str
    """The task of the row, as the data set states it."""
    path: str
    """The name of the path to which the request was sent, or AUTO if the gateway was to choose the path."""
    outcome: str
    """The outcome of the request: "ok", the gateway's error code, or "broken_answer", "answered_by_another" or
    "no_receipt"."""
    score: float | None
    """The score from 0 to 1; 0 if the request failed, None if the judge gave no score."""
    text: str = ""
    error: str = ""
    """The error's message if the request failed; empty if it succeeded."""
    note: str = ""
    """The remark of the judging model; empty if a metric scored the answer."""
    answered_by: str = ""
    """The name of the path that answered; empty if the request failed."""
    decided_task: str = ""
    """The task that the gateway reported for the request; empty if the request failed."""
    model: str = ""
    """The base model or adapter version that answered."""
    finish_reason: str = ""
    first_token: float | None = None
    """Seconds from the request to the first token, measured by the client; None if no token arrived."""
    total: float = 0.0
    """Seconds from the request to the end of the answer; 0 if the request failed."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_parts_usd: Mapping[str, float] = field(default_factory=dict)
    """The cost of the answer in dollars, by component, such as "prompt"."""
    judge_usd: float = 0.0
    """The cost of the judging model's answer, in dollars."""

    @property
    def is_ok(self) -> bool:
        return self.outcome == OK

    @property
    def cost_usd(self) -> float:
        """Returns the cost of the answer in dollars, without the cost of the judging model."""
        return sum(self.cost_parts_usd.values())


def file_header(plan: EvaluationPlan) -> dict[str, Any]:
    """Returns the first line of a file of answers, as JSON: data set, metrics, digests of paths and models, prices.

    An evaluation continues a file of answers only if its own header is the same; the name of the data set's file may
    differ.
    """
    catalog, paths = plan.catalog, sorted({path for task in plan.tasks.values() for path in task.paths})
    models = {name: catalog.base_models[name] for name in sorted({catalog.paths[path].model for path in paths})}
    return {
        "evaluation": 1,
        "dataset": plan.dataset.file.name,
        "sha256": plan.dataset.digest,
        "tasks": {name: dict(task.metric) for name, task in plan.tasks.items()},
        "paths": {path: catalog.paths[path].fingerprint for path in paths}
        | ({AUTO: catalog.revision} if plan.is_mixed else {}),
        "models": {model: catalog.base_models[model].fingerprint for model in models},
        "prices": {
            model: [catalog.base_models[model].prices, catalog.base_models[model].other_prices] for model in models
        },
        "search_usd": catalog.search_usd,
    }


class AnswerFile:
    """The file in which an evaluation stores its answers as JSON Lines, so that an interrupted run can be continued."""

    def __init__(self, file: Path, plan: EvaluationPlan, resume: bool) -> None:
        """Takes the path of the file, which is opened on entering the context.

        With `resume`, an existing file is continued, and entering removes an incomplete last line from it. Without
        `resume`, the file is created. Entering raises UsageError if a file to create exists already, the file cannot be
        read or written, or a file to continue is of another evaluation or has a line that is no answer.
        """
        self.file = file
        self._heading = file_header(plan)
        self._resume = resume
        self.known: dict[tuple[str, str], Answer] = {}
        """The successful answers in a continued file, by (row id, path); failed requests are sent again."""
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
                raise UsageError(f"{self.file} exists already; --resume {self.file} continues it") from None
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
        heading = next(lines, None)
        if heading is None:
            raise UsageError(f"{self.file} is empty, so there is no evaluation to continue; leave out --resume")
        _, first = heading
        if first.get("evaluation") != self._heading["evaluation"]:
            raise UsageError(f"{self.file} is not a file of answers of `pointsman eval`")
        different = [key for key, value in self._heading.items() if key != "dataset" and first.get(key) != value]
        if different:
            raise UsageError(
                f"{self.file} is of another evaluation ({', '.join(different)} differ); give the same set, paths, "
                "metric and prices with the same configuration, or begin a new file"
            )
        for number, data in lines:
            answer = self._answer(number, data)
            if answer.is_ok:
                self.known[answer.row, answer.path] = answer

    def _answer(self, number: int, data: Mapping[str, Any]) -> Answer:
        try:
            return Answer(**data)
        except TypeError as error:
            raise UsageError(f"{self.file}:{number} is not an answer of `pointsman eval`: {error}") from None

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in whole_lines(self.file):
            try:
                yield number, dict(json.loads(line))
            except (ValueError, TypeError) as error:
                raise UsageError(f"{self.file}:{number} is not an answer of `pointsman eval`: {error}") from None


def scores_of(file: Path) -> dict[str, Any]:
    """Returns the body of a request to `/v1/evaluations`, made from a file of answers.

    `id` is the digest of the data set. `results` has an entry for each combination of task, path and answering model:
    the mean score, the number of rows, and the path's fingerprint. Failed and unscored answers, answers of `auto`, and
    rows of no task are left out.

    `file` must be a file that `AnswerFile` has written; an incomplete last line is removed from it. Raises UsageError
    if it cannot be read or changed.
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
    """A request of an evaluation: a row to send to one path, and the scorer for the answer."""

    row: Row
    path: str
    scorer: Scorer

    @property
    def place(self) -> tuple[str, str]:
        """Returns (row id, path): the key by which a stored answer to this request is found in the file of answers."""
        return self.row.id, self.path


async def answer_row(client: httpx.AsyncClient, work: RowRequest) -> Answer:
    """Sends a row to a path and scores the answer; a failed request becomes an Answer with an error code and score 0.

    Raises Unreachable if the gateway cannot be reached, and CommandError if the metric fails.
    """
    answer = await _answer(client, work)
    if not answer.is_ok:
        return answer
    verdict = await work.scorer.judge(work.row, answer.text)
    return replace(answer, score=verdict.score, note=verdict.note, judge_usd=verdict.usd)


async def _answer(client: httpx.AsyncClient, work: RowRequest) -> Answer:
    """Requests an answer, and repeats the request after a rate limit; returns the answer without a score.

    A failed request is returned as an answer with an error code. Raises Unreachable if the gateway cannot be reached.
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
    """Interface for an object that shows the progress of an evaluation; `EvaluationProgress` implements it."""

    def came(self, answer: Answer) -> None:
        """Updates the display after the answer to a request has arrived."""
        ...


async def run_plan(
    plan: EvaluationPlan, client: httpx.AsyncClient, answers: AnswerFile, at_once: int, watcher: ProgressListener
) -> list[Answer]:
    """Sends all requests of the plan that have no stored answer, at most `at_once` at a time; returns all answers.

    The answers are in the order of the plan's tasks, rows and paths. New answers are stored in the file `answers` and
    reported to `watcher`. Stops at the first CommandError of `answer_row`, and raises it.
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
    """Yields the requests of a plan, row by row.

    Each row begins with another path than the row before. If the order were fixed, the last path would have an
    advantage, since the row's text would already be in the engines' caches.
    """
    for task in plan.tasks.values():
        for number, row in enumerate(task.rows):
            for path in _rotate(plan.choices(task), number):
                yield RowRequest(row, path, task.scorer)


def _rotate(paths: Sequence[str], by: int) -> Sequence[str]:
    by %= len(paths)
    return (*paths[by:], *paths[:by])


def _in_order(plan: EvaluationPlan, answers: Sequence[Answer]) -> list[Answer]:
    """Sorts the answers in the order of the plan's tasks, rows and paths."""
    by_place = {(answer.row, answer.path): answer for answer in answers}
    return [by_place[row.id, path] for task in plan.tasks.values() for row in task.rows for path in plan.choices(task)]
