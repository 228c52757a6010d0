"""Finds the gateway's objects that only the garbage collector can free."""

import gc
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

TRIES = 3
"""Number of attempts; several, because unrelated background work may leave objects too."""


async def nothing_is_left(work: Callable[[], Awaitable[None]]) -> None:
    """Asserts that repeating the action leaves no objects for the garbage collector."""
    ours: list[Any] = []
    for _ in range(TRIES):
        ours = await _left_by(work)
        if not ours:
            return
    raise AssertionError(f"{len(ours)} are left: {[_named(one) for one in ours[:40]]}")


async def _left_by(work: Callable[[], Awaitable[None]]) -> list[Any]:
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await work()
        gc.collect()
        return [one for one in gc.garbage if _is_ours(one)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _is_ours(one: Any) -> bool:
    if isinstance(one, FrameType):
        return "/pointsman_" in one.f_code.co_filename
    return type(one).__module__.startswith("pointsman_")


def _named(one: Any) -> str:
    return one.f_code.co_qualname if isinstance(one, FrameType) else type(one).__qualname__
