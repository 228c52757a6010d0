"""Admission control: a limit on the number of requests that are answered at once, with a short, fair queue.

A request gets a free slot at once, unless its tenant has its share of them: some slots are left for other tenants, so
that one tenant's long streams cannot use them all. Otherwise it waits briefly, by its caller's priority, and fairly
between tenants (`fair_queue`). If the queue is full, or the wait too long, a request is rejected with Unavailable
("overloaded") and an estimate of when a slot will be free. While the gateway shuts down, new requests are rejected with
Unavailable ("shutting_down").
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pointsman_servicekit.errors import Unavailable
from prometheus_client import Gauge

from pointsman_gateway.domain import Request
from pointsman_gateway.pipeline.fair_queue import FairQueue, Waiter
from pointsman_gateway.pipeline.request_checks import check_request

MAX_RETRY_AFTER_SECONDS = 30.0
MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""Maximum number of bytes of answers that clients have not read yet, over all answers together."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    max_waiting: int = 1024
    timeout: float = 10.0
    """Maximum time that a request waits in the queue for a slot, in seconds."""


class UnreadBudget:
    """Limits the bytes of answers that clients have not read yet, over all answers together.

    Within the limit, an engine generates an answer to its end although the client reads slowly. Beyond it, `take`
    returns False, and the caller has to pause the answer.
    """

    def __init__(self, max_bytes: int = MAX_UNREAD_BYTES) -> None:
        self._left = max_bytes

    def take(self, count: int) -> bool:
        if count > self._left:
            return False
        self._left -= count
        return True

    def give_back(self, count: int) -> None:
        self._left += count


class Admission:
    """Limits the requests in progress: each takes one of a fixed number of slots, or waits for one in a queue."""

    def __init__(
        self,
        max_in_flight: int,
        in_flight: Gauge,
        queue: QueueLimits | None = None,
        waiting: Gauge | None = None,
        tenant_share: float = 1.0,
    ) -> None:
        """Makes `max_in_flight` slots. The gauge `in_flight` shows how many requests have one, and the gauge `waiting`
        how many wait for one.

        If only one tenant sends requests, it may have the share `tenant_share` (0 to 1) of the slots. In general, with
        f free slots a tenant may have f * share / (1 - share), so a further tenant still finds free slots (Choudhury
        and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998).
        """
        self.is_closed = False
        """Whether new requests are rejected."""
        self.is_draining = False
        """Whether load balancers should send no more requests; requests that arrive are still admitted."""
        self._free = max_in_flight  # negative while more requests are answered than there are slots; see `lend`
        self._lent = 0
        self.max_in_flight = max_in_flight
        self.unread = UnreadBudget()
        self._limits = queue or QueueLimits()
        self._slots_per_free = tenant_share / (1 - tenant_share) if tenant_share < 1 else math.inf
        self._by_tenant: dict[str, int] = {}
        """The number of slots that each tenant has; requests without a tenant are not counted."""
        self._queue = FairQueue(self._limits.max_waiting)
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
        """Returns whether load balancers should send requests to this gateway."""
        return not (self.is_closed or self.is_draining)

    async def wait_until_empty(self, within: float) -> bool:
        """Waits until no request is in progress or in the queue, but at most `within` seconds. Returns whether no
        request is left.
        """
        try:
            async with asyncio.timeout(within):
                while self.in_flight or self._queue:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def enter(self, request: Request) -> bool:
        """Takes a slot for the request, which `leave` must give back. Returns False if no slot is free for the
        request's tenant; the caller must then call `wait`.

        Raises InvalidArgument if `check_request` rejects the request, and Unavailable ("shutting_down") at shutdown.
        """
        check_request(request)
        if self.is_closed:
            raise Unavailable("the gateway is shutting down", code="shutting_down", retry_after=1.0)
        # If a slot is free, the requests in the queue are those of tenants that have their share.
        return self._free > 0 and self._take(request.caller.tenant)

    async def wait(self, request: Request) -> None:
        """Waits in the queue until the request gets a slot, which `leave` must give back.

        Raises Unavailable ("overloaded") if the queue is full, if another request takes this one's place in the full
        queue, or if there is no slot before the queue's timeout or the request's deadline.
        """
        waiter = self._enqueue(request.caller.priority, request.caller.tenant)
        loop = asyncio.get_running_loop()
        # No asyncio.timeout: the request may have no task.
        timer = loop.call_at(min(loop.time() + self._limits.timeout, request.deadline), self._give_up, waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if not self._queue.remove(waiter) and _got_slot(waiter):
                self.leave(request)  # at the same moment
            raise
        finally:
            timer.cancel()

    def leave(self, request: Request) -> None:
        tenant = request.caller.tenant
        if tenant:
            held = self._by_tenant[tenant] - 1
            if held:
                self._by_tenant[tenant] = held
            else:
                del self._by_tenant[tenant]
        self._free_slot()

    def _free_slot(self) -> None:
        self._pace.step()
        self._free += 1
        if self._queue:
            self._grant()
        if self.in_flight == 0:
            self._empty.set()

    def _take(self, tenant: str) -> bool:
        """Takes a free slot; returns False if the tenant already has its share."""
        if not self._may_take(tenant):
            return False
        if tenant:
            self._by_tenant[tenant] = self._held(tenant) + 1
        self._free -= 1
        return True

    def _held(self, tenant: str) -> int:
        return self._by_tenant.get(tenant, 0)

    def _may_take(self, tenant: str) -> bool:
        return not tenant or self._held(tenant) < self._slots_per_free * self._free

    def _grant(self) -> None:
        """Gives the free slots to requests in the queue."""
        while self._free > 0:
            waiter = self._queue.next(self._held, self._may_take)
            if waiter is None:
                return
            if waiter.is_waiting:
                self._take(waiter.tenant)
                waiter.turn.set_result(None)

    @contextmanager
    def lend(self) -> Iterator[None]:
        """A context manager that lends this request's slot to another request while its block waits for no engine.

        Such a block waits until an adapter is loaded, for example. At most `max_in_flight` slots are lent at once;
        beyond that, the slot is not lent. After the block the request continues at once, even if more requests are then
        in progress than there are slots.
        """
        if self._lent >= self.max_in_flight:
            yield
            return
        self._lent += 1
        self._free_slot()
        try:
            yield
        finally:
            self._lent -= 1
            self._free -= 1

    def _give_up(self, waiter: Waiter) -> None:
        if self._queue.remove(waiter):
            waiter.turn.set_exception(self._overloaded(waiter.tenant))

    def _enqueue(self, priority: int, tenant: str) -> Waiter:
        """Adds a request to the queue, and returns its entry.

        If the queue is full, one request is rejected with Unavailable: this one, by raising here, or a waiting one, in
        `wait`.
        """
        waiter = Waiter(priority, tenant, asyncio.get_running_loop().create_future())
        dropped = self._queue.add(waiter)
        if dropped is waiter:
            raise self._overloaded(tenant)
        if dropped is not None:
            dropped.turn.set_exception(self._overloaded(dropped.tenant))
        return waiter

    def _overloaded(self, tenant: str) -> Unavailable:
        wait = min(max(1.0, (len(self._queue) + 1) * self._pace.seconds), MAX_RETRY_AFTER_SECONDS)
        held, of_tenant = self.max_in_flight, ""
        if self._free > 0:  # for other tenants
            held, of_tenant = self._held(tenant), f" of this tenant, its share of {self.max_in_flight},"
        message = f"{held} requests{of_tenant} are being answered already, and {len(self._queue)} wait"
        return Unavailable(message, code="overloaded", retry_after=wait)


def _got_slot(waiter: Waiter) -> bool:
    turn = waiter.turn
    return turn.done() and not turn.cancelled() and turn.exception() is None


class _Pace:
    """Measures the mean number of seconds from one request's end to the next one's: an exponential moving average."""

    __slots__ = ("_clock", "_last", "seconds")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = clock()
        self.seconds = 0.0

    def step(self) -> None:
        now = self._clock()
        self.seconds += 0.1 * (now - self._last - self.seconds)
        self._last = now
