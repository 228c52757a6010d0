"""Admission: a bound on how many requests are answered at once; a few wait for a place, the rest come again later.

uncontended   a place at once
full          a short wait, by the caller's priority, first come first served within one
more waiting  Unavailable ("overloaded") at once, with the seconds after which a place is likely
shutting down Unavailable ("shutting_down")
"""

import asyncio
import time
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from pointsman_servicekit.errors import InvalidArgument, Unavailable
from prometheus_client import Gauge

from pointsman_gateway.domain import Request

ROLES = frozenset({"system", "user", "assistant", "tool", "function"})
MOST_METADATA, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
LONGEST_USER = 512
MOST_CHOICES = 128
"""As OpenAI has it."""
LONGEST_RETRY_AFTER = 30.0


@dataclass(frozen=True, slots=True)
class Queue:
    """How long the line may be, and how long one stands in it."""

    most: int = 64
    patience: float = 1.0
    """Seconds."""


@dataclass(order=True, slots=True)
class _Waiter:
    """One request in the line; the smallest goes first."""

    rank: tuple[int, int]
    turn: "asyncio.Future[None]" = field(compare=False)

    @property
    def priority(self) -> int:
        return -self.rank[0]


class Admission:
    """Request in, a place in the house or an error out."""

    def __init__(
        self, max_in_flight: int, in_flight: Gauge, queue: Queue | None = None, waiting: Gauge | None = None
    ) -> None:
        """The gauges show the requests that are in the house, and those in the line before it."""
        self.closing = False
        """Nobody new is let in."""
        self.leaving = False
        """Nobody new should be sent here, though all are let in."""
        self._free = max_in_flight
        self.most = max_in_flight
        """At once."""
        self._queue = queue or Queue()
        self._line: list[_Waiter] = []
        self._came = 0
        self._pace = _Pace(time.monotonic)
        self._empty = asyncio.Event()
        in_flight.set_function(lambda: self.in_flight)
        if waiting is not None:
            waiting.set_function(lambda: self.waiting)

    @property
    def in_flight(self) -> int:
        return self.most - self._free

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def welcomes(self) -> bool:
        """Whether requests should be sent here."""
        return not (self.closing or self.leaving)

    def admitted(self, request: Request) -> "Place":
        """To be entered: raises InvalidArgument or Unavailable; the place is given back at the end of the block."""
        return Place(self, request)

    async def emptied(self, within: float) -> bool:
        """Waits until nobody is in the house and nobody stands before it; False where that takes longer."""
        try:
            async with asyncio.timeout(within):
                while self.in_flight or self._line:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def enter(self, request: Request) -> bool:
        """False where one must wait. Raises InvalidArgument or Unavailable. Who has entered must leave."""
        _check(request)
        if self.closing:
            raise Unavailable("the gateway is shutting down", code="shutting_down", retry_after=1.0)
        if self._free == 0:  # else nobody waits: who leaves hands the place on
            return False
        self._free -= 1
        return True

    async def wait(self, request: Request) -> None:
        """Waits in the queue until it has entered. Raises Unavailable."""
        waiter = self._stand_in_line(request.caller.priority)
        loop = asyncio.get_running_loop()
        # No asyncio.timeout: the request may have no task.
        timer = loop.call_at(min(loop.time() + self._queue.patience, request.deadline), self._give_up, waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter in self._line:
                self._line.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self.leave()  # its turn came in the last moment
            raise
        finally:
            timer.cancel()

    def leave(self) -> None:
        self._pace.step()
        while self._line:
            turn = self._line.pop(0).turn
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
        if self._free == self.most:
            self._empty.set()

    def _give_up(self, waiter: _Waiter) -> None:
        """The waiter's time is over."""
        if waiter in self._line:
            self._line.remove(waiter)
            waiter.turn.set_exception(self._overloaded())

    def _stand_in_line(self, priority: int) -> _Waiter:
        """Raises Unavailable; where the line is full, the last of a lower priority makes room."""
        if len(self._line) >= self._queue.most:
            if not self._line or self._line[-1].priority >= priority:
                raise self._overloaded()
            self._line.pop().turn.set_exception(self._overloaded())
        self._came += 1
        waiter = _Waiter((-priority, self._came), asyncio.get_running_loop().create_future())
        insort(self._line, waiter)
        return waiter

    def _overloaded(self) -> Unavailable:
        wait = min(max(1.0, (len(self._line) + 1) * self._pace.seconds), LONGEST_RETRY_AFTER)
        told = f"{self.most} requests are being answered already, and {len(self._line)} wait"
        return Unavailable(told, code="overloaded", retry_after=wait)


class Place:
    """A block in which a request is in the house."""

    __slots__ = ("_admission", "_request", "taken")

    def __init__(self, admission: Admission, request: Request) -> None:
        self._admission = admission
        self._request = request
        self.taken = False

    def enter_now(self) -> bool:
        """False where one must wait. Raises InvalidArgument or Unavailable."""
        self.taken = self._admission.enter(self._request)
        return self.taken

    def leave(self) -> None:
        """Where it has been taken, and only once."""
        if self.taken:
            self.taken = False
            self._admission.leave()

    async def __aenter__(self) -> None:
        if not (self.taken or self.enter_now()):
            await self._admission.wait(self._request)
            self.taken = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class _Pace:
    """How long it takes on average, of late, until the next one leaves."""

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
    for number, message in enumerate(request.messages):
        if message.role not in ROLES:
            raise _bad_role(number, message.role)
    if request.metadata:
        _check_metadata(request.metadata)
    if len(request.user) > LONGEST_USER:
        raise InvalidArgument(f"'user' may have {LONGEST_USER} characters", code="bad_parameter", param="user")
    if (choices := request.sampling.extra.get("n")) is not None:
        _check_choices(choices)
    query = request.query
    if not query or query.isspace():
        raise InvalidArgument("the last user message is empty", code="empty_message", param="messages")


def _check_choices(choices: object) -> None:
    """Its caller's limits are held for each of them."""
    if type(choices) is not int or not 1 <= choices <= MOST_CHOICES:
        raise InvalidArgument(
            f"'n' is {str(choices)[:50]!r}; it is a whole number from 1 to {MOST_CHOICES}",
            code="bad_parameter",
            param="n",
        )


def _bad_role(number: int, role: str) -> InvalidArgument:
    known = ", ".join(sorted(ROLES))
    where = f"messages[{number}].role"
    return InvalidArgument(f"{where} is '{role[:50]}'; known: {known}", code="bad_role", param=where)


def _check_metadata(metadata: Mapping[str, str]) -> None:
    too_long = any(len(k) > LONGEST_KEY or len(v) > LONGEST_VALUE for k, v in metadata.items())
    if len(metadata) > MOST_METADATA or too_long:
        raise InvalidArgument(
            f"'metadata' may have {MOST_METADATA} entries, "
            f"with keys of {LONGEST_KEY} and values of {LONGEST_VALUE} characters",
            code="bad_parameter",
            param="metadata",
        )
