"""Waits for conditions; tests use this instead of sleeping."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")


async def until(condition: Callable[[], object], within: float = 15.0) -> None:
    """Waits until `condition()` is true. Raises TimeoutError after `within` seconds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110  # what is waited for belongs to the code under test and has no event
            await asyncio.sleep(0.002)


async def found(look: Callable[[], Awaitable[Found | None]], within: float = 10.0) -> Found:
    """Calls `look` until it returns a truthy value, and returns that value. Raises TimeoutError after `within`
    seconds.
    """
    async with asyncio.timeout(within):
        while True:
            something = await look()
            if something:
                return something
            await asyncio.sleep(0.01)
