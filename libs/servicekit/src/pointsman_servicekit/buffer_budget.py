"""Limits the bytes of requests that a process holds in memory, of all protocols together."""

from collections.abc import Iterator
from contextlib import contextmanager

from pointsman_servicekit.errors import Unavailable


class BufferedBytesBudget:
    """Limits the bytes of all requests that a process holds in memory, and each tenant's share of them."""

    def __init__(self, max_bytes: int, max_share: float = 0.5) -> None:
        """Limits all requests together to `max_bytes`, and the requests of one tenant to `max_share` (0 to 1) of
        `max_bytes`.
        """
        self.max_bytes = max_bytes
        self._max_of_tenant = int(max_bytes * max_share)
        self.used = 0
        self._by_tenant: dict[str, int] = {}

    def reserve(self, tenant: str, count: int) -> None:
        """Reserves `count` bytes of memory for a request of `tenant`; the caller has to return them with `release`.

        Raises Unavailable ("overloaded"), and reserves nothing, if the process or the tenant would exceed its limit.
        """
        of_tenant = self._by_tenant.get(tenant, 0) + count
        if self.used + count > self.max_bytes or of_tenant > self._max_of_tenant:
            raise Unavailable("too many bytes of requests are buffered; try again", code="overloaded", retry_after=1.0)
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
        """Reserves `count` bytes of memory for a request of `tenant` for the length of the block.

        Raises Unavailable ("overloaded") if the process or the tenant would exceed its limit.
        """
        self.reserve(tenant, count)
        try:
            yield
        finally:
            self.release(tenant, count)


class BufferReservation:
    """The bytes that one request has reserved in a `BufferedBytesBudget`; more are reserved while it arrives."""

    def __init__(self, budget: BufferedBytesBudget) -> None:
        self._budget = budget
        self._tenant = ""
        self._count = 0

    def grow(self, tenant: str, count: int) -> None:
        """Reserves `count` more bytes for the tenant, which must be the same in all calls.

        Raises Unavailable ("overloaded") if the process or the tenant would exceed its limit; the earlier bytes stay
        reserved.
        """
        if count:
            self._budget.reserve(tenant, count)
            self._tenant = tenant
            self._count += count

    def release(self) -> None:
        """Releases all bytes of the request; idempotent."""
        if self._count:
            self._budget.release(self._tenant, self._count)
            self._count = 0
