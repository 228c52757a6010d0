"""One engine at work on one answer: counted, accounted for, and reported to the engine's breaker."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from pointsman_servicekit.eager import Signal
from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError, Unavailable

from pointsman_gateway.domain import Chunks
from pointsman_gateway.engines import engine_client
from pointsman_gateway.engines.engine_client import CompletionRequest, EngineClient, EngineRequest, Transfer
from pointsman_gateway.engines.engines import Target
from pointsman_gateway.engines.failover import Candidates
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.pipeline.ports import ChunkSink, OpenAnswer

log = logging.getLogger(__name__)


class Accounts(Protocol):
    """Records when engines are at work, and for which path: whose hours they are."""

    def begin(self, engine: str, path: str) -> Any:
        """What `end` is to be called with; None if the engine is not paid by the hour."""
        ...

    def end(self, stay: Any, inference: float | None) -> None:
        """`inference`: seconds of work, as the engine reports them; None if it does not."""
        ...


class NoAccounts:
    """Implements `Accounts` if no engine is paid by the hour."""

    def begin(self, engine: str, path: str) -> None:
        return None

    def end(self, stay: Any, inference: float | None) -> None:
        pass


class EngineCaller:
    """Opens answers of the engine that it is given, and of no other."""

    def __init__(
        self, client: EngineClient, metrics: EngineMetrics, clock: Callable[[], float], accounts: Accounts
    ) -> None:
        """`clock` is the event loop's, by which deadlines are measured."""
        self.client = client
        self.metrics = metrics
        self.accounts = accounts
        self._clock = clock

    async def open(self, target: Target, others: Candidates, wanted: CompletionRequest) -> OpenAnswer:
        """Raises Unavailable, DeadlineExceeded, and what the engine refuses."""
        if self._clock() >= wanted.deadline:
            raise engine_client.out_of_time()
        call = EngineCall(self, target, wanted)
        try:
            await call.first()
        except BaseException:
            call.close()
            raise
        return OpenAnswer(target.model, call)


class EngineCall:
    """Sends a request to one engine, and is the only one that reads its answer. Implements `AnswerSource`.

    It implements `ChunkSink` too, for the client that pushes the answer. Until a sink is attached, only the first
    chunks are read.
    """

    __slots__ = (
        "_awaits_sink",
        "_began_at",
        "_began_signal",
        "_caller",
        "_entry",
        "_error",
        "_first",
        "_first_is_last",
        "_has_begun",
        "_has_ended",
        "_is_busy",
        "_last",
        "_request",
        "_sink",
        "_stall_seconds",
        "_stay",
        "_target",
        "_transfer",
    )

    def __init__(self, caller: EngineCaller, target: Target, wanted: CompletionRequest) -> None:
        """The engine counts as busy from now on."""
        engine, cell = target.engine, target.cell
        self._caller = caller
        self._target = target
        self._request = EngineRequest(
            engine.name,
            engine.url,
            target.model,
            wanted.messages,
            wanted.sampling,
            wanted.deadline,
            engine.api_key,
            target.plan.timeouts,
            wanted.operation,
            "",
            wanted.as_a_whole,
        )
        self._stall_seconds = wanted.stall_seconds
        self._began_signal = Signal()
        self._sink: ChunkSink | None = None
        self._first: Chunks = ()
        self._last: Chunks = ()
        self._error: Exception | None = None
        self._has_begun = self._has_ended = self._first_is_last = self._awaits_sink = False
        self._stay = caller.accounts.begin(engine.name, wanted.path)
        self._began_at = cell.clock()
        self._is_busy = True
        self._entry = cell.breaker.enter()
        cell.in_flight += 1
        self._transfer: Transfer | None = None
        try:
            self._transfer = caller.client.send(self._request, self)
        except Exception as error:
            self._leave(error)
            raise

    async def first(self) -> None:
        """Waits for the first chunk. Raises what the engine failed with before it."""
        await self._began_signal
        if not self._has_begun:
            error, self._error = self._error, None
            try:
                assert error is not None
                raise error
            finally:
                error = None  # the error's traceback has this frame, which would hold the error

    # -- what the run does

    def attach(self, sink: ChunkSink) -> None:
        self._sink = sink
        first, self._first = self._first, ()
        sink.chunks(first, self._first_is_last)
        if self._has_ended:
            error, self._error = self._error, None
            sink.ended(error)
        elif self._awaits_sink:
            self._awaits_sink = False
            self.resume()

    def pause(self) -> None:
        if self._transfer is not None:
            self._transfer.pause()

    def resume(self) -> None:
        if self._transfer is not None:
            self._transfer.resume()

    def close(self) -> None:
        transfer, self._transfer, self._sink = self._transfer, None, None
        if transfer is not None:
            transfer.close()
        self._leave(None if self._has_ended else asyncio.CancelledError())

    # -- what the client does

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self._last = chunks
        if not self._has_begun:
            self._begin(chunks, last)
        elif self._sink is None:
            self._first += chunks
            self._first_is_last = last
        else:
            self._target.cell.breaker.heard = self._target.cell.clock()
            self._push(self._sink, chunks, last)

    def ended(self, error: Exception | None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if error is None and not self._has_begun:
            error = engine_client.broke_off(self._request, "it answered nothing")
        if isinstance(error, engine_client.NotServed):
            error = self._not_there(error)
        if error is not None:
            self._leave(error)  # before anybody asks the next engine
        sink = self._sink
        if sink is not None:
            sink.ended(error)  # before anything else: the caller waits for it
        else:
            self._error = error
            self._began_signal.set()
        self._leave(None)

    # -- what comes of it

    def _begin(self, chunks: Chunks, last: bool) -> None:
        self._has_begun = True
        self._first, self._first_is_last = chunks, last
        if self._target.cell.breaker.succeeded(self._entry, self._target.plan.breaker):
            log.info("engine %s answers again", self._target.engine.name)
        self._began_signal.set()
        if self._sink is None:
            self._awaits_sink = True
            self.pause()

    def _push(self, sink: ChunkSink, chunks: Chunks, last: bool) -> None:
        try:
            sink.chunks(chunks, last)
        except Exception as error:
            self._leave(asyncio.CancelledError())  # it is not the engine's failure
            self.ended(error)

    def _not_there(self, error: engine_client.NotServed) -> PointsmanError:
        """An adapter that the engine was said to hold has been evicted; its state is corrected."""
        target = self._target
        if not target.of_adapter:
            return error
        self._caller.metrics.evicted(target.engine.name)
        target.cell.lacks(target.model, target.engine)
        return engine_client.not_resident(target.engine.name, target.model)

    def _leave(self, error: BaseException | None) -> None:
        """The engine is no longer busy with this; only the first end counts."""
        if not self._is_busy:
            return
        self._is_busy = False
        cell, metrics = self._target.cell, self._caller.metrics
        cell.in_flight -= 1
        if self._stay is not None:
            self._caller.accounts.end(self._stay, _inference_seconds(self._last))
        metrics.ended(self._request, _outcome(error), cell.clock() - self._began_at)
        if error is None:
            return
        if not self._is_held_against_it(error):
            cell.breaker.undecided(self._entry)
        elif cell.breaker.failed(self._entry, self._target.plan.breaker):
            name = self._target.engine.name
            log.warning("engine %s is left alone for %.0f s: %s", name, cell.breaker.rest_left, error)
            metrics.opened(name)
        if isinstance(error, Unavailable) and error.code == engine_client.OVERLOADED and error.retry_after:
            cell.rest(min(error.retry_after, engine_client.MAX_COOLDOWN_SECONDS))

    def _is_held_against_it(self, error: BaseException) -> bool:
        if isinstance(error, PointsmanError) and not isinstance(error, DeadlineExceeded):
            return engine_client.counts_against_engine(error)
        # Somebody gave up, the caller or the deadline: the engine is at fault only if it was silent to everybody.
        cell = self._target.cell
        return cell.breaker.heard < self._began_at <= cell.clock() - self._stall_seconds


def _inference_seconds(last: Chunks) -> float | None:
    """Seconds that the engine reports to have worked; None if it does not."""
    usage = last[-1].usage if last else None
    return usage.seconds.inference if usage is not None and usage.seconds is not None else None


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    if isinstance(error, PointsmanError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "internal"
