"""Work that stops the moment its client hangs up."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive, Scope

Answer = TypeVar("Answer")

ON_HANG_UP = "pointsman.on_hang_up"
"""In an ASGI scope, by a server that can: what it calls when the client hangs up before its answer is complete.

It is None at first, and `HUNG_UP` where that has happened already. Waiting for `receive` to say so instead takes a task
of its own, which costs more than reading the request.
"""
HUNG_UP = "hung up"


class ClientGone(Exception):
    """The client hung up; there is nobody to answer."""


async def until_hung_up(scope: Scope, receive: Receive, work: Coroutine[Any, Any, Answer]) -> Answer:
    """The work's result; cancels it, and raises ClientGone, when the client hangs up first."""
    working = asyncio.current_task()
    assert working is not None
    watch = _Watch(working)
    watching = None
    if ON_HANG_UP not in scope:
        watching = asyncio.create_task(watch.listen(receive))
    elif scope[ON_HANG_UP] is HUNG_UP:
        work.close()
        raise ClientGone
    else:
        scope[ON_HANG_UP] = watch.hung_up
    try:
        return await work
    except asyncio.CancelledError:
        if watch.gone and working.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        if watching is None:
            scope[ON_HANG_UP] = HUNG_UP if watch.gone else None
        else:
            watching.cancel()


class _Watch:
    def __init__(self, working: asyncio.Task[Any]) -> None:
        self.gone = False
        self._working = working

    def hung_up(self) -> None:
        self.gone = True
        self._working.cancel()

    async def listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.hung_up()
