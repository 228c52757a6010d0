"""Lists keys, changes limits, and reports usage and budgets, for `pointsman keys` and the admin API."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pointsman_servicekit.audit.audit_log import AuditLog
from pointsman_servicekit.audit.entries import NOBODY, Actor
from pointsman_servicekit.bounded_redis import BoundedRedis
from pointsman_servicekit.keys.key_store import KeyStore
from pointsman_servicekit.keys.records import KeyRecord, Limits, TenantRecord
from pointsman_servicekit.keys.redis_layout import (
    COUNTERS,
    WHOLE_TENANT,
    WINDOWS,
    Counts,
    UsageStore,
    dollars,
    sum_counts,
    window_at,
)

BUDGET_WARNING_SHARE = 0.8
"""A budget (a limit in dollars) counts as nearly spent when this share of it, 0 to 1, is used."""

LimitChanges = Mapping[str, int | float | None]
"""New values of limits, by their field in `Limits`; None removes a limit."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The usage of a key, or of a whole tenant if `key` is None.

    `today` has the counters since midnight UTC, and `month` the counters since the first of the month. `left` has the
    unused part of each limit that is set, in the limit's unit, by the limit's name.
    """

    tenant: TenantRecord
    key: KeyRecord | None
    today: Counts
    month: Counts
    left: Mapping[str, float]

    @property
    def limits(self) -> Limits:
        return self.key.limits if self.key else self.tenant.limits


class Administration:
    """Lists keys, changes limits, and reports usage and budgets.

    The attribute `keys` is a KeyStore, which makes all other changes of keys and tenants, and `audit` is the log of
    changes. Each asynchronous method raises Unavailable ("redis_unavailable") if Redis does not answer, and
    FailedPrecondition ("unreadable_record") if a record or a number in Redis cannot be parsed.
    """

    def __init__(self, redis: BoundedRedis, wall: Callable[[], float] = time.time, actor: Actor = NOBODY) -> None:
        """Takes `actor`, whom the audit log names for each change; `wall` returns the time in Unix seconds."""
        self.keys = KeyStore(redis, wall, actor)
        self.audit = AuditLog(redis, wall)
        self._redis = redis
        self._usage = UsageStore(redis, wall)
        self._wall = wall

    def acting_as(self, actor: Actor) -> "Administration":
        """Returns a copy of this Administration whose changes the audit log attributes to `actor`."""
        return Administration(self._redis, self._wall, actor)

    async def list_keys(self, tenant: str = "") -> list[KeyRecord]:
        """Returns all keys, or the keys of one tenant, the oldest first."""
        return [record for record in await self.keys.keys() if tenant in ("", record.tenant)]

    async def change_limits(self, changes: LimitChanges, key: str = "", tenant: str = "") -> KeyRecord | TenantRecord:
        """Changes limits of a tenant, or of a key if `tenant` is empty; returns the changed record.

        Limits that are not in `changes` stay. A new tenant is created. `key` is a key's id, prefix or credential.
        Raises NotFound for an unknown key, InvalidArgument for a value or a tenant's name that is not valid, TypeError
        for a name that is no limit, and FailedPrecondition ("contended") if the record was changed by others during
        each of several attempts.
        """

        def change(limits: Limits) -> Limits:
            return replace(limits, **changes)  # type: ignore[arg-type]  # by name; Limits checks the values

        return await (self.keys.limit_tenant(tenant, change) if tenant else self.keys.limit_key(key, change))

    async def usage(self, tenant: str = "") -> list[UsageRow]:
        """Returns for each tenant, or only for `tenant`, a row of the whole tenant, followed by a row for each key.

        After a tenant's keys come its users of single sign-on who have sent requests this month. These users have no
        key, so their rows have a KeyRecord that is made for the row. An unknown tenant has no rows.
        """
        used, records = await self._usage.read(), await self.keys.keys()
        rows = []
        for name, record in (await self.keys.tenants()).items():
            if tenant not in ("", name):
                continue
            today, month = (
                [counts for who, counts in period.items() if who[0] == name] for period in (used.today, used.month)
            )
            left = await self._usage.left(name, WHOLE_TENANT, record.limits)
            rows.append(UsageRow(record, None, sum_counts(today), sum_counts(month), left))
            own = [key for key in records if key.tenant == name]
            known = {key.id for key in own}
            # Users of single sign-on have no records.
            users = sorted({who[1] for who in used.month if who[0] == name and who[1] not in known})
            own += [KeyRecord(user, user, "", name, "single sign-on") for user in users]
            for key in own:
                who = (name, key.id)
                left = await self._usage.left(name, key.id, key.limits)
                rows.append(UsageRow(record, key, used.today.get(who, {}), used.month.get(who, {}), left))
        return rows

    async def budgets(self, tenant: str = "") -> list[dict[str, Any]]:
        """Returns each limit in dollars that is set for a tenant or a key, with its use, as a dict that fits into JSON.

        Keys: "tenant" (name), "key" (prefix; None: the whole tenant), "limit" ("dollars_per_day" or
        "dollars_per_month"), "usd" (the limit), "used_usd", "used_share", "is_nearly_spent" (whether the share is
        `BUDGET_WARNING_SHARE` or more), and "resets_unix" (the window's end in Unix seconds).
        """
        now_ms = int(self._wall() * 1000)
        return [
            {
                "tenant": row.tenant.name,
                "key": row.key.prefix if row.key else None,
                "limit": limit,
                "usd": usd,
                "used_usd": usd - row.left[limit],
                "used_share": 1 - row.left[limit] / usd,
                "is_nearly_spent": 1 - row.left[limit] / usd >= BUDGET_WARNING_SHARE,
                "resets_unix": window_at(WINDOWS[limit], now_ms)[1] / 1000,
            }
            for row in await self.usage(tenant)
            for limit, usd in asdict(row.limits).items()
            if limit.startswith("dollars") and usd is not None
        ]

    def keys_as_json(self, records: Sequence[KeyRecord]) -> list[dict[str, Any]]:
        return [{**_without_digest(record), "state": record.state(self._wall())} for record in records]


def usage_as_json(rows: Sequence[UsageRow]) -> list[dict[str, Any]]:
    return [
        {
            "tenant": row.tenant.name,
            "key": _without_digest(row.key) if row.key else None,
            "today": _counts(row.today),
            "month": _counts(row.month),
            "limits": asdict(row.limits),
            "left": dict(row.left),
        }
        for row in rows
    ]


def _without_digest(record: KeyRecord) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name != "digest"}


def _counts(counts: Counts) -> dict[str, Any]:
    return {name: counts.get(name, 0) for name in COUNTERS} | {"dollars": dollars(counts)}
