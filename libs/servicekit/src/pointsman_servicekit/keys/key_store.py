"""Creates, finds, changes and revokes API keys and tenants in Redis."""

import logging
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from pointsman_servicekit.audit.audit_log import AUDIT, MAX_ENTRIES
from pointsman_servicekit.audit.entries import NOBODY, Actor, AuditedChange, to_json
from pointsman_servicekit.bounded_redis import BoundedRedis, read_script
from pointsman_servicekit.errors import AlreadyExists, FailedPrecondition, NotFound
from pointsman_servicekit.keys import records, redis_layout
from pointsman_servicekit.keys.audited import changed_record, created_key
from pointsman_servicekit.keys.records import (
    EVERYTHING,
    NO_LIMITS,
    Credential,
    KeyRecord,
    KeyScope,
    Limits,
    TenantRecord,
)

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class NewKey:
    """The properties of a key to create; the fields mean the same as in `KeyRecord`."""

    tenant: str
    name: str = ""
    scope: KeyScope = EVERYTHING
    limits: Limits = NO_LIMITS
    priority: int = 0
    expires: float | None = None
    operator: bool = False
    admin: bool = False
    credential: Credential | None = None
    """The credential to store; None: a random one is generated."""


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that was just created, with its credential, which is not stored and cannot be read again."""

    credential: Credential
    record: KeyRecord


class KeyStore:
    """Reads and changes the records of keys and tenants in Redis.

    Each method raises Unavailable ("redis_unavailable") if Redis does not answer. Except where a method says otherwise,
    it raises FailedPrecondition ("unreadable_record") if a record that it returns or changes cannot be parsed. Methods
    that change a record raise FailedPrecondition ("contended") if others changed it during each of `MAX_ATTEMPTS`
    attempts. Each change is recorded in the audit log, in the same step.
    """

    def __init__(self, redis: BoundedRedis, wall: Callable[[], float] = time.time, actor: Actor = NOBODY) -> None:
        """Takes `actor`, whom the audit log names for each change; `wall` returns the time in Unix seconds."""
        self._redis = redis
        self._wall = wall
        self._actor = actor
        self._create = redis.client.register_script(read_script(__package__, "create_key"))
        self._change = redis.client.register_script(read_script(__package__, "change_record"))

    async def create(self, order: NewKey) -> IssuedKey:
        """Creates a key, and its tenant (without limits) if there is no tenant of this name yet.

        Raises InvalidArgument if the key's or the tenant's name or the priority is not valid, and AlreadyExists
        ("prefix_taken") if another key has the credential or its prefix.
        """
        made = order.credential or records.new_credential()
        record = KeyRecord(
            id=f"key-{secrets.token_hex(8)}",
            prefix=made.prefix,
            digest=records.digest_of(made.text),
            tenant=order.tenant,
            name=order.name,
            scope=order.scope,
            limits=order.limits,
            priority=order.priority,
            created=round(self._wall(), 3),
            expires=order.expires,
            operator=order.operator,
            admin=order.admin,
        )
        tenant = TenantRecord(order.tenant)
        entry = to_json(self._actor, created_key(record))
        arguments = [record.digest, record.id, record.prefix, record.to_json(), tenant.name, tenant.to_json()]
        arguments += [str(MAX_ENTRIES), entry]
        names = [redis_layout.KEYS, redis_layout.INDEX, redis_layout.TENANTS, AUDIT]
        if not await self._redis.call(lambda: self._create(keys=names, args=arguments)):
            raise AlreadyExists("a key of that prefix is there already; try again", code="prefix_taken")
        return IssuedKey(made, record)

    async def keys(self) -> list[KeyRecord]:
        """Returns all keys, the oldest first."""
        read = await self._redis.call(lambda: self._redis.client.hgetall(redis_layout.KEYS))
        return sorted((_key(digest, text) for digest, text in read.items()), key=lambda record: record.created)

    async def tenants(self) -> dict[str, TenantRecord]:
        read = await self._redis.call(lambda: self._redis.client.hgetall(redis_layout.TENANTS))
        return {name: _tenant(name, text) for name, text in sorted(read.items())}

    async def find(self, which: str) -> KeyRecord:
        """Returns the key that `which` names by its id, its prefix or its credential.

        If `which` is a credential, only its prefix is compared, not its secret. Raises NotFound ("unknown_key") if
        there is none.
        """
        name = which.split("_")[1] if which.startswith("pm_") else which
        digest = await self._redis.call(lambda: self._redis.client.hget(redis_layout.INDEX, name))
        record = await self.by_digest(digest) if digest else None
        if record is None:
            raise NotFound(f"there is no key '{name[:40]}'; `pointsman keys list` shows all", code="unknown_key")
        return record

    async def by_digest(self, digest: str) -> KeyRecord | None:
        """Returns the key whose credential has this digest (`digest_of`); None if there is none."""
        text = await self._redis.call(lambda: self._redis.client.hget(redis_layout.KEYS, digest))
        return _key(digest, text) if text else None

    async def by_digests(self, digests: Sequence[str]) -> list[KeyRecord | None]:
        """Returns the keys with these digests, in their order; None for a key that does not exist or cannot be parsed.

        Logs an error for each that cannot be parsed.
        """
        found = await self._redis.call(lambda: self._redis.client.hmget(redis_layout.KEYS, list(digests)))
        return [_readable(digest, text) if text else None for digest, text in zip(digests, found, strict=True)]

    async def tenant(self, name: str) -> TenantRecord:
        """Returns a tenant's record; for an unknown tenant, one without limits.

        Raises InvalidArgument if the tenant is unknown and its name is not valid.
        """
        text = await self._redis.call(lambda: self._redis.client.hget(redis_layout.TENANTS, name))
        return _tenant(name, text)

    async def tenants_named(self, names: Collection[str]) -> dict[str, TenantRecord]:
        """Returns name -> record of these tenants; for an unknown tenant, a record without limits.

        A record that cannot be parsed is logged and left out. Raises InvalidArgument if a tenant is unknown and its
        name is not valid.
        """
        asked = list(names)
        if not asked:
            return {}
        found = await self._redis.call(lambda: self._redis.client.hmget(redis_layout.TENANTS, asked))
        read = {name: _readable_tenant(name, text) for name, text in zip(asked, found, strict=True)}
        return {name: record for name, record in read.items() if record is not None}

    async def revoke(self, which: str) -> KeyRecord:
        """Revokes a key and returns its record; idempotent.

        `which` is the key's id, prefix or credential. Raises NotFound ("unknown_key") if there is none.
        """
        now = round(self._wall(), 3)
        return await self._change_key(
            which, lambda record: record if record.revoked is not None else replace(record, revoked=now)
        )

    async def limit_key(self, which: str, change: Callable[[Limits], Limits]) -> KeyRecord:
        """Replaces a key's limits by what `change` returns for them; returns the changed record.

        `which` is the key's id, prefix or credential. `change` may be called several times. Raises NotFound
        ("unknown_key") if there is none, and what `change` raises.
        """
        return await self._change_key(which, lambda record: replace(record, limits=change(record.limits)))

    async def limit_tenant(self, name: str, change: Callable[[Limits], Limits]) -> TenantRecord:
        """Replaces a tenant's limits by what `change` returns for them; creates the tenant if it is new.

        `change` may be called several times. Returns the changed record. Raises InvalidArgument if the tenant's name is
        not valid, and what `change` raises.
        """
        return await self._change_tenant(name, lambda record: replace(record, limits=change(record.limits)))

    async def consent(self, name: str, tasks: Sequence[str]) -> TenantRecord:
        """Replaces the list of tasks whose answers may be used for training; an empty list withdraws the consent.

        Creates the tenant if it is new. Returns the changed record. Raises InvalidArgument if the tenant's or a task's
        name is not valid, or if there are more than `records.MAX_NAMES` tasks.
        """
        learning = tuple(sorted(set(tasks)))
        return await self._change_tenant(name, lambda record: replace(record, learning=learning))

    async def _change_tenant(self, name: str, change: Callable[[TenantRecord], TenantRecord]) -> TenantRecord:
        for _ in range(MAX_ATTEMPTS):
            before = await self._redis.call(lambda: self._redis.client.hget(redis_layout.TENANTS, name))
            record = _tenant(name, before)
            changed = change(record)
            audited = changed_record(record, changed, is_new=not before)
            if await self._put(redis_layout.TENANTS, name, before or "", changed.to_json(), audited):
                return changed
        raise _contended(name)

    async def _change_key(self, which: str, change: Callable[[KeyRecord], KeyRecord]) -> KeyRecord:
        for _ in range(MAX_ATTEMPTS):
            record = await self.find(which)
            changed = change(record)
            audited = changed_record(record, changed)
            if await self._put(redis_layout.KEYS, record.digest, record.to_json(), changed.to_json(), audited):
                return changed
        raise _contended(which)

    async def _put(self, name: str, field: str, before: str, after: str, audited: AuditedChange | None) -> bool:
        """Replaces a record and logs `audited`; returns False, and changes nothing, if it is not `before` any more."""
        changed = audited or AuditedChange("key", "created", f"tenant {field}")
        arguments = [field, before, after, redis_layout.CHANGED, MAX_ENTRIES, to_json(self._actor, changed)]
        names = [name, redis_layout.EPOCH, AUDIT]
        return bool(await self._redis.call(lambda: self._change(keys=names, args=arguments)))


def _key(digest: str, text: str) -> KeyRecord:
    return KeyRecord.from_json(text, f"{redis_layout.KEYS} {digest[:80]}")


def _tenant(name: str, text: str | None) -> TenantRecord:
    return TenantRecord.from_json(text, f"{redis_layout.TENANTS} {name}") if text else TenantRecord(name)


def _readable(digest: str, text: str) -> KeyRecord | None:
    try:
        return _key(digest, text)
    except FailedPrecondition as error:
        log.error("%s", error.message)
        return None


def _readable_tenant(name: str, text: str | None) -> TenantRecord | None:
    try:
        return _tenant(name, text)
    except FailedPrecondition as error:
        log.error("%s", error.message)
        return None


def _contended(which: str) -> FailedPrecondition:
    return FailedPrecondition(f"others change '{which}' at the same time; try again", code="contended")
