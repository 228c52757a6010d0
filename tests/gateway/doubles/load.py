"""Clients that send requests continuously and record their outcomes."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from tests.gateway.doubles.waiting import until


@dataclass(frozen=True)
class Outcome:
    """The outcome of one request."""

    begun: float
    """Start time, by time.monotonic()."""
    seconds: float
    status: int
    code: str
    """The error's code; empty without an error."""
    begins: bool
    """Whether any part of the answer has arrived."""
    text: str = ""
    path: str = ""
    model: str = ""
    retry_after: str = ""

    @property
    def ok(self) -> bool:
        """Whether the answer was complete."""
        return self.status == 200 and not self.code


def _any(outcome: Outcome) -> bool:
    return True


class Load:
    """Concurrent clients that send one request after the other until they are stopped."""

    def __init__(self, url: str, text: str, deadline: float, model: str, headers: Mapping[str, str] = {}) -> None:
        self.outcomes: list[Outcome] = []
        self.streaming = 0
        """Number of answers that have begun and not ended."""
        self.stopped = False
        self._url = url
        self._body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True}
        self._headers = {"x-request-timeout": f"{deadline:g}", **headers}

    async def more(self, count: int, which: Callable[[Outcome], bool] = _any, within: float = 60) -> None:
        """Waits until `count` more requests, sent from now on, have had an outcome of the kind that `which` accepts."""
        since = time.monotonic()
        await until(lambda: sum(o.begun >= since and which(o) for o in self.outcomes) >= count, within)

    def since(self, moment: float) -> list[Outcome]:
        """Returns the requests sent after this time."""
        return [outcome for outcome in self.outcomes if outcome.begun >= moment]

    async def keep_asking(self, session: aiohttp.ClientSession) -> None:
        while not self.stopped:
            self.outcomes.append(await self.ask(session))
            await asyncio.sleep(0)

    async def ask(self, session: aiohttp.ClientSession) -> Outcome:
        begun = time.monotonic()
        try:
            async with session.post(self._url, json=self._body, headers=self._headers) as answer:
                if answer.status != 200:
                    return _refused(begun, answer, (await answer.json())["error"]["code"])
                return await self._read(begun, answer)
        except (aiohttp.ClientError, OSError) as error:
            return Outcome(begun, time.monotonic() - begun, 0, type(error).__name__, begins=False)

    async def _read(self, begun: float, answer: aiohttp.ClientResponse) -> Outcome:
        text, code, model, done = "", "", "", False
        self.streaming += 1
        try:
            async for line in answer.content:
                data = line.strip().removeprefix(b"data: ")
                if data == b"[DONE]":
                    done = True
                elif data:
                    event = json.loads(data)
                    code = event.get("error", {}).get("code", code)
                    model = event.get("model", model)
                    for choice in event.get("choices", ()):
                        text += choice["delta"].get("content") or ""
        finally:
            self.streaming -= 1
        code = code or ("" if done else "cut_without_a_word")
        path = answer.headers["x-pointsman-path"]
        return Outcome(begun, time.monotonic() - begun, 200, code, bool(text), text, path, model)


def _refused(begun: float, answer: aiohttp.ClientResponse, code: str) -> Outcome:
    retry_after = answer.headers.get("retry-after", "")
    return Outcome(begun, time.monotonic() - begun, answer.status, code, begins=False, retry_after=retry_after)


@asynccontextmanager
async def under_load(
    url: str,
    text: str,
    *,
    clients: int = 8,
    deadline: float = 10.0,
    model: str = "auto",
    headers: Mapping[str, str] = {},
) -> AsyncIterator[Load]:
    """Runs clients for the length of the block, and then waits for their pending requests."""
    load = Load(f"{url}/v1/chat/completions", text, deadline, model, headers)
    connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=deadline + 60)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
        asking = [asyncio.create_task(load.keep_asking(session)) for _ in range(clients)]
        try:
            yield load
        finally:
            load.stopped = True
            await asyncio.gather(*asking)
