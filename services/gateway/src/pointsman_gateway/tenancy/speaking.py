"""One at a time speaks to Redis of a tenant's slices; all who waited for the end of that go on at once."""

import asyncio
from types import TracebackType


class Speaking:
    """A block in which nobody else speaks.

    No `asyncio.Lock`: that lets in one with each turn of the event loop. Under load a turn takes milliseconds, and of
    hundreds of requests that wait for one slice the last would go on seconds after it has come.
    """

    def __init__(self) -> None:
        self._silent = asyncio.Event()
        self._silent.set()

    @property
    def under_way(self) -> bool:
        return not self._silent.is_set()

    async def over(self) -> None:
        """Waits until who speaks now is done; another may have begun by then."""
        await self._silent.wait()

    async def __aenter__(self) -> None:
        while self.under_way:
            await self.over()
        self._silent.clear()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._silent.set()
