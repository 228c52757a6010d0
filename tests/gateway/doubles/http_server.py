"""Serves an aiohttp application on a free loopback port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from aiohttp import web


@asynccontextmanager
async def serving(app: web.Application, **options: Any) -> AsyncIterator[str]:
    """Yields the server's URL. `options` are aiohttp's for `AppRunner`."""
    runner = web.AppRunner(app, **options)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def answer_without_end(request: web.Request, piece: bytes, pause_s: float = 0.0) -> NoReturn:
    """Sends `piece` again and again, until the client leaves."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(piece)
        await asyncio.sleep(pause_s)
