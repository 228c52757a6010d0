"""Server-sent events and plain answers whose work stops the moment the client hangs up, before the first byte too."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Answer = TypeVar("Answer")

DONE = b"data: [DONE]\n\n"


class ClientGone(Exception):
    """The client hung up; there is nobody to answer."""


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def until_hung_up(receive: Receive, work: Awaitable[Answer]) -> Answer:
    """The work's result; cancels it, and raises ClientGone, when the client hangs up first."""
    working = asyncio.ensure_future(work)
    hung_up = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({working, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for task in (working, hung_up):
            task.cancel()
        await asyncio.gather(working, hung_up, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends pieces as they come; closes their source at the end, whichever end it is."""

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Nothing is lost with the client: the request has been metered as cancelled where its source was closed.
        with suppress(ClientGone, OSError):
            await until_hung_up(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._pieces) as pieces:  # type: ignore[type-var]  # a generator's
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
