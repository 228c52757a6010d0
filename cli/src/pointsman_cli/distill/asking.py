"""Many questions to the gateway, a few at once; each answer is kept as it comes, so that none is asked for twice."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from pointsman_cli.errors import CommandError, Refused, Unreachable
from pointsman_cli.gateway.answers import AnswerEnd, TextChunk
from pointsman_cli.gateway.http_client import open_client, stream_answer
from pointsman_cli.json_lines import whole_lines

AT_ONCE = 4
TRIES = 6
WAIT, LONGEST_WAIT = 5.0, 30.0
"""Seconds before a question is asked again, where the gateway names none, and at most."""
OF_THE_QUESTION = ("context_length_exceeded", "engine_refused")
"""Codes with which a question is refused for itself: that is its answer, and a bad one. All else says nothing of
whoever was to answer, and is tried again."""
FOR_ALL = ("missing_key", "unknown_key", "revoked_key", "expired_key", "not_in_scope", "unknown_model")
"""Codes with which every question would be refused."""

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    place: str
    """Of the question: a digest of all that was asked."""
    text: str
    finish_reason: str
    error: str = ""
    """The gateway's code; the text is empty then."""


class Gateway:
    def __init__(self, url: str, key: str = "") -> None:
        """`key`: of a gateway that has keys on."""
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def open(self) -> httpx.AsyncClient:
        return open_client(self._url, self._headers)

    async def answers(
        self,
        model: str,
        asking: Mapping[str, Any],
        questions: Sequence[Messages],
        file: Path,
        progress: Callable[[int, int], None],
    ) -> list[Answer]:
        """In the questions' order. `file` has those that are known, and gets the others. Raises CommandError."""
        bodies = [{"model": model, "messages": list(question), "stream": False, **asking} for question in questions]
        places = [_place(body) for body in bodies]
        known = {answer.place: answer for answer in _read(file)}
        waiting = iter(
            [(place, body) for place, body in dict(zip(places, bodies, strict=True)).items() if place not in known]
        )

        async def ask_on(client: httpx.AsyncClient) -> None:
            for place, body in waiting:  # one iterator for all: each takes the next
                known[place] = await _answer(client, place, body)
                _append(file, known[place])
                progress(sum(one in known for one in places), len(places))

        async with self.open() as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(AT_ONCE):
                        group.create_task(ask_on(client))
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
        return [known[place] for place in places]


async def _answer(client: httpx.AsyncClient, place: str, body: Mapping[str, Any]) -> Answer:
    """Raises CommandError where nobody answers, try as one may."""
    for tries_left in reversed(range(TRIES)):
        wait = WAIT
        try:
            return await _asked(client, place, body)
        except Unreachable:
            raise
        except Refused as error:
            if error.code in OF_THE_QUESTION:
                return Answer(place, "", "", error.code)
            if error.code in FOR_ALL or not tries_left:
                raise
            wait = error.retry_after or WAIT
        except CommandError:
            if not tries_left:
                raise
        await asyncio.sleep(min(wait, LONGEST_WAIT))
    raise AssertionError("the last try returns or raises")


async def _asked(client: httpx.AsyncClient, place: str, body: Mapping[str, Any]) -> Answer:
    text, ending = "", AnswerEnd()
    async for event in stream_answer(client, body):
        if isinstance(event, TextChunk):
            text += event.content
        elif isinstance(event, AnswerEnd):
            ending = event
    return Answer(place, text, ending.finish_reason or "")


def _place(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def _read(file: Path) -> Iterable[Answer]:
    """A line that a kill left half written is cut off."""
    if not file.is_file():
        return
    for _, line in whole_lines(file):
        try:
            yield Answer(**json.loads(line))
        except (ValueError, TypeError):
            continue


def _append(file: Path, answer: Answer) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
