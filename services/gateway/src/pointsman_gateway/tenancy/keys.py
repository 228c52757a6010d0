"""Verifies API keys and single sign-on tokens, and keeps their records in memory. A revoked key is dropped within a
second while Redis answers.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from heapq import nsmallest
from math import inf
from typing import Protocol

from pointsman_servicekit.errors import FailedPrecondition, PointsmanError, Unauthenticated, Unavailable
from pointsman_servicekit.keys import records as credentials
from pointsman_servicekit.keys.key_store import KeyStore
from pointsman_servicekit.keys.records import EVERYTHING, KeyRecord, KeyScope, TenantRecord

from pointsman_gateway.domain.request import UNRESTRICTED, Scope
from pointsman_gateway.tenancy.limits import Clock, LimitRegistry, VerifiedCaller
from pointsman_gateway.tenancy.metrics import TenancyMetrics

log = logging.getLogger(__name__)

MAX_LOOKUPS = 256
"""Maximum number of keys that are looked up in Redis at once. Only a caller who invents keys has so many
unknown ones."""
READ_BATCH = 500

_digest = lru_cache(maxsize=1024)(credentials.digest_of)
"""Returns the digest of a credential. Its cache exposes nothing new: the HTTP server keeps recent headers in memory as
well."""


MAX_TOKEN_LENGTH = 8192
TOKEN_PREFIX = "eyJ"
"""The beginning of every JSON Web Token: `{"` in base64."""


class TokenVerifier(Protocol):
    """Interface that verifies JSON Web Tokens; `SingleSignOn` implements it."""

    async def verify(self, token: str) -> KeyRecord:
        """Returns the rights that the token's claims grant, as the record of an API key.

        Raises Unauthenticated if the token is invalid, PermissionDenied if its claims grant no rights or have no valid
        tenant, and Unavailable if the issuer's signing keys could not be read.
        """
        ...


@dataclass(slots=True)
class _CachedKey:
    caller: VerifiedCaller
    record: KeyRecord
    until: float
    """The time on the monotonic clock at which the key expires."""
    used_at: float
    is_token: bool
    """Whether the credential is a single sign-on token, of which Redis has no record."""


@dataclass(frozen=True, slots=True)
class KeyCacheConfig:
    ttl_s: float = 900.0
    """Seconds for which the cached copies of keys stay valid after Redis has last answered."""
    max_keys: int = 10_000
    evicted_at_once: int = 1_000
    """Number of least recently used copies of keys that are dropped together if the cache is full."""


class VerifiedKeys:
    def __init__(
        self,
        key_store: KeyStore,
        limits: LimitRegistry,
        clock: Clock,
        metrics: TenancyMetrics,
        config: KeyCacheConfig,
    ) -> None:
        self._key_store = key_store
        self._limits = limits
        self._clock = clock
        self._metrics = metrics
        self._config = config
        self._cache: dict[str, _CachedKey] = {}
        """The copies, by the credential's digest."""
        self._valid_until = -inf
        """The time on the monotonic clock at which all cached copies of API keys become invalid."""
        self._epoch: int | None = None
        self._refreshes = 0
        """How often a refresh of all copies has started, or the copies of tokens were dropped."""
        self._lookups: dict[str, asyncio.Task[VerifiedCaller]] = {}
        self._copies: Counter[str] = Counter()
        """Number of cached copies by key id; a user may have several tokens."""
        self.tokens: TokenVerifier | None = None
        """The verifier of single sign-on tokens (JSON Web Tokens). If it is None, only API keys are accepted."""

    def identify_now(self, credential: str) -> VerifiedCaller | None:
        """Returns the caller of an API key or token if a valid copy of its record is in memory. If it returns None,
        `identify` has to be awaited, which asks Redis or the issuer.
        """
        if (len(credential) != credentials.LENGTH and not self._may_be_token(credential)) or not credential.isascii():
            return None
        cached = self._cache.get(_digest(credential))
        if cached is None:
            return None
        now = self._clock.monotonic()
        if now >= self._valid_until or now >= cached.until:
            return None
        cached.used_at = now
        return cached.caller

    async def identify(self, credential: str) -> VerifiedCaller:
        """Returns the caller that a key or token identifies; concurrent lookups of one key share one call of Redis.

        Raises Unauthenticated if the key or token is missing, unknown, invalid, revoked or expired; PermissionDenied if
        a token's claims grant no rights or have no valid tenant; and Unavailable if Redis or the issuer has to be asked
        and does not answer, or `MAX_LOOKUPS` lookups are in progress.
        """
        if not credential:
            raise missing_key()
        is_token = self._may_be_token(credential)
        if not is_token and not credentials.is_well_formed(credential):
            raise unknown_key()
        caller = self.identify_now(credential)
        if caller is not None:
            return caller
        verified = await self._verify_token(credential) if is_token else None
        digest = credentials.digest_of(credential)
        lookup = self._lookups.get(digest)
        if lookup is None:
            if len(self._lookups) >= MAX_LOOKUPS:
                raise Unavailable("too many unknown keys at once", code="too_many_unknown_keys", retry_after=1.0)
            looking_up = self._look_up(digest, verified, credential, self._refreshes)
            lookup = self._lookups[digest] = asyncio.create_task(looking_up, name="look up a key")
            lookup.add_done_callback(lambda task: self._finish_lookup(digest, task))
        return await asyncio.shield(lookup)

    def drop_tokens(self) -> None:
        """Drops the cached copies of all tokens, because tokens verified earlier may have become invalid."""
        self._refreshes += 1
        for digest in [digest for digest, cached in self._cache.items() if cached.is_token]:
            self._drop(digest)

    def _may_be_token(self, credential: str) -> bool:
        return self.tokens is not None and len(credential) <= MAX_TOKEN_LENGTH and credential.startswith(TOKEN_PREFIX)

    async def _verify_token(self, token: str) -> KeyRecord:
        """Verifies a token without Redis, and without a call to the issuer if the signing key is known.

        Raises what `TokenVerifier.verify` raises, and Unauthenticated if tokens are no longer accepted.
        """
        try:
            while (verifier := self.tokens) is not None:
                record = await verifier.verify(token)
                if verifier is self.tokens:  # otherwise the settings have changed
                    return record
            raise unknown_key()
        except PointsmanError as error:
            self._metrics.lookups.labels("failed" if isinstance(error, Unavailable) else "refused").inc()
            raise

    def forget_epoch(self) -> None:
        """Makes the next `refresh` read all keys again, even if its epoch equals the last one. This is needed because a
        Redis that has lost writes may return an epoch that it has returned before.
        """
        self._epoch = None

    async def refresh(self, epoch: int, key_store: KeyStore) -> None:
        """Makes all cached copies of keys valid for another `ttl_s` seconds.

        `epoch` is a number that Redis changes whenever a key or limit changes. If it differs from the epoch of the last
        call, all cached keys are first read again from `key_store`, and revoked, expired and unknown keys are dropped.
        Raises Unavailable if Redis does not answer in time.
        """
        began_at = self._clock.monotonic()
        if epoch != self._epoch:
            self._refreshes += 1
            digests = list(self._cache)
            for start in range(0, len(digests), READ_BATCH):
                await self._refresh_batch(digests[start : start + READ_BATCH], key_store)
            self._epoch = epoch
        self._valid_until = began_at + self._config.ttl_s

    async def _refresh_batch(self, digests: list[str], key_store: KeyStore) -> None:
        stored = await key_store.by_digests(digests)
        records = [
            cached.record if (cached := self._cache.get(digest)) and cached.is_token else record
            for digest, record in zip(digests, stored, strict=True)
        ]
        tenants = await key_store.tenants_named({record.tenant for record in records if record})
        for digest, record in zip(digests, records, strict=True):
            tenant = tenants.get(record.tenant) if record else None
            if record is None or tenant is None or record.state(self._clock.wall()) != "active":
                self._drop(digest)
            elif (cached := self._cache.get(digest)) and (not cached.is_token or cached.record is record):
                self._add(record, tenant, cached.is_token)

    async def _look_up(self, digest: str, token: KeyRecord | None, credential: str, refreshes: int) -> VerifiedCaller:
        """Reads the records of a key and its tenant from Redis, and caches them.

        `token` is the record of a token, verified when `_refreshes` was `refreshes`; None for a key. Raises
        Unauthenticated, PermissionDenied or Unavailable, as `identify` does.
        """
        while True:
            record, tenant = await self._read(digest, token)
            if refreshes == self._refreshes:  # otherwise the record may be older than the refresh
                return self._add(record, tenant, token is not None)
            token = token and await self._verify_token(credential)
            refreshes = self._refreshes

    async def _read(self, digest: str, token: KeyRecord | None) -> tuple[KeyRecord, TenantRecord]:
        try:
            record = token or await self._key_store.by_digest(digest)
            if record is None:
                raise unknown_key()
            if record.revoked is not None:
                raise revoked_key(record.prefix)
            if record.state(self._clock.wall()) == "expired":
                raise expired_key(record.prefix)
            return record, await self._key_store.tenant(record.tenant)
        except Unavailable as error:
            message = "the key cannot be verified: Redis is unavailable, and this gateway has no copy of the key"
            raise Unavailable(message, code="keys_unavailable", retry_after=error.retry_after) from error
        except FailedPrecondition as error:
            log.error("a key is rejected: %s", error.message)
            raise unknown_key() from error

    def _add(self, record: KeyRecord, tenant: TenantRecord, is_token: bool) -> VerifiedCaller:
        now = self._clock.monotonic()
        cached = self._cache.get(record.digest)
        if cached is None and len(self._cache) >= self._config.max_keys:
            by_use = ((one.used_at, digest) for digest, one in self._cache.items())
            for _, digest in nsmallest(self._config.evicted_at_once, by_use):
                self._drop(digest)
        caller = VerifiedCaller(
            record.id,
            record.tenant,
            _scope(record.scope),
            record.priority,
            frozenset(tenant.learning),
            record.operator,
            record.admin,
            usage=self._limits.open(record, tenant),
        )
        until = inf if record.expires is None else now + record.expires - self._clock.wall()
        if cached is None:
            self._copies[record.id] += 1
        self._cache[record.digest] = _CachedKey(caller, record, until, cached.used_at if cached else now, is_token)
        self._metrics.cached_keys.set(len(self._cache))
        return caller

    def _drop(self, digest: str) -> None:
        cached = self._cache.pop(digest, None)
        if cached is not None:
            self._copies[cached.record.id] -= 1
            if not self._copies[cached.record.id]:
                del self._copies[cached.record.id]
                self._limits.forget(cached.record.id)
            self._metrics.cached_keys.set(len(self._cache))

    def _finish_lookup(self, digest: str, task: "asyncio.Task[VerifiedCaller]") -> None:
        del self._lookups[digest]
        error = None if task.cancelled() else task.exception()
        rejected = isinstance(error, Unauthenticated)
        self._metrics.lookups.labels("known" if error is None else "refused" if rejected else "failed").inc()
        if error is not None and not isinstance(error, PointsmanError):
            log.error("the lookup of a key failed", exc_info=error)


def _scope(scope: KeyScope) -> Scope:
    if scope == EVERYTHING:
        return UNRESTRICTED
    return Scope(
        _names(scope.tasks),
        _names(scope.paths),
        _names(scope.adapters),
        _names(scope.collections),
        _names(scope.embeddings),
        _names(scope.rerankers),
    )


def _names(names: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def missing_key() -> Unauthenticated:
    return Unauthenticated("the request has no key; send it as 'Authorization: Bearer pm_...'", code="missing_key")


def unknown_key() -> Unauthenticated:
    return Unauthenticated(
        "this key is unknown; keys look like pm_PREFIX_SECRET, and `pointsman keys create` makes one",
        code="unknown_key",
    )


def revoked_key(prefix: str) -> Unauthenticated:
    return Unauthenticated(f"the key pm_{prefix}_... has been revoked", code="revoked_key")


def expired_key(prefix: str) -> Unauthenticated:
    return Unauthenticated(f"the key pm_{prefix}_... has expired; ask for a new one", code="expired_key")
