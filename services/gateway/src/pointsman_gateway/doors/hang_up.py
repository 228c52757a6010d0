"""Work that stops the moment its client hangs up."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

Answer = TypeVar("Answer")


class ClientGone(Exception):
    """The client hung up; there is nobody to answer."""


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
