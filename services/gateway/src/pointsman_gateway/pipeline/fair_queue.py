"""The queue of requests that wait to be processed: by priority, and fair between tenants of the same priority.

The number of requests in progress is limited. When one ends, the queue starts the oldest request of the waiting tenant
that has the fewest in progress (max-min fairness with equal weights).

A full queue makes room for a new request if it can, and otherwise rejects it. It drops the newest request of the tenant
that has the most waiting (longest queue drop), among the requests of the lowest priority. It drops none of a higher
priority than the new request, and none of the same priority if the new request's tenant would have as many waiting.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Waiter:
    """One request in the queue, with its tenant. A request with a higher `priority` gets a slot earlier.

    `turn` is a future that completes when the request gets a slot, and fails if the request is dropped.
    """

    priority: int
    tenant: str
    turn: "asyncio.Future[None]"
    """A future whose result is set when the request gets a slot. It gets an error, or is cancelled, if the request
    leaves the queue without one."""

    @property
    def is_waiting(self) -> bool:
        return not self.turn.done()


class FairQueue:
    """The queue of requests that wait for a slot (one of the requests that may be in progress at once).

    The request with the highest priority gets the next slot; among equal priorities, the tenant with the fewest slots.
    """

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._by_priority: dict[int, dict[str, deque[Waiter]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, waiter: Waiter) -> Waiter | None:
        """Adds the request `waiter` to the queue. Returns None or, if the queue is full, the request that the caller
        must reject.

        The rejected request is either one that was waiting, which has been removed to make room, or `waiter` itself,
        which is then not added.
        """
        dropped = None
        if self._count >= self._max_waiting:
            dropped = self._newest_to_drop(waiter)
            if dropped is None:
                return waiter
            self.remove(dropped)
        self._by_priority.setdefault(waiter.priority, {}).setdefault(waiter.tenant, deque()).append(waiter)
        self._count += 1
        return dropped

    def remove(self, waiter: Waiter) -> bool:
        """Removes a request from the queue; returns False if it was not in the queue, and otherwise True."""
        tenants = self._by_priority.get(waiter.priority, {})
        waiting = tenants.get(waiter.tenant)
        if waiting is None or waiter not in waiting:
            return False
        waiting.remove(waiter)
        self._count -= 1
        if not waiting:
            del tenants[waiter.tenant]
            if not tenants:
                del self._by_priority[waiter.priority]
        return True

    def next(self, held: Callable[[str], int], may_take: Callable[[str], bool]) -> Waiter | None:
        """Removes and returns the request that gets the next slot; None if no waiting tenant may take a slot.

        `held` returns how many slots the tenant has, by its name; `may_take` returns whether it may take another one.
        """
        for priority in sorted(self._by_priority, reverse=True):
            tenants = [tenant for tenant in self._by_priority[priority] if may_take(tenant)]
            if tenants:
                first = self._by_priority[priority][min(tenants, key=held)][0]
                self.remove(first)
                return first
        return None

    def _newest_to_drop(self, new: Waiter) -> Waiter | None:
        """Returns the waiting request to drop for a new one; None if the new one must be rejected."""
        if not self._by_priority:
            return None
        lowest = min(self._by_priority)
        tenants = self._by_priority[lowest]
        longest = max(tenants.values(), key=len)
        if lowest < new.priority:
            return longest[-1]
        own = len(tenants.get(new.tenant, ()))
        return longest[-1] if lowest == new.priority and len(longest) > own + 1 else None
