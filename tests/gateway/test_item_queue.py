"""Answers that a coroutine writes, even if the event loop stalls beyond their deadline."""

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from pointsman_gateway.domain import Message, Request
from pointsman_gateway.http.asgi_answer import AsgiAnswer
from pointsman_gateway.http.dialects.openai.chat_encoder import ChatEncoder
from pointsman_gateway.pipeline.admission import UnreadBudget
from pointsman_gateway.pipeline.sinks import UNREAD_SECONDS, AnswerNotRead, ItemQueue


def end(queue: ItemQueue[str], *items: str) -> None:
    for item in items:
        queue.put(item)
    queue.detach()


async def test_an_error_that_is_due_during_a_stall_of_the_event_loop_is_written() -> None:
    """Otherwise the client gets no answer from the gateway, and the HTTP server sends its own: 500, in plain text."""
    queue, written = ItemQueue[str](), list[str]()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 0.05

    async def write(item: str) -> None:
        written.append(item)

    writing = asyncio.create_task(queue.write_to(write, deadline))
    loop.call_at(deadline, end, queue, "504", "deadline_exceeded")
    await asyncio.sleep(0)
    time.sleep(UNREAD_SECONDS + 0.2)  # noqa: ASYNC251  # the stall
    await writing
    assert written == ["504", "deadline_exceeded"]


async def test_a_client_that_does_not_read_is_given_up() -> None:
    queue = ItemQueue[str]()
    end(queue, "text")

    async def write(item: str) -> None:
        await asyncio.Event().wait()

    with pytest.raises(AnswerNotRead):
        await queue.write_to(write, asyncio.get_running_loop().time() - UNREAD_SECONDS + 0.05)


async def test_a_run_that_never_ends_is_given_up() -> None:
    queue = ItemQueue[str]()

    async def write(item: str) -> None: ...

    began = time.monotonic()
    queue.run = None
    with pytest.raises(AnswerNotRead):
        await queue.write_to(write, asyncio.get_running_loop().time())
    assert time.monotonic() - began < 10


class _SilentRun:
    """A run that reports nothing until it is cancelled, like one on a machine without a free processor."""

    def __init__(self, sink: Any) -> None:
        self._sink = sink

    def start(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self, error: Exception | None = None) -> None:
        self._sink.failed(error)
        self._sink.closed()


async def test_a_run_that_reports_nothing_in_time_is_answered_in_the_clients_format() -> None:
    """Without this answer, the HTTP server would send its own: 500, in plain text."""
    pipeline: Any = SimpleNamespace(
        run=lambda request, sink: _SilentRun(sink), admission=SimpleNamespace(unread=UnreadBudget(1 << 20))
    )
    request = Request("tiny", (Message("user", "Hello"),), deadline=asyncio.get_running_loop().time())
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    await AsgiAnswer(pipeline, request, ChatEncoder(False), False)({}, receive, send)
    assert (sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]) == (504, "deadline_exceeded")
