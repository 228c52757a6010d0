"""A client of engines that answers as a test has scripted it, without any engine."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

from pointsman_gateway.backends import failures
from pointsman_gateway.backends.stage import Call
from pointsman_gateway.domain import Chunk, Chunks
from pointsman_servicekit.errors import PointsmanError

Step = str | PointsmanError | asyncio.Event
"""A piece of the answer, an end of it, or a thing to wait for."""


class ScriptedClient:
    """Implements `Client`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        """The engines, in the order in which they were asked."""
        self.calls: list[Call] = []
        self.running: dict[str, int] = defaultdict(int)
        self._scripts: dict[str, Callable[[Call], tuple[Step, ...]]] = {}

    def says(self, engine: str, *steps: Step) -> None:
        self._scripts[engine] = lambda call: steps

    def fails(self, engine: str, status: int, retry_after: str | None = None) -> None:
        """As an engine that answers with `status`; 0 is one that cannot be reached."""
        self._scripts[engine] = lambda call: (
            failures.refused(call, status, "not now", retry_after=retry_after)
            if status
            else failures.broke_off(call, "connection refused"),
        )

    async def stream(self, call: Call) -> AsyncIterator[Chunks]:
        self.asked.append(call.engine)
        self.calls.append(call)
        self.running[call.engine] += 1
        begun = False
        try:
            for step in self._scripts.get(call.engine, lambda call: ("hello",))(call):
                match step:
                    case str():
                        begun = True
                        yield (Chunk(content=step),)
                    case asyncio.Event():
                        await _patiently(step, call, begun)
                    case _:
                        raise step
        finally:
            self.running[call.engine] -= 1


async def _patiently(event: asyncio.Event, call: Call, begun: bool) -> None:
    """Within the call's times, as every client waits."""
    seconds = call.timeouts.stream_idle_seconds if begun else call.timeouts.first_token_seconds
    limit = min(asyncio.get_running_loop().time() + seconds, call.deadline)
    try:
        async with asyncio.timeout_at(limit):
            await event.wait()
    except TimeoutError:
        if limit == call.deadline:
            raise failures.out_of_time() from None
        raise failures.no_more_in_time(call) if begun else failures.no_first_token_in_time(call) from None
