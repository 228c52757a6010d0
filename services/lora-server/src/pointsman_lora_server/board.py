"""What is true now, in one place: it is changed here, and everyone who watches is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pointsman_lora_server.domain import EngineState


class Board:
    def __init__(self, heartbeat: float = 5.0) -> None:
        """`heartbeat`: seconds after which an unchanged state is told again; the contract promises 10 at most."""
        self._heartbeat = heartbeat
        self._state = EngineState()
        self._changed = asyncio.Event()
        self._closed = False

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def closed(self) -> bool:
        return self._closed

    def update(self, **changes: Any) -> None:
        """Sets fields of the state; what changes nothing is not told."""
        changed = replace(self._state, **changes)
        if changed == self._state:
            return
        self._state = replace(changed, sequence=self._state.sequence + 1)
        self._wake()

    def close(self) -> None:
        """Ends every watch."""
        self._closed = True
        self._wake()

    async def watch(self) -> AsyncIterator[EngineState]:
        """The state now, after each change, and after each heartbeat; quick changes may be told as one."""
        while not self._closed:
            changed = self._changed
            yield self._state
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat):
                    await changed.wait()

    async def until_changed(self, seconds: float) -> None:
        """Waits for the next change, `seconds` at most."""
        changed = self._changed
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
