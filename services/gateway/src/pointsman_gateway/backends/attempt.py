"""Asks one engine: counted, and with its breaker told what came of it. Its times are the client's to keep."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError, Unavailable

from pointsman_gateway.backends import failures
from pointsman_gateway.backends.balancing import Candidates
from pointsman_gateway.backends.call import Call, Client, Opened
from pointsman_gateway.backends.engines import Target
from pointsman_gateway.backends.metrics import EngineMetrics
from pointsman_gateway.domain import Chunks, Message, Operation, Sampling
from pointsman_gateway.domain.value import value

log = logging.getLogger(__name__)

STALL = 5.0
"""Seconds of waiting in vain after which an engine that was silent to everybody has failed, whoever gave up."""


class Accounts(Protocol):
    """Notes when engines are at work, and for which path: who pays for their hours."""

    def begin(self, engine: str, path: str) -> Any:
        """What `end` is to be called with; None where the engine is not paid by the hour."""
        ...

    def end(self, stay: Any, inference: float | None) -> None:
        """`inference`: seconds of work, as the engine says; None where it does not."""
        ...


class NoAccounts:
    """Implements `Accounts`: nobody is paid by the hour."""

    def begin(self, engine: str, path: str) -> None:
        return None

    def end(self, stay: Any, inference: float | None) -> None:
        pass


@value
class Asked:
    """What is wanted, of whichever engine."""

    messages: Sequence[Message]
    sampling: Sampling
    deadline: float
    stall: float = STALL
    operation: Operation = "chat"
    path: str = ""
    """Along which."""


class Asking:
    """Asks the engine that it is given, and no other."""

    def __init__(
        self,
        client: Client,
        metrics: EngineMetrics,
        clock: Callable[[], float],
        accounts: Accounts,
    ) -> None:
        """`clock` is the event loop's, which deadlines are on."""
        self._accounts = accounts
        self._client = client
        self._metrics = metrics
        self._clock = clock

    async def open(self, target: Target, others: Candidates, asked: Asked) -> Opened:
        """Raises Unavailable, DeadlineExceeded, and what the engine refuses."""
        if self._clock() >= asked.deadline:
            raise failures.out_of_time()
        call = call_to(target, asked)
        stream, attempt = self._client.stream(call), self.attempt(call, target, asked)
        try:
            first = await _first(stream, call)
        except failures.NotThere as error:
            told = self.not_there(error, target)
            attempt.ended(told)
            await stream.aclose()  # type: ignore[attr-defined]  # a generator's
            try:
                raise told from error
            finally:
                del told  # or it and this frame, which is in its traceback, hold each other
        except BaseException as error:
            attempt.ended(error)
            await stream.aclose()  # type: ignore[attr-defined]  # a generator's
            raise
        attempt.began()
        return Opened(target.model, _Answer(first, stream, attempt))

    def attempt(self, call: Call, target: Target, asked: Asked) -> "Attempt":
        """From now on the engine is counted as busy with it."""
        return Attempt(call, target, self._metrics, self._accounts, asked)

    def not_there(self, error: failures.NotThere, target: Target) -> PointsmanError:
        """An adapter that the engine was said to hold has been evicted: its cell takes note of that."""
        if not target.of_adapter:
            return error
        self._metrics.evicted(target.engine.name)
        target.cell.lacks(target.model, target.engine)
        return failures.not_resident(target.engine.name, target.model)


async def _first(stream: AsyncIterator[Chunks], call: Call) -> Chunks:
    try:
        return await anext(stream)
    except StopAsyncIteration:
        raise failures.broke_off(call, "it answered nothing") from None


def call_to(target: Target, asked: Asked) -> Call:
    engine = target.engine
    return Call(
        engine=engine.name,
        url=engine.url,
        model=target.model,
        messages=asked.messages,
        sampling=asked.sampling,
        deadline=asked.deadline,
        operation=asked.operation,
        api_key=engine.api_key,
        timeouts=target.plan.timeouts,
    )


class Attempt:
    """One engine at work on one answer."""

    __slots__ = (
        "_accounts",
        "_begun",
        "_busy",
        "_call",
        "_cell",
        "_entry",
        "_metrics",
        "_name",
        "_stall",
        "_stay",
        "_terms",
    )

    def __init__(self, call: Call, target: Target, metrics: EngineMetrics, accounts: Accounts, asked: Asked) -> None:
        self._call = call
        self._cell = target.cell
        self._name = target.engine.name
        self._terms = target.plan.breaker
        self._metrics = metrics
        self._accounts = accounts
        self._stay = accounts.begin(self._name, asked.path)
        self._stall = asked.stall
        self._begun = self._cell.clock()
        self._busy = True
        self._entry = self._cell.breaker.enter()
        self._cell.in_flight += 1

    def began(self) -> None:
        """The first token is there."""
        if self._cell.breaker.succeeded(self._entry, self._terms):
            log.info("engine %s answers again", self._name)

    def goes_on(self) -> None:
        """Something more has come."""
        self._cell.breaker.heard = self._cell.clock()

    def ended(self, error: BaseException | None, last: Chunks = ()) -> None:
        """Well, or with an error; only the first end counts. In `last`, what came last, an engine tells its times."""
        if not self._busy:
            return
        self._busy = False
        self._cell.in_flight -= 1
        if self._stay is not None:
            self._accounts.end(self._stay, _inference(last))
        self._metrics.ended(self._call, _outcome(error), self._cell.clock() - self._begun)
        breaker = self._cell.breaker
        if error is None:
            return
        if not self._held_against_it(error):
            breaker.undecided(self._entry)
        elif breaker.failed(self._entry, self._terms):
            log.warning("engine %s is left alone for %.0f s: %s", self._name, breaker.rest_left, error)
            self._metrics.opened(self._name)
        if isinstance(error, Unavailable) and error.code == failures.OVERLOADED and error.retry_after:
            self._cell.rest(min(error.retry_after, failures.LONGEST_REST))

    def _held_against_it(self, error: BaseException) -> bool:
        if isinstance(error, PointsmanError) and not isinstance(error, DeadlineExceeded):
            return failures.counts(error)
        # Whoever gave up, the caller or the request's time: it is the engine's fault only where it did nothing at all.
        return self._cell.breaker.heard < self._begun <= self._cell.clock() - self._stall


class _Answer:
    """The rest of an answer. Whichever way it is let go, the engine is no longer counted as busy with it."""

    __slots__ = ("_attempt", "_first", "_last", "_stream")

    def __init__(self, first: Chunks, stream: AsyncIterator[Chunks], attempt: Attempt) -> None:
        self._first: Chunks | None = first
        self._last = first
        self._stream = stream
        self._attempt = attempt

    def __aiter__(self) -> "_Answer":
        return self

    async def __anext__(self) -> Chunks:
        first = self._first
        if first is not None:
            self._first = None
            return first
        try:
            chunks = await anext(self._stream)
        except StopAsyncIteration:
            self._attempt.ended(None, self._last)
            raise
        except BaseException as error:
            self._attempt.ended(error)
            raise
        self._last = chunks
        self._attempt.goes_on()
        return chunks

    async def aclose(self) -> None:
        self._attempt.ended(asyncio.CancelledError())
        await self._stream.aclose()  # type: ignore[attr-defined]  # a generator's

    def __del__(self) -> None:
        self._attempt.ended(asyncio.CancelledError())  # for one that was never read


def _inference(last: Chunks) -> float | None:
    """Seconds that the engine says it worked; None where it does not."""
    usage = last[-1].usage if last else None
    return usage.seconds.inference if usage is not None and usage.seconds is not None else None


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "ok"
    if isinstance(error, PointsmanError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "internal"
