"""Many questions to the gateway, a few at once; each answer is kept as it comes, so that none is asked for twice."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from pointsman_cli.distill.plan import Messages
from pointsman_cli.errors import CommandError

AT_ONCE = 4
TRIES = 6
LONGEST_WAIT = 30.0
"""Seconds that a gateway may ask to wait before a question is asked again."""
_TIMEOUT = httpx.Timeout(130.0, connect=5.0)  # seconds; the gateway's own for a whole request is 120


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

    async def answers(
        self,
        model: str,
        asking: Mapping[str, Any],
        questions: Sequence[Messages],
        file: Path,
        progress: Callable[[int, int], None],
    ) -> list[Answer]:
        """In the questions' order. `file` has those that are known, and gets the others. Raises CommandError."""
        bodies = [{"model": model, "messages": list(question), **asking} for question in questions]
        known = {answer.place: answer for answer in _read(file)}
        missing = {place: body for body in bodies if (place := _place(body)) not in known}
        async with httpx.AsyncClient(
            base_url=self._url, timeout=_TIMEOUT, trust_env=False, headers=self._headers
        ) as client:
            waiting = iter(missing.items())

            async def ask_on() -> None:
                for place, body in waiting:  # one iterator for all: each takes the next
                    answer = await self._answer(client, place, body)
                    known[place] = answer
                    _append(file, answer)
                    progress(len(questions) - len(missing) + sum(one in known for one in missing), len(questions))

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(AT_ONCE):
                        group.create_task(ask_on())
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
        return [known[_place(body)] for body in bodies]

    async def _answer(self, client: httpx.AsyncClient, place: str, body: Mapping[str, Any]) -> Answer:
        """Raises CommandError where going on makes no sense."""
        for tries_left in reversed(range(TRIES)):
            try:
                response = await client.post("/v1/chat/completions", json=body)
            except httpx.HTTPError as error:
                raise CommandError(f"the gateway at {self._url} does not answer: {error!r}") from error
            if response.is_success:
                choice = response.json()["choices"][0]
                return Answer(place, choice["message"]["content"] or "", choice["finish_reason"] or "")
            if response.status_code not in (429, 503) or not tries_left:
                return _failed(place, response)
            await asyncio.sleep(min(float(response.headers.get("retry-after", 1)), LONGEST_WAIT))
        raise AssertionError("the last try returns")


def _failed(place: str, response: httpx.Response) -> Answer:
    try:
        error = response.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        code, message = f"http_{response.status_code}", response.text[:200]
    if response.status_code in (401, 403, 404, 503):
        raise CommandError(f"the gateway refuses: {message} ({code})")
    return Answer(place, "", "", code)


def _place(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def _read(file: Path) -> Iterable[Answer]:
    """A line that a kill left half written is passed over."""
    if not file.is_file():
        return
    for line in file.read_text("utf-8").splitlines():
        try:
            yield Answer(**json.loads(line))
        except (ValueError, TypeError):
            continue


def _append(file: Path, answer: Answer) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
