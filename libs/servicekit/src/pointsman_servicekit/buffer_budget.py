"""Limits the bytes of requests that a process holds in memory, over all protocols."""

from collections.abc import Iterator
from contextlib import contextmanager

from pointsman_servicekit.errors import Unavailable


class BufferedBytesBudget:
    """Limits the bytes of all requests that a process holds in memory, and each tenant's share of them."""

    def __init__(self, max_bytes: int, max_share: float = 0.5) -> None:
        """Limits all requests to `max_bytes`, and one tenant to the fraction `max_share` of it."""
        self.max_bytes = max_bytes
        self._max_of_tenant = int(max_bytes * max_share)
        self.used = 0
        self._by_tenant: dict[str, int] = {}

    def reserve(self, tenant: str, count: int) -> None:
        """Reserves bytes; raises Unavailable ("overloaded") if the process or the tenant would hold too many."""
        of_tenant = self._by_tenant.get(tenant, 0) + count
        if self.used + count > self.max_bytes or of_tenant > self._max_of_tenant:
            raise Unavailable("too much of other requests is buffered; try again", code="overloaded", retry_after=1.0)
        self.used += count
        self._by_tenant[tenant] = of_tenant

    def release(self, tenant: str, count: int) -> None:
        self.used -= count
        left = self._by_tenant.get(tenant, 0) - count  # none is left if only empty messages remain
        if left:
            self._by_tenant[tenant] = left
        else:
            self._by_tenant.pop(tenant, None)

    @contextmanager
    def reserved(self, tenant: str, count: int) -> Iterator[None]:
        """Reserves `count` bytes for the length of the block; raises as `reserve` does."""
        self.reserve(tenant, count)
        try:
            yield
        finally:
            self.release(tenant, count)


class BufferReservation:
    """The bytes of one request in a budget; they grow while the request arrives."""

    def __init__(self, budget: BufferedBytesBudget) -> None:
        self._budget = budget
        self._tenant = ""
        self._count = 0

    def grow(self, tenant: str, count: int) -> None:
        """Reserves `count` bytes more. If it raises, as `reserve` does, what was reserved before stays reserved."""
        if count:
            self._budget.reserve(tenant, count)
            self._tenant = tenant
            self._count += count

    def release(self) -> None:
        """Returns the request's bytes to the budget; idempotent."""
        if self._count:
            self._budget.release(self._tenant, self._count)
            self._count = 0
