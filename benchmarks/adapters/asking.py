"""Asks for streamed answers and writes down what came when."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from benchmarks.gateway_load.http_client import Broken, Connection, Target

LONGEST = 60.0
"""Seconds for one answer; what takes longer has failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Times are of the monotonic clock."""

    asked: str
    """The model that the request named."""
    question: str
    begun: float
    ended: float
    status: int
    pieces: tuple[tuple[float, str], ...] = ()
    """When each piece of the text came; a token each, where nothing was late."""
    model: str = ""
    """What answered, as the answer says."""
    finish: str = ""
    error: str = ""
    """Why it is no whole answer; empty where it is."""

    @property
    def text(self) -> str:
        return "".join(piece for _, piece in self.pieces)

    @property
    def first(self) -> float:
        """When the first token came; the end, where none did."""
        return self.pieces[0][0] if self.pieces else self.ended

    @property
    def first_seconds(self) -> float:
        return self.first - self.begun

    @property
    def gaps(self) -> list[float]:
        """Seconds between the pieces."""
        times = [at for at, _ in self.pieces]
        return [later - earlier for earlier, later in pairwise(times)]


@dataclass(slots=True)
class _Arriving:
    pieces: list[tuple[float, bytes]] = field(default_factory=list)

    def arrived(self, data: bytes) -> None:
        self.pieces.append((time.monotonic(), data))


async def ask(
    port: int, model: str, question: str, most_tokens: int, more: Mapping[str, Any] = MappingProxyType({})
) -> Answer:
    """`more`: fields of the body. Never raises for what becomes of the request: the answer says it."""
    body = {
        **more,
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": most_tokens,
        "temperature": 0,
        "stream": True,
    }
    request = Target(port, model).request(json.dumps(body).encode())
    arriving, begun, status, error = _Arriving(), time.monotonic(), 0, ""
    try:
        async with asyncio.timeout(LONGEST):
            connection = await Connection.to(port)
            try:
                status = (await connection.ask(request, arriving.arrived)).status
            finally:
                connection.close()
    except (Broken, OSError, TimeoutError) as broken:
        error = f"{type(broken).__name__}: {broken}"
    return _read(Answer(model, question, begun, time.monotonic(), status, error=error), arriving.pieces)


def _read(answer: Answer, arrived: Sequence[tuple[float, bytes]]) -> Answer:
    """With what the pieces hold; an event may be cut in two by the transport, and came with its last piece."""
    pieces: list[tuple[float, str]] = []
    model, finish, error, done, held = "", "", answer.error, False, b""
    for at, data in arrived:
        *lines, held = (held + data).split(b"\n")
        for line in lines:
            said = line.strip().removeprefix(b"data: ")
            if said == b"[DONE]":
                done = True
            elif said.startswith(b"{"):
                event = json.loads(said)
                model = event.get("model", model)
                error = error or _error(event)
                for choice in event.get("choices", ()):
                    finish = choice.get("finish_reason") or finish
                    if content := choice["delta"].get("content"):
                        pieces.append((at, content))
    if answer.status != 200 and not error:
        error = _error(json.loads(held or b"{}")) or f"status {answer.status}"
    if not (error or (done and finish)):
        error = "it ended without its end"
    return Answer(
        answer.asked, answer.question, answer.begun, answer.ended, answer.status, tuple(pieces), model, finish, error
    )


def _error(event: Any) -> str:
    return str(event["error"].get("code") or event["error"]["message"]) if "error" in event else ""


class Streams:
    """So many clients at once, each of which asks again when it is answered, until they are told to stop."""

    def __init__(self, port: int, models: Sequence[str], questions: Sequence[str], most_tokens: int) -> None:
        """One client for each of `models`, a name as often as it is wanted."""
        self.answers: list[Answer] = []
        self._port = port
        self._models = models
        self._questions = questions
        self._most_tokens = most_tokens
        self._stopped = False
        self._number = 0

    async def __aenter__(self) -> "Streams":
        self._clients = [asyncio.create_task(self._keep_asking(model)) for model in self._models]
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Each answer under way comes to its own end."""
        self._stopped = True
        await asyncio.gather(*self._clients)

    def between(self, begun: float, ended: float) -> list[Answer]:
        """Those that were asked for in this time."""
        return [answer for answer in self.answers if begun <= answer.begun < ended]

    def gaps(self, begun: float, ended: float) -> list[float]:
        """Seconds from a token to the next, of all whose later one came in this time."""
        found = []
        for answer in self.answers:
            times = [at for at, _ in answer.pieces]
            found += [b - a for a, b in pairwise(times) if begun <= b < ended]
        return found

    async def until(self, holds: Callable[[Sequence[Answer]], bool], within: float) -> None:
        async with asyncio.timeout(within):
            while not holds(self.answers):  # noqa: ASYNC110  # they grow by themselves
                await asyncio.sleep(0.05)

    async def _keep_asking(self, model: str) -> None:
        while not self._stopped:
            self._number += 1
            question = self._questions[self._number % len(self._questions)]
            self.answers.append(await ask(self._port, model, question, self._most_tokens))
            if self.answers[-1].error:
                await asyncio.sleep(0.05)  # so that a door that is shut is not stormed
