"""One row, down one path, scored."""

import asyncio
import time
from dataclasses import dataclass, replace

import httpx

from pointsman_cli.errors import CommandError, Refused, Unreachable
from pointsman_cli.eval.answers import OK, Answer
from pointsman_cli.eval.rows import Row
from pointsman_cli.eval.scoring import Scorer
from pointsman_cli.gateway.answers import AnswerEnd, TextChunk
from pointsman_cli.gateway.http_client import stream_answer

_TRIES = 5
_LONGEST_WAIT = 60.0  # seconds that a caller's own limit may ask for before it counts as a failure


@dataclass(frozen=True, slots=True)
class Work:
    row: Row
    path: str
    scorer: Scorer

    @property
    def place(self) -> tuple[str, str]:
        """Where its answer stands."""
        return self.row.id, self.path


async def answered(client: httpx.AsyncClient, work: Work) -> Answer:
    """Raises Unreachable where the gateway is away, and CommandError where the scorer fails: going on makes no sense.

    Everything else is an outcome.
    """
    answer = await _answer(client, work)
    if not answer.is_ok:
        return answer
    verdict = await work.scorer.judge(work.row, answer.text)
    return replace(answer, score=verdict.score, note=verdict.note, judge_usd=verdict.usd)


async def _answer(client: httpx.AsyncClient, work: Work) -> Answer:
    """Not scored yet, where it is one."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return await _asked(client, work)
        except Unreachable:
            raise
        except Refused as error:
            if error.retry_after is None or error.retry_after > _LONGEST_WAIT or not tries_left:
                return _failed(work, error.code, str(error))
            await asyncio.sleep(error.retry_after)  # the caller's own limit says nothing of the path
        except CommandError as error:
            return _failed(work, "broken_answer", str(error))
    raise AssertionError("the last try returns")


async def _asked(client: httpx.AsyncClient, work: Work) -> Answer:
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
        return _failed(work, "answered_by_another", f"path {ending.path or '(none)'} answered")
    if ending.cost_usd is None or ending.prompt_tokens is None or ending.completion_tokens is None:
        return _failed(work, "no_receipt", "the answer came without its tokens or its cost")
    return Answer(
        work.row.id, work.row.task, work.path, OK, None,
        text="".join(pieces), model=ending.model, finish_reason=ending.finish_reason,
        first_token=first, total=total,
        prompt_tokens=ending.prompt_tokens, cached_tokens=ending.cached_tokens,
        completion_tokens=ending.completion_tokens, cost_parts_usd=dict(ending.cost_parts_usd),
    )  # fmt: skip


def _body(work: Work) -> dict[str, object]:
    return {
        "model": f"path:{work.path}",
        "messages": list(work.row.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _failed(work: Work, code: str, error: str) -> Answer:
    return Answer(work.row.id, work.row.task, work.path, code, 0.0, error=error)
