"""Waits for conditions instead of fixed times."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")


async def until(condition: Callable[[], object], within: float = 15.0) -> None:
    """Returns once `condition` is true; raises TimeoutError if that takes too long, on a busy machine too."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  # what is waited for belongs to the code under test and has no event
            await asyncio.sleep(0.002)


async def found(look: Callable[[], Awaitable[Found | None]], within: float = 10.0) -> Found:
    """Returns the first value that `look` finds; raises TimeoutError if that takes too long."""
    async with asyncio.timeout(within):
        while True:
            something = await look()
            if something:
                return something
            await asyncio.sleep(0.01)
