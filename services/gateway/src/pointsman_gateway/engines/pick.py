"""The choice that an endpoint picker has made for one request, and the gateway's reports back to the picker.

An endpoint picker is an external service that chooses an engine. The gateway reports to it which engine answers, and
when the answer has ended.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
from pointsman.envoy import external_processor_pb2 as ext_proc

from pointsman_gateway.engines.lookups import Target
from pointsman_gateway.engines.picker_messages import end_message, served_message
from pointsman_gateway.ports import AnswerSource, AnswerStream, ChunkSink

REPORT_SECONDS = 1.0
"""Time limit for sending one report to the picker, and for the picker to end the stream afterwards."""

Start = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Pick:
    """An endpoint picker's choice of engines for one request, with the open stream for reports to the picker."""

    def __init__(self, targets: Sequence[Target], stream: Any, start: Start, release: Callable[[], None]) -> None:
        """Takes the chosen engines, the best one first, and the open stream to the picker. `start` runs a coroutine in
        a task, and `release`, which is called once, closes the stream.
        """
        self.targets = targets
        self._stream, self._start, self._release = stream, start, release
        self._served: asyncio.Task[None] | None = None
        self._has_ended = False

    def served(self, target: Target) -> None:
        """Reports to the picker that the engine `target` has begun to answer."""
        self._served = self._start(self._write(served_message(address_of(target))))

    def end(self) -> None:
        """Reports to the picker that the answer has ended, and ends the stream. Idempotent.

        If no engine has begun to answer, ends the stream without a report.
        """
        if self._has_ended:
            return
        self._has_ended = True
        if self._served is None:  # no engine has answered
            self._release()
        else:
            self._start(self._finish(self._served))

    async def _write(self, message: ext_proc.ProcessingRequest) -> None:
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError, TimeoutError):
            async with asyncio.timeout(REPORT_SECONDS):
                await self._stream.write(message)

    async def _finish(self, served: "asyncio.Task[None]") -> None:
        try:
            await asyncio.wait([served])
            await self._write(end_message())
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError, TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._stream.done_writing()
                    while await self._stream.read() is not grpc.aio.EOF:
                        pass
        finally:
            self._release()


def address_of(target: Target) -> str:
    """Returns the engine's address as HOST:PORT, as endpoint pickers expect it; an IPv6 address is in brackets."""
    url = urlsplit(target.engine.url)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return f"{host}:{url.port or (443 if url.scheme == 'https' else 80)}"


def reporting(answer: AnswerStream, pick: Pick) -> AnswerStream:
    """Reports to the picker that an engine has begun to answer. Returns the same answer, with a source that reports the
    answer's end too.

    If the answer comes from an engine that the picker has not chosen, ends the pick and returns `answer` unchanged.
    """
    served = next((target for target in pick.targets if target.engine.name == answer.engine), None)
    if served is None:  # an engine of another group has answered
        pick.end()
        return answer
    pick.served(served)
    return replace(answer, source=_Reporting(answer.source, pick))


class _Reporting:
    """The source of an answer, which reports the answer's end to a picker; implements `AnswerSource`."""

    def __init__(self, inner: AnswerSource, pick: Pick) -> None:
        self._inner = inner
        self._pick = pick

    def attach(self, sink: ChunkSink) -> None:
        self._inner.attach(sink)

    def pause(self) -> None:
        self._inner.pause()

    def resume(self) -> None:
        self._inner.resume()

    def close(self) -> None:
        try:
            self._inner.close()
        finally:
            self._pick.end()
