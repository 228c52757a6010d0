"""Running a command's work so that Ctrl-C and SIGTERM end it cleanly."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from pointsman_servicekit.process import wait_for_stop_signal

from pointsman_cli.errors import Interrupted

T = TypeVar("T")


def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`; the first signal cancels it and waits for its cleaning up. A second one ends the process at once.

    Raises `Interrupted`, unless the cancelled work returns all the same: then being told to stop is its proper end.
    """
    return asyncio.run(_interruptibly(work))


async def _interruptibly(work: Coroutine[Any, Any, T]) -> T:
    working = asyncio.ensure_future(work)
    told = asyncio.ensure_future(wait_for_stop_signal())
    await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
    if not told.done():
        told.cancel()
        with suppress(asyncio.CancelledError):
            await told
        return await working
    working.cancel()
    try:
        return await working
    except asyncio.CancelledError:
        raise Interrupted(f"interrupted ({told.result().name})") from None
