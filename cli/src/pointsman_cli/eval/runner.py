"""Sends each row through each path, scores the answers, and stores them."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import httpx

from pointsman_cli.errors import CommandError, Refused, Unreachable
from pointsman_cli.eval.answers import OK, Answer, AnswerFile
from pointsman_cli.eval.dataset import Row
from pointsman_cli.eval.plan import Plan
from pointsman_cli.eval.scoring import Scorer
from pointsman_cli.gateway_http import AnswerEnd, TextChunk, stream_answer

_MAX_ATTEMPTS = 5
_MAX_WAIT_SECONDS = 60.0  # a longer wait for a rate limit counts as a failure


@dataclass(frozen=True, slots=True)
class RowRequest:
    row: Row
    path: str
    scorer: Scorer

    @property
    def place(self) -> tuple[str, str]:
        """The key of the answer: row and path."""
        return self.row.id, self.path


async def answer_row(client: httpx.AsyncClient, work: RowRequest) -> Answer:
    """Returns a scored answer; a failed request is an answer with its error code.

    Raises Unreachable if no gateway answers, and CommandError if the scorer fails: then nothing can continue.
    """
    answer = await _answer(client, work)
    if not answer.is_ok:
        return answer
    verdict = await work.scorer.judge(work.row, answer.text)
    return replace(answer, score=verdict.score, note=verdict.note, judge_usd=verdict.usd)


async def _answer(client: httpx.AsyncClient, work: RowRequest) -> Answer:
    """Returns an answer without a score, or a failed one."""
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
    pieces, ending, first = [], AnswerEnd(), None
    began = time.perf_counter()
    async for event in stream_answer(client, _body(work)):
        if isinstance(event, TextChunk):
            first = time.perf_counter() - began if first is None else first
            pieces.append(event.content)
        elif isinstance(event, AnswerEnd):
            ending = event
    total = time.perf_counter() - began
    if ending.path != work.path:
        return _failed_answer(work, "answered_by_another", f"path {ending.path or '(none)'} answered")
    if ending.cost_usd is None or ending.prompt_tokens is None or ending.completion_tokens is None:
        return _failed_answer(work, "no_receipt", "the answer came without its tokens or its cost")
    return Answer(
        work.row.id, work.row.task, work.path, OK, None,
        text="".join(pieces), model=ending.model, finish_reason=ending.finish_reason,
        first_token=first, total=total,
        prompt_tokens=ending.prompt_tokens, cached_tokens=ending.cached_tokens,
        completion_tokens=ending.completion_tokens, cost_parts_usd=dict(ending.cost_parts_usd),
    )  # fmt: skip


def _body(work: RowRequest) -> dict[str, object]:
    return {
        "model": f"path:{work.path}",
        "messages": list(work.row.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _failed_answer(work: RowRequest, code: str, error: str) -> Answer:
    return Answer(work.row.id, work.row.task, work.path, code, 0.0, error=error)


class ProgressListener(Protocol):
    def came(self, answer: Answer) -> None:
        """Called after each answer."""
        ...


async def run_plan(
    plan: Plan, client: httpx.AsyncClient, answers: AnswerFile, at_once: int, watcher: ProgressListener
) -> list[Answer]:
    """Returns all answers, including stored ones; raises CommandError if the evaluation cannot continue."""
    planned = list(row_requests(plan))
    came = [answers.known[work.place] for work in planned if work.place in answers.known]
    waiting = iter([work for work in planned if work.place not in answers.known])

    async def ask_on() -> None:
        for work in waiting:  # all workers share one iterator
            answer = await answer_row(client, work)
            answers.add(answer)
            came.append(answer)
            watcher.came(answer)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(ask_on())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return _in_order(plan, came)


def row_requests(plan: Plan) -> Iterator[RowRequest]:
    """Yields requests row by row; each row starts with another path, because later paths find warmer caches."""
    for task in plan.tasks.values():
        for number, row in enumerate(task.rows):
            for path in _rotate(task.paths, number):
                yield RowRequest(row, path, task.scorer)


def _rotate(paths: Sequence[str], by: int) -> Sequence[str]:
    by %= len(paths)
    return (*paths[by:], *paths[:by])


def _in_order(plan: Plan, answers: Sequence[Answer]) -> list[Answer]:
    """Sorts the answers by task, row and path."""
    by_place = {(answer.row, answer.path): answer for answer in answers}
    return [by_place[row.id, path] for task in plan.tasks.values() for row in task.rows for path in task.paths]
