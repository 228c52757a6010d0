"""Who a credential is of: verified copies of keys, dropped within a second of a revocation."""

import asyncio
import logging
from dataclasses import dataclass
from functools import lru_cache
from heapq import nsmallest
from math import inf

from pointsman_servicekit.errors import FailedPrecondition, PointsmanError, Unauthenticated, Unavailable
from pointsman_servicekit.keys import records as form
from pointsman_servicekit.keys.key_store import KeyStore
from pointsman_servicekit.keys.records import KeyRecord, KeyScope, TenantRecord

from pointsman_gateway.domain import Scope
from pointsman_gateway.tenancy import errors
from pointsman_gateway.tenancy.limits import Clock, LimitRegistry, VerifiedCaller
from pointsman_gateway.tenancy.metrics import TenancyMetrics

log = logging.getLogger(__name__)

MAX_LOOKUPS = 256
"""Keys that Redis is asked for at once; so many unknown ones come only from somebody who makes them up."""
READ_BATCH = 500

_digest = lru_cache(maxsize=1024)(form.digest_of)
"""In memory a caller's head stands as it came as well, since the same comes again and again."""


@dataclass(slots=True)
class _CachedKey:
    caller: VerifiedCaller
    record: KeyRecord
    until: float
    """Local time at which the key expires."""
    used: float


@dataclass(frozen=True, slots=True)
class KeyCacheConfig:
    """What is kept of keys that have been verified."""

    good_for: float = 900.0
    """Seconds without a word from Redis."""
    most: int = 10_000
    dropped_at_once: int = 1_000
    """Of the least used, where there are too many."""


class VerifiedKeys:
    def __init__(
        self, register: KeyStore, books: LimitRegistry, clock: Clock, metrics: TenancyMetrics, copies: KeyCacheConfig
    ) -> None:
        self._register = register
        self._books = books
        self._clock = clock
        self._metrics = metrics
        self._copies = copies
        self._known: dict[str, _CachedKey] = {}
        """By digest."""
        self._good_until = -inf
        self._epoch: int | None = None
        self._rounds = 0
        """How often all copies have been begun to be read again."""
        self._looking: dict[str, asyncio.Task[VerifiedCaller]] = {}

    def identify_now(self, credential: str) -> VerifiedCaller | None:
        if len(credential) != form.LENGTH or not credential.isascii():
            return None
        known = self._known.get(_digest(credential))
        if known is None:
            return None
        now = self._clock.monotonic()
        if now >= self._good_until or now >= known.until:
            return None
        known.used = now
        return known.caller

    async def identify(self, credential: str) -> VerifiedCaller:
        """Raises Unauthenticated, or Unavailable while Redis is away and the key is not known here."""
        if not credential:
            raise errors.missing()
        if not form.is_well_formed(credential):
            raise errors.unknown()
        caller = self.identify_now(credential)
        if caller is not None:
            return caller
        digest = form.digest_of(credential)
        looking = self._looking.get(digest)
        if looking is None:
            if len(self._looking) >= MAX_LOOKUPS:
                raise Unavailable("too many unknown keys at once", code="too_many_unknown_keys", retry_after=1.0)
            looking = self._looking[digest] = asyncio.create_task(self._look(digest), name="look a key up")
            looking.add_done_callback(lambda task: self._looked(digest, task))
        return await asyncio.shield(looking)

    async def verify(self, epoch: int) -> None:
        """Redis says that keys stand at `epoch`: if they have changed, reads all copies again. Raises Unavailable."""
        asked = self._clock.monotonic()
        if epoch != self._epoch:
            self._rounds += 1
            digests = list(self._known)
            for start in range(0, len(digests), READ_BATCH):
                await self._read_again(digests[start : start + READ_BATCH])
            self._epoch = epoch
        self._good_until = asked + self._copies.good_for

    async def _read_again(self, digests: list[str]) -> None:
        records = await self._register.by_digests(digests)
        tenants = await self._register.tenants_named({record.tenant for record in records if record})
        for digest, record in zip(digests, records, strict=True):
            tenant = tenants.get(record.tenant) if record else None
            if record is None or tenant is None or record.state(self._clock.wall()) != "active":
                self._drop(digest)
            elif digest in self._known:
                self._keep(record, tenant)

    async def _look(self, digest: str) -> VerifiedCaller:
        while True:
            rounds = self._rounds
            record, tenant = await self._read(digest)
            if rounds == self._rounds:  # else what was read may be older than what all others were read again for
                return self._keep(record, tenant)

    async def _read(self, digest: str) -> tuple[KeyRecord, TenantRecord]:
        try:
            record = await self._register.by_digest(digest)
            if record is None:
                raise errors.unknown()
            if record.revoked is not None:
                raise errors.revoked(record.prefix)
            if record.state(self._clock.wall()) == "expired":
                raise errors.expired(record.prefix)
            return record, await self._register.tenant(record.tenant)
        except Unavailable as error:
            message = "the key cannot be verified: Redis is away, and the key is not known here"
            raise Unavailable(message, code="keys_unavailable", retry_after=error.retry_after) from error
        except FailedPrecondition as error:
            log.error("a key is refused: %s", error.message)
            raise errors.unknown() from error

    def _keep(self, record: KeyRecord, tenant: TenantRecord) -> VerifiedCaller:
        now = self._clock.monotonic()
        known = self._known.get(record.digest)
        if known is None and len(self._known) >= self._copies.most:
            by_use = ((one.used, digest) for digest, one in self._known.items())
            for _, digest in nsmallest(self._copies.dropped_at_once, by_use):
                self._drop(digest)
        caller = VerifiedCaller(
            record.id,
            record.tenant,
            _scope(record.scope),
            record.priority,
            frozenset(tenant.learning),
            record.operator,
            book=self._books.open(record, tenant),
        )
        until = inf if record.expires is None else now + record.expires - self._clock.wall()
        self._known[record.digest] = _CachedKey(caller, record, until, known.used if known else now)
        self._metrics.keys.set(len(self._known))
        return caller

    def _drop(self, digest: str) -> None:
        known = self._known.pop(digest, None)
        if known is not None:
            self._books.forget(known.record.id)
            self._metrics.keys.set(len(self._known))

    def _looked(self, digest: str, task: "asyncio.Task[VerifiedCaller]") -> None:
        del self._looking[digest]
        error = None if task.cancelled() else task.exception()
        refused = isinstance(error, Unauthenticated)
        self._metrics.lookups.labels("known" if error is None else "refused" if refused else "failed").inc()
        if error is not None and not isinstance(error, PointsmanError):
            log.error("a key could not be looked up", exc_info=error)


def _scope(scope: KeyScope) -> Scope:
    return Scope(_names(scope.tasks), _names(scope.paths), _names(scope.adapters), _names(scope.collections))


def _names(names: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
