"""A double of the client that sends requests to engines. It yields scripted chunks and errors, so no engine has to
run."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence

from pointsman_gateway.domain import Chunk, Chunks
from pointsman_gateway.engines import engine_client
from pointsman_gateway.engines.engine_client import EngineRequest
from pointsman_gateway.ports import AnswerSource, ChunkSink
from pointsman_servicekit.errors import PointsmanError

Step = str | PointsmanError | asyncio.Event
"""A part of the answer's text, the error with which the answer ends, or an event to wait for."""


class ScriptedClient:
    """Implements `EngineClient`: answers each request by the script of its engine, or with "hello"."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        """The names of the engines, in the order of their requests."""
        self.calls: list[EngineRequest] = []
        self.running: dict[str, int] = defaultdict(int)
        self._scripts: dict[str, Callable[[EngineRequest], tuple[Step, ...]]] = {}

    def says(self, engine: str, *steps: Step) -> None:
        self._scripts[engine] = lambda call: steps

    def fails(self, engine: str, status: int, retry_after: float | None = None) -> None:
        """Scripts an engine that answers with `status`; 0 means unreachable."""
        self._scripts[engine] = lambda call: (
            engine_client.refused(call, status, "not now", retry_after=retry_after)
            if status
            else engine_client.broke_off(call, "connection refused"),
        )

    def send(self, request: EngineRequest, sink: ChunkSink) -> "ScriptedTransfer":
        self.asked.append(request.engine)
        self.calls.append(request)
        self.running[request.engine] += 1
        script = self._scripts.get(request.engine)
        steps = script(request) if script else ("hello",)
        return ScriptedTransfer(request, steps, sink, self.running)


class ScriptedTransfer:
    """Implements `Transfer`."""

    def __init__(self, request: EngineRequest, steps: Sequence[Step], sink: ChunkSink, running: dict[str, int]) -> None:
        self.is_sent = True
        self._request = request
        self._sink: ChunkSink | None = sink
        self._running = running
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._task = asyncio.create_task(self._run(steps))

    def pause(self) -> None:
        self._goes_on.clear()

    def resume(self) -> None:
        self._goes_on.set()

    def close(self) -> None:
        if self._sink is not None:
            self._end()
            self._task.cancel()

    async def _run(self, steps: Sequence[Step]) -> None:
        begun = False
        for step in steps:
            await self._goes_on.wait()
            if isinstance(step, str):
                begun = True
                if self._sink is not None:
                    self._sink.chunks((Chunk(content=step),), False)
            elif isinstance(step, asyncio.Event):
                error = await _patiently(step, self._request, begun)
                if error is not None:
                    self._tell(error)
                    return
            else:
                self._tell(step)
                return
        await self._goes_on.wait()
        self._tell(None)

    def _tell(self, error: PointsmanError | None) -> None:
        if (sink := self._end()) is not None:
            sink.ended(error)

    def _end(self) -> ChunkSink | None:
        sink, self._sink = self._sink, None
        if sink is not None:
            self._running[self._request.engine] -= 1
        return sink


async def _patiently(event: asyncio.Event, call: EngineRequest, begun: bool) -> PointsmanError | None:
    """Waits for `event` within the call's timeouts, as every engine client does. Returns the error if a timeout has
    passed.
    """
    seconds = call.timeouts.stream_idle_seconds if begun else call.timeouts.first_token_seconds
    limit = min(asyncio.get_running_loop().time() + seconds, call.deadline)
    try:
        async with asyncio.timeout_at(limit):
            await event.wait()
    except TimeoutError:
        if limit == call.deadline:
            return engine_client.out_of_time()
        return engine_client.no_more_in_time(call) if begun else engine_client.no_first_token_in_time(call)
    return None


class _Received:
    """Implements `ChunkSink`: makes one source's chunks available for iteration."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Chunks | Exception | None] = asyncio.Queue()

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self.queue.put_nowait(chunks)

    def ended(self, error: Exception | None) -> None:
        self.queue.put_nowait(error)


async def chunks_of(source: AnswerSource) -> AsyncIterator[Chunks]:
    """Yields the chunks of an answer as they arrive; leaving the loop closes the answer."""
    received = _Received()
    try:
        source.attach(received)
        async for chunks in _until_the_end(received):
            yield chunks
    finally:
        source.close()


async def sent_by(send: Callable[[ChunkSink], object]) -> AsyncIterator[Chunks]:
    """Yields the chunks that a client's `send` delivers; leaving the loop closes the transfer."""
    received = _Received()
    transfer = send(received)
    try:
        async for chunks in _until_the_end(received):
            yield chunks
    finally:
        transfer.close()  # type: ignore[attr-defined]  # it is a transfer


async def _until_the_end(received: _Received) -> AsyncIterator[Chunks]:
    while not isinstance(item := await received.queue.get(), Exception | None):
        yield item
    if item is not None:
        raise item
