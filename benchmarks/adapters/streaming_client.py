"""Sends chat requests as streams and records when each chunk arrived."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from benchmarks.gateway_load.http_client import Broken, Connection, Target

MAX_ANSWER_SECONDS = 60.0
"""A request that takes longer counts as failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; times are of the monotonic clock."""

    requested: str
    """The model named in the request."""
    question: str
    started: float
    ended: float
    status: int
    chunks: tuple[tuple[float, str], ...] = ()
    """Arrival time and text of each chunk, which usually is one token."""
    model: str = ""
    """The model named in the answer."""
    finish: str = ""
    error: str = ""
    """Why the answer is incomplete; empty if it is complete."""

    @property
    def text(self) -> str:
        return "".join(chunk for _, chunk in self.chunks)

    @property
    def first_token_at(self) -> float:
        """When the first token arrived; without one, when the answer ended."""
        return self.chunks[0][0] if self.chunks else self.ended

    @property
    def first_seconds(self) -> float:
        return self.first_token_at - self.started

    @property
    def gaps(self) -> list[float]:
        """Seconds between consecutive chunks."""
        times = [at for at, _ in self.chunks]
        return [later - earlier for earlier, later in pairwise(times)]


@dataclass(slots=True)
class _ChunkRecorder:
    chunks: list[tuple[float, bytes]] = field(default_factory=list)

    def record(self, data: bytes) -> None:
        self.chunks.append((time.monotonic(), data))


async def stream_answer(
    port: int, model: str, question: str, max_tokens: int, more: Mapping[str, Any] = MappingProxyType({})
) -> Answer:
    """Sends one request; `more` adds fields to its body. An error is stored in the returned answer and never raised."""
    body = {
        **more,
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }
    request = Target(port, model).request(json.dumps(body).encode())
    recorder, started, status, error = _ChunkRecorder(), time.monotonic(), 0, ""
    try:
        async with asyncio.timeout(MAX_ANSWER_SECONDS):
            connection = await Connection.to(port)
            try:
                status = (await connection.ask(request, recorder.record)).status
            finally:
                connection.close()
    except (Broken, OSError, TimeoutError) as broken:
        error = f"{type(broken).__name__}: {broken}"
    return _parse_chunks(Answer(model, question, started, time.monotonic(), status, error=error), recorder.chunks)


def _parse_chunks(answer: Answer, arrived: Sequence[tuple[float, bytes]]) -> Answer:
    """Parses the events. An event that was split by the transport gets the arrival time of its last part."""
    chunks: list[tuple[float, str]] = []
    model, finish, error, done, unfinished = "", "", answer.error, False, b""
    for at, data in arrived:
        *lines, unfinished = (unfinished + data).split(b"\n")
        for line in lines:
            data_line = line.strip().removeprefix(b"data: ")
            if data_line == b"[DONE]":
                done = True
            elif data_line.startswith(b"{"):
                event = json.loads(data_line)
                model = event.get("model", model)
                error = error or _error(event)
                for choice in event.get("choices", ()):
                    finish = choice.get("finish_reason") or finish
                    if content := choice["delta"].get("content"):
                        chunks.append((at, content))
    if answer.status != 200 and not error:
        error = _error(json.loads(unfinished or b"{}")) or f"status {answer.status}"
    if not (error or (done and finish)):
        error = "the stream ended without its last event"
    return Answer(
        answer.requested,
        answer.question,
        answer.started,
        answer.ended,
        answer.status,
        tuple(chunks),
        model,
        finish,
        error,
    )


def _error(event: Any) -> str:
    return str(event["error"].get("code") or event["error"]["message"]) if "error" in event else ""


class StreamingClients:
    """Runs several clients until the block ends. Each sends its next request once the last one is answered."""

    def __init__(self, port: int, models: Sequence[str], questions: Sequence[str], max_tokens: int) -> None:
        """Takes the models: one client runs for each entry of `models`, which may contain a name several times."""
        self.answers: list[Answer] = []
        self._port = port
        self._models = models
        self._questions = questions
        self._max_tokens = max_tokens
        self._stopped = False
        self._number = 0

    async def __aenter__(self) -> "StreamingClients":
        self._clients = [asyncio.create_task(self._keep_asking(model)) for model in self._models]
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Stops the clients, and waits for the answers that have begun."""
        self._stopped = True
        await asyncio.gather(*self._clients)

    def between(self, started: float, ended: float) -> list[Answer]:
        """Returns the answers to requests that were sent in this interval."""
        return [answer for answer in self.answers if started <= answer.started < ended]

    def gaps(self, started: float, ended: float) -> list[float]:
        """Returns the seconds between consecutive tokens whose later one arrived in this interval."""
        found = []
        for answer in self.answers:
            times = [at for at, _ in answer.chunks]
            found += [b - a for a, b in pairwise(times) if started <= b < ended]
        return found

    async def until(self, holds: Callable[[Sequence[Answer]], bool], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not holds(self.answers):  # noqa: ASYNC110  # they grow by themselves
                await asyncio.sleep(0.05)

    async def _keep_asking(self, model: str) -> None:
        while not self._stopped:
            self._number += 1
            question = self._questions[self._number % len(self._questions)]
            self.answers.append(await stream_answer(self._port, model, question, self._max_tokens))
            if self.answers[-1].error:
                await asyncio.sleep(0.05)  # limits the rate of requests to a server that refuses them
