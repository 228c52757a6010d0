"""Admission control: a bound on how many requests are answered at once, with a short priority queue in front.

free slot      the request gets it at once
no free slot   it waits briefly, by its caller's priority, first come first served within one priority
full queue     Unavailable ("overloaded") at once, with the seconds after which a slot is likely to be free
shutting down  Unavailable ("shutting_down")

At shutdown, `drain` first reports not ready, then admits no more requests, and waits for those in flight.
"""

import asyncio
import logging
import signal
import time
from bisect import insort
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from types import TracebackType

from pointsman_servicekit.errors import InvalidArgument, Unavailable
from pointsman_servicekit.process import delay_shutdown
from prometheus_client import Gauge

from pointsman_gateway.domain import Message, Request

log = logging.getLogger(__name__)

ROLES = frozenset({"system", "user", "assistant", "tool", "function"})
_role_of = attrgetter("role")
MAX_METADATA_ENTRIES, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512
"""Keys and values in characters; OpenAI has the same limits."""
MAX_USER_CHARACTERS = 512
MAX_CHOICES = 128
"""OpenAI's limit on `n`."""
MAX_RETRY_AFTER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    max_waiting: int = 64
    timeout: float = 1.0
    """Seconds that a request waits at most."""


@dataclass(order=True, slots=True)
class _Waiter:
    """One request in the queue; the smallest gets the next slot."""

    rank: tuple[int, int]
    turn: "asyncio.Future[None]" = field(compare=False)

    @property
    def priority(self) -> int:
        return -self.rank[0]


class Admission:
    """Gives requests one of a fixed number of slots."""

    def __init__(
        self, max_in_flight: int, in_flight: Gauge, queue: QueueLimits | None = None, waiting: Gauge | None = None
    ) -> None:
        """The gauges show how many requests have a slot, and how many wait for one."""
        self.is_closed = False
        """Whether new requests are rejected."""
        self.is_draining = False
        """Whether load balancers should send no more requests; those that arrive are still admitted."""
        self._free = max_in_flight  # negative while more requests are answered than there are slots; see `lend`
        self._lent = 0
        self.max_in_flight = max_in_flight
        self._limits = queue or QueueLimits()
        self._queue: list[_Waiter] = []
        self._arrivals = 0
        self._pace = _Pace(time.monotonic)
        self._empty = asyncio.Event()
        in_flight.set_function(lambda: self.in_flight)
        if waiting is not None:
            waiting.set_function(lambda: self.waiting)

    @property
    def in_flight(self) -> int:
        return self.max_in_flight - self._free + self._lent

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def is_ready(self) -> bool:
        """Whether load balancers should send requests."""
        return not (self.is_closed or self.is_draining)

    def admitted(self, request: Request) -> "Slot":
        """A block in which the request has a slot. Entering it raises InvalidArgument or Unavailable."""
        return Slot(self, request)

    async def wait_until_empty(self, within: float) -> bool:
        """Waits until no request has a slot or waits for one; False if that takes longer than `within` seconds."""
        try:
            async with asyncio.timeout(within):
                while self.in_flight or self._queue:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def enter(self, request: Request) -> bool:
        """Takes a slot, which `leave` gives back; False if the request has to `wait`. Raises PointsmanError."""
        _check(request)
        if self.is_closed:
            raise Unavailable("the gateway is shutting down", code="shutting_down", retry_after=1.0)
        if self._free <= 0:  # else the queue is empty: `leave` passes slots on
            return False
        self._free -= 1
        return True

    async def wait(self, request: Request) -> None:
        """Waits in the queue for a slot, which `leave` gives back. Raises Unavailable."""
        waiter = self._enqueue(request.caller.priority)
        loop = asyncio.get_running_loop()
        # No asyncio.timeout: the request may have no task.
        timer = loop.call_at(min(loop.time() + self._limits.timeout, request.deadline), self._give_up, waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._queue:
                self._queue.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self.leave()  # it got a slot at the same moment
            raise
        finally:
            timer.cancel()

    def leave(self) -> None:
        self._pace.step()
        while self._queue and self._free >= 0:
            turn = self._queue.pop(0).turn
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
        if self.in_flight == 0:
            self._empty.set()

    @contextmanager
    def lend(self) -> Iterator[None]:
        """A block in which an admitted request waits for something other than an engine's answer, and its slot is
        given to another request. At most as many requests as there are slots do so at once.

        Afterwards the request goes on at once, even if more requests than there are slots are then answered.
        """
        if self._lent >= self.max_in_flight:
            yield
            return
        self._lent += 1
        self.leave()
        try:
            yield
        finally:
            self._lent -= 1
            self._free -= 1

    def _give_up(self, waiter: _Waiter) -> None:
        if waiter in self._queue:
            self._queue.remove(waiter)
            waiter.turn.set_exception(self._overloaded())

    def _enqueue(self, priority: int) -> _Waiter:
        """If the queue is full, evicts its last request if that has a lower priority, else raises Unavailable."""
        if len(self._queue) >= self._limits.max_waiting:
            if not self._queue or self._queue[-1].priority >= priority:
                raise self._overloaded()
            self._queue.pop().turn.set_exception(self._overloaded())
        self._arrivals += 1
        waiter = _Waiter((-priority, self._arrivals), asyncio.get_running_loop().create_future())
        insort(self._queue, waiter)
        return waiter

    def _overloaded(self) -> Unavailable:
        wait = min(max(1.0, (len(self._queue) + 1) * self._pace.seconds), MAX_RETRY_AFTER_SECONDS)
        message = f"{self.max_in_flight} requests are being answered already, and {len(self._queue)} wait"
        return Unavailable(message, code="overloaded", retry_after=wait)


class Slot:
    """A block in which a request has a slot."""

    def __init__(self, admission: Admission, request: Request) -> None:
        self._admission = admission
        self._request = request

    async def __aenter__(self) -> None:
        if not self._admission.enter(self._request):
            await self._admission.wait(self._request)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave()


class _Pace:
    """Estimates the seconds between two requests that give their slots back: an exponential moving average."""

    __slots__ = ("_clock", "_last", "seconds")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = clock()
        self.seconds = 0.0

    def step(self) -> None:
        now = self._clock()
        self.seconds += 0.1 * (now - self._last - self.seconds)
        self._last = now


def _check(request: Request) -> None:
    if not request.model:
        raise InvalidArgument("'model' is empty; 'auto' lets the gateway choose", code="missing_model", param="model")
    if not request.messages:
        raise InvalidArgument("'messages' is empty; send at least one", code="empty_messages", param="messages")
    if not ROLES.issuperset(map(_role_of, request.messages)):
        raise _bad_role(request.messages)
    if request.metadata:
        _check_metadata(request.metadata)
    if len(request.user) > MAX_USER_CHARACTERS:
        raise InvalidArgument(f"'user' may have {MAX_USER_CHARACTERS} characters", code="bad_parameter", param="user")
    if (choices := request.sampling.extra.get("n")) is not None:
        _check_choices(choices)


def _check_choices(choices: object) -> None:
    """Checks `n` before limits are reserved for each choice."""
    if type(choices) is not int or not 1 <= choices <= MAX_CHOICES:
        raise InvalidArgument(
            f"'n' is {str(choices)[:50]!r}; it is a whole number from 1 to {MAX_CHOICES}",
            code="bad_parameter",
            param="n",
        )


def _bad_role(messages: Sequence[Message]) -> InvalidArgument:
    number, role = next((i, message.role) for i, message in enumerate(messages) if message.role not in ROLES)
    known = ", ".join(sorted(ROLES))
    where = f"messages[{number}].role"
    return InvalidArgument(f"{where} is '{role[:50]}'; known: {known}", code="bad_role", param=where)


def _check_metadata(metadata: Mapping[str, str]) -> None:
    too_long = any(len(k) > MAX_METADATA_KEY or len(v) > MAX_METADATA_VALUE for k, v in metadata.items())
    if len(metadata) > MAX_METADATA_ENTRIES or too_long:
        raise InvalidArgument(
            f"'metadata' may have {MAX_METADATA_ENTRIES} entries, "
            f"with keys of {MAX_METADATA_KEY} and values of {MAX_METADATA_VALUE} characters",
            code="bad_parameter",
            param="metadata",
        )


@dataclass(frozen=True, slots=True)
class DrainTimes:
    """Times in seconds."""

    delay: float
    """Requests are still served while readiness fails, so that load balancers notice."""
    timeout: float
    """Time for the requests in progress to end."""


async def drain(
    admission: Admission,
    stopped_by: signal.Signals,
    times: DrainTimes,
    report_not_serving: Callable[[], Awaitable[None]],
) -> bool:
    """Returns when no request is in progress, or after the timeout: False if requests remain, which will be aborted.

    `report_not_serving` sets gRPC's health status; /readyz follows `admission.is_ready`. After SIGINT (Ctrl-C) there is
    no delay, since nobody stops a gateway behind a load balancer with it.
    """
    admission.is_draining = True
    await report_not_serving()
    await delay_shutdown(stopped_by, times.delay)
    admission.is_closed = True
    log.info("draining: %d requests in progress", admission.in_flight)
    is_empty = await admission.wait_until_empty(times.timeout)
    if not is_empty:
        log.warning("draining: %d requests are aborted after %g s", admission.in_flight, times.timeout)
    return is_empty
