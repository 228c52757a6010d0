"""One call to one engine: sends the request, reads the answer, and records the outcome in metrics and breaker."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from pointsman_servicekit.eager import Signal
from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError, Unavailable, take_error

from pointsman_gateway.domain import Chunks
from pointsman_gateway.engines.balancing import TargetQueue
from pointsman_gateway.engines.engine_client import (
    FIRST_TOKEN_TIMEOUT,
    MAX_COOLDOWN_SECONDS,
    OVERLOADED,
    CompletionRequest,
    EngineClient,
    EngineFailed,
    EngineRequest,
    NotServed,
    Transfer,
    broke_off,
    counts_against_engine,
    not_resident,
    out_of_time,
)
from pointsman_gateway.engines.lookups import Target
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.ports import AnswerStream, CallRecord, ChunkSink

log = logging.getLogger(__name__)


class BusyTimeTracker(Protocol):
    """Interface for measuring how long the requests of each path keep an engine busy; `EngineCosts` implements it.

    The cost of an engine that is paid by the hour is divided among the paths by these times.
    """

    def begin(self, engine: str, path: str) -> Any:
        """Starts to measure the time of an answer on the path `path` by the engine named `engine`.

        Returns an interval to pass to `end`; None if the engine is not paid by the hour, and then `end` is not
        called.
        """
        ...

    def end(self, interval: Any, inference: float | None) -> None:
        """Ends the interval of an answer, as returned by `begin`.

        `inference` is the seconds of work that the engine reported for the answer; None if it reported none.
        """
        ...


class NullBusyTimeTracker:
    """Measures nothing, for a gateway without engines paid by the hour; implements `BusyTimeTracker`."""

    def begin(self, engine: str, path: str) -> None:
        return None

    def end(self, interval: Any, inference: float | None) -> None:
        pass


class EngineCaller:
    """Makes one call to an engine, without retries; implements `TargetCaller`."""

    def __init__(
        self, client: EngineClient, metrics: EngineMetrics, clock: Callable[[], float], busy_times: BusyTimeTracker
    ) -> None:
        """Takes the event loop's `clock`, by which deadlines are measured."""
        self.client = client
        self.metrics = metrics
        self.busy_times = busy_times
        self._clock = clock

    async def call(self, target: Target, others: TargetQueue, request: CompletionRequest) -> AnswerStream:
        """Sends the request to the engine `target`, and returns the answer once its first chunk has arrived.

        `others` is not used. Raises EngineFailed or a subclass if the engine fails, DeadlineExceeded if the request's
        deadline passes, and InvalidArgument if the engine rejects the request or its API cannot express it.
        """
        if self._clock() >= request.deadline:
            raise out_of_time()
        call = EngineCall(self, target, request)
        try:
            await call.first()
        except BaseException:
            call.close()
            raise
        return AnswerStream(target.model, call, engine=target.engine.name)


def to_engine_request(target: Target, request: CompletionRequest) -> EngineRequest:
    """Returns the request to send to the engine of `target`, with the engine's URL, model name, API and timeouts."""
    engine, settings, sampling = target.engine, target.settings, request.sampling
    if settings.sends_caller:
        sampling = settings.with_caller(sampling, request.caller, target.model if target.is_adapter else "")
    return EngineRequest(
        engine.name,
        engine.url,
        target.upstream_model,
        request.messages,
        sampling,
        request.deadline,
        engine.api,
        settings.timeouts,
        request.operation,
        "",
        request.as_a_whole,
        request.max_bytes,
    )


class EngineCall:
    """One request to one engine: receives the engine's answer in chunks, and passes the chunks on to a sink.

    Until a sink is attached, it holds the first chunks and stops reading from the engine. Implements `ChunkSink`,
    through which the HTTP client delivers the chunks, and `AnswerSource`, through which the pipeline attaches its sink.
    """

    __slots__ = (
        "_awaits_sink",
        "_began_at",
        "_began_signal",
        "_busy_interval",
        "_caller",
        "_entry",
        "_first",
        "_first_is_last",
        "_has_begun",
        "_has_ended",
        "_is_busy",
        "_last",
        "_record",
        "_reported",
        "_request",
        "_sink",
        "_stall_seconds",
        "_target",
        "_transfer",
        "error",
    )

    def __init__(self, caller: EngineCaller, target: Target, request: CompletionRequest) -> None:
        """Sends `request` to the engine `target`, and counts the call as in flight until the answer's end or `close`.

        Raises InvalidArgument if the engine's API cannot express the request, or Unavailable if sending fails at once.
        """
        engine, state = target.engine, target.state
        self._caller = caller
        self._target = target
        self._reported = engine
        self._request = to_engine_request(target, request)
        self._stall_seconds = request.stall_seconds
        self._record: CallRecord | None = request.record
        self._began_signal = Signal()
        self._sink: ChunkSink | None = None
        self._first: Chunks = ()
        self._last: Chunks = ()
        self.error: Exception | None = None
        """The error that ended the answer, until it is raised or passed to the sink."""
        self._has_begun = self._has_ended = self._first_is_last = self._awaits_sink = False
        self._busy_interval = caller.busy_times.begin(engine.name, request.path)
        self._began_at = state.clock()
        self._is_busy = True
        self._entry = state.breaker.enter()
        state.in_flight += 1
        self._transfer: Transfer | None = None
        try:
            self._transfer = caller.client.send(self._request, self)
        except Exception as error:
            self._leave(error)
            raise

    async def first(self) -> None:
        """Waits until the answer's first chunk has arrived.

        If the call ends without a chunk, raises its error: InvalidArgument, Unavailable or DeadlineExceeded, with a
        code from the table in `engine_client`.
        """
        await self._began_signal
        if not self._has_begun:
            raise take_error(self)

    # -- called by the run

    def attach(self, sink: ChunkSink) -> None:
        self._sink = sink
        first, self._first = self._first, ()
        sink.chunks(first, self._first_is_last)
        if self._has_ended:
            error, self.error = self.error, None
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
        if self._sink is None and (self._has_begun or not self._has_ended):
            self._record_unanswered()
        transfer, self._transfer, self._sink = self._transfer, None, None
        try:
            if transfer is not None:
                transfer.close()
        finally:
            self._leave(None if self._has_ended else asyncio.CancelledError())

    # -- called by the client

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self._last = chunks
        if not self._has_begun:
            self._begin(chunks, last)
        elif self._sink is None:
            self._first += chunks
            self._first_is_last = last
        else:
            state = self._target.state
            state.breaker.last_success = state.clock()
            try:
                self._sink.chunks(chunks, last)
            except Exception as error:
                # Other exceptions are not the engine's failure.
                self._leave(error if isinstance(error, EngineFailed) else asyncio.CancelledError())
                self.ended(error)

    def ended(self, error: Exception | None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if not self._has_begun and _is_too_late(error):
            self._record_unanswered()
        if error is None and not self._has_begun:
            error = broke_off(self._request, "it answered nothing")
        if isinstance(error, NotServed):
            error = self._evicted(error)
        if error is not None:
            self._leave(error)  # before a retry chooses the next engine
        sink = self._sink
        if sink is not None:
            sink.ended(error)  # first, because the client of the gateway waits for it
        else:
            self.error = error
            self._began_signal.set()
        self._leave(None)

    # -- bookkeeping

    def _begin(self, chunks: Chunks, last: bool) -> None:
        self._has_begun = True
        self._first, self._first_is_last = chunks, last
        if self._target.state.breaker.succeeded(self._entry, self._target.settings.breaker):
            log.info("engine %s answers again", self._target.engine.name)
        self._began_signal.set()
        if self._sink is None:
            self._awaits_sink = True
            self.pause()

    def _record_unanswered(self) -> None:
        """Reports, once, that the engine has the prompt, and that its answer is not used."""
        record, self._record = self._record, None
        if record is not None and self._transfer is not None and self._transfer.is_sent:
            record.record_unanswered(self._target.engine.name, self._target.model)

    def _evicted(self, error: NotServed) -> PointsmanError:
        """Returns the error to report for a 404: NotResident if an adapter was requested, whose eviction is recorded;
        `error` itself otherwise.
        """
        target = self._target
        if not target.is_adapter:
            return error
        self._caller.metrics.evicted(target.engine.name)
        target.state.mark_evicted(target.model, self._reported)
        return not_resident(target.engine.name, target.model)

    def _leave(self, error: BaseException | None) -> None:
        """Records the call's end in the engine's load, the metrics and the breaker, once: later calls do nothing."""
        if not self._is_busy:
            return
        self._is_busy = False
        state, metrics = self._target.state, self._caller.metrics
        state.in_flight -= 1
        if self._busy_interval is not None:
            self._caller.busy_times.end(self._busy_interval, _inference_seconds(self._last))
        metrics.ended(self._request, self._target.model, _outcome(error), state.clock() - self._began_at)
        if error is None:
            return
        if not self._counts_as_failure(error):
            state.breaker.undecided(self._entry)
        elif state.breaker.failed(self._entry, self._target.settings.breaker):
            name = self._target.engine.name
            log.warning("engine %s: circuit breaker open for %.0f s: %s", name, state.breaker.cooldown_left, error)
            metrics.opened(name)
        if isinstance(error, Unavailable) and error.code == OVERLOADED and error.retry_after:
            state.cool_down(min(error.retry_after, MAX_COOLDOWN_SECONDS))

    def _counts_as_failure(self, error: BaseException) -> bool:
        if isinstance(error, PointsmanError) and not isinstance(error, DeadlineExceeded):
            return counts_against_engine(error)
        # The client or the deadline gave up: the engine has failed only if it was silent to all its requests.
        state = self._target.state
        return state.breaker.last_success < self._began_at <= state.clock() - self._stall_seconds


def _is_too_late(error: Exception | None) -> bool:
    """Returns whether a call ended because its engine took too long, and not because it failed or refused."""
    return isinstance(error, PointsmanError) and (
        isinstance(error, DeadlineExceeded) or error.code == FIRST_TOKEN_TIMEOUT
    )


def _inference_seconds(last: Chunks) -> float | None:
    """Returns the seconds of work that the engine reports for an answer; None if it reports none."""
    usage = last[-1].usage if last else None
    return usage.seconds.inference if usage is not None and usage.seconds is not None else None


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    if isinstance(error, PointsmanError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "internal"
