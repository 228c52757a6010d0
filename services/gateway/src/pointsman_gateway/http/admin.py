"""`/admin/v1`: keys, tenants, budgets, usage and the configuration, for callers with the right `Caller.is_admin`.

The routes use the same functions as `pointsman keys`. If authentication is off, no caller is known, so only the
configuration can be read, and only from the console's page.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from time import time
from typing import Annotated

from fastapi import FastAPI, Path, Query, Request
from pointsman_servicekit.audit.entries import Actor, Kind
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from pointsman_servicekit.keys.administration import Administration, usage_as_json
from pointsman_servicekit.keys.key_store import NewKey
from pointsman_servicekit.keys.records import (
    MAX_COUNT,
    MAX_DOLLARS,
    MAX_NAME_CHARACTERS,
    KeyRecord,
    KeyScope,
    Limits,
    TenantRecord,
)
from pydantic import Field
from pydantic.config import JsonDict
from starlette.responses import Response

from pointsman_gateway.domain import Caller
from pointsman_gateway.http.console.site_check import check_site
from pointsman_gateway.http.dependencies import caller_of_request, dependencies_of
from pointsman_gateway.http.fields import FailFastList, StrictBody
from pointsman_gateway.http.json_answer import json_answer

log = logging.getLogger(__name__)

# Bounds that are only documented here are checked when the key's or tenant's record is made, with better errors.
Count = Annotated[int, Field(strict=True, json_schema_extra={"minimum": 1, "maximum": MAX_COUNT})]
Usd = Annotated[float, Field(strict=True, json_schema_extra={"minimum": 1e-9, "maximum": MAX_DOLLARS})]
Names = FailFastList[Annotated[str, Field(json_schema_extra={"minLength": 1, "maxLength": MAX_NAME_CHARACTERS})]] | None
_TENANT: JsonDict = {"pattern": "^[a-z0-9][a-z0-9_-]{0,63}$"}
TenantPath = Annotated[str, Path(json_schema_extra=_TENANT)]
OnlyTenant = Annotated[str, Query(max_length=64, description="only this tenant; default: all tenants")]

MAX_AUDIT_DAYS = 3650
MAX_AUDIT_ENTRIES = 1000
AuditDays = Annotated[float, Query(gt=0, le=MAX_AUDIT_DAYS, description="so many of the last days")]
AuditKind = Annotated[Kind | None, Query(description="only changes of this kind; default: all")]
AuditLimit = Annotated[int, Query(ge=1, le=MAX_AUDIT_ENTRIES)]
SECONDS_PER_DAY = 24 * 60 * 60

MAX_UNIX_SECONDS = 253402300800
"""The Unix time, in seconds, at which the year 9999 ends; keys must expire before it."""

PREFIX = "/admin/v1"


class LimitsBody(StrictBody):
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_streams: Count | None = None
    dollars_per_day: Usd | None = None
    dollars_per_month: Usd | None = None

    def changes(self) -> dict[str, int | float | None]:
        """Returns the limits that the body contains, by the name of the limit; None stands for a limit that is to
        be removed.
        """
        return self.model_dump(exclude_unset=True)


class ScopeBody(StrictBody):
    """The names that the key may use; null allows all, except as described at `embeddings`."""

    tasks: Names = None
    paths: Names = None
    adapters: Names = None
    collections: Names = None
    embeddings: Names = Field(default=None, description="null: all models if no other list is set, otherwise none")
    rerankers: Names = Field(default=None, description="as `embeddings`")

    def to_scope(self) -> KeyScope:
        return KeyScope(**{name: None if names is None else tuple(names) for name, names in self})


class NewKeyBody(StrictBody):
    tenant: str = Field(description="created if it does not exist", json_schema_extra=_TENANT)
    name: str = Field(
        default="",
        description="a label for people",
        json_schema_extra={"pattern": f"^[ -~]{{0,{MAX_NAME_CHARACTERS}}}$"},
    )
    scope: ScopeBody = Field(default_factory=ScopeBody)
    limits: LimitsBody = Field(default_factory=LimitsBody)
    priority: int = Field(default=0, strict=True, json_schema_extra={"minimum": -100, "maximum": 100})
    expires: float | None = Field(default=None, description="Unix seconds; null: never")
    operator: bool = Field(default=False, description="may move adapters in the console and send evaluations")
    admin: bool = Field(default=False, description="may use this API")

    def to_new_key(self) -> NewKey:
        """Converts the body to a `NewKey`.

        Raises InvalidArgument for an expiry that is not in the future or after the year 9999, and for invalid limits or
        scope.
        """
        if self.expires is not None and not time() < self.expires < MAX_UNIX_SECONDS:
            raise InvalidArgument(
                f"expires is {self.expires}; it must be in the future, in Unix seconds",
                code="bad_expiry",
                param="expires",
            )
        limits = Limits(**self.limits.model_dump())
        rest = self.model_dump(exclude={"scope", "limits"})
        return NewKey(scope=self.scope.to_scope(), limits=limits, **rest)


class KeyBody(StrictBody):
    limits: LimitsBody = Field(description="new values; a missing limit stays, null removes it")


class TenantBody(StrictBody):
    limits: LimitsBody = Field(
        default_factory=LimitsBody, description="new values; a missing limit stays, null removes it"
    )
    learning: Names = Field(
        default=None, description='tasks whose answers may be used for training ("*": all); null: unchanged'
    )


async def list_keys(request: Request, tenant: OnlyTenant = "") -> Response:
    """Lists the keys, the oldest first, without their secrets."""
    admin, _ = _authorize(request)
    return json_answer({"keys": admin.keys_as_json(await admin.list_keys(tenant))})


async def create_key(body: NewKeyBody, request: Request) -> Response:
    """Creates a key. Only this response contains its secret, which is not stored."""
    admin, caller = _authorize(request)
    issued = await admin.keys.create(body.to_new_key())
    _log_change(caller, "created", issued.record)
    (described,) = admin.keys_as_json([issued.record])
    return json_answer({"key": issued.credential.text, **described}, status=201)


async def find_key(key: str, request: Request) -> Response:
    """Returns a key by its id or prefix; 404 if there is none."""
    admin, _ = _authorize(request)
    return json_answer(admin.keys_as_json([await admin.keys.find(key)])[0])


async def limit_key(key: str, body: KeyBody, request: Request) -> Response:
    """Changes the given limits of a key, by its id or prefix; null removes a limit."""
    admin, caller = _authorize(request)
    record = await admin.change_limits(body.limits.changes(), key=key)
    assert isinstance(record, KeyRecord)
    _log_change(caller, "limited", record)
    return json_answer(admin.keys_as_json([record])[0])


async def revoke_key(key: str, request: Request) -> Response:
    """Revokes a key, by its id or prefix; idempotent."""
    admin, caller = _authorize(request)
    record = await admin.keys.revoke(key)
    _log_change(caller, "revoked", record)
    return json_answer(admin.keys_as_json([record])[0])


async def list_tenants(request: Request) -> Response:
    """Lists the tenants with their limits, and the tasks for which they consent to training."""
    admin, _ = _authorize(request)
    return json_answer({"tenants": [asdict(tenant) for tenant in (await admin.keys.tenants()).values()]})


async def find_tenant(tenant: TenantPath, request: Request) -> Response:
    """Returns one tenant with its limits, and the tasks for which it consents to training; 404 if there is none of
    this name.
    """
    admin, _ = _authorize(request)
    found = (await admin.keys.tenants()).get(tenant)
    if found is None:
        raise NotFound(f"there is no tenant '{tenant[:80]}'", code="unknown_tenant", param="tenant")
    return json_answer(asdict(found))


async def change_tenant(tenant: TenantPath, body: TenantBody, request: Request) -> Response:
    """Changes a tenant's limits, and the tasks for which it consents to training. Creates the tenant if it does not
    exist.
    """
    admin, caller = _authorize(request)
    record = await admin.change_limits(body.limits.changes(), tenant=TenantRecord(tenant).name)
    if body.learning is not None:
        record = await admin.keys.consent(tenant, body.learning)
    assert isinstance(record, TenantRecord)
    log.info("%s changed tenant %s", caller.key, record.name)
    return json_answer(asdict(record))


async def budgets(request: Request, tenant: OnlyTenant = "") -> Response:
    """Lists the limits in dollars of keys and tenants, with what has been used of each. To change one, change the
    limits of its key or tenant.
    """
    admin, _ = _authorize(request)
    return json_answer({"budgets": await admin.budgets(tenant)})


async def usage(request: Request, tenant: OnlyTenant = "") -> Response:
    """Returns the usage of today and of this month (UTC) and the remaining limits: each tenant, followed by its keys
    and its users of single sign-on.
    """
    admin, _ = _authorize(request)
    return json_answer({"usage": usage_as_json(await admin.usage(tenant))})


async def audit(request: Request, days: AuditDays = 7, kind: AuditKind = None, limit: AuditLimit = 100) -> Response:
    """Lists administrative changes, the newest first: of keys, limits, consents, the configuration, its prices and
    roles, and aliases.
    """
    admin, _ = _authorize(request)
    found = await admin.audit.read(days * SECONDS_PER_DAY, {kind} if kind else (), limit)
    return json_answer({"changes": [entry.as_fields() for entry in found]})


async def configuration(request: Request) -> Response:
    """Returns the files of the running configuration, of the previous valid one, and of a rejected edit."""
    console = dependencies_of(request).console
    if console is not None and not console.keys:
        check_site(request, False, console.hosts)
    else:
        _check_admin(request)
    return json_answer(dependencies_of(request).configuration.history)


def _authorize(request: Request) -> tuple[Administration, Caller]:
    """Returns the administration of keys, which names the caller in the audit log, and the caller.

    Raises PermissionDenied if the caller may not use the admin API, FailedPrecondition if the gateway has no Redis.
    """
    caller = _check_admin(request)
    administration = dependencies_of(request).administration
    if administration is None:
        raise FailedPrecondition(
            "this gateway keeps no keys; set POINTSMAN_GATEWAY_REDIS_URL and POINTSMAN_GATEWAY_AUTH=on",
            code="no_keys",
        )
    address = request.client.host if request.client else ""
    return administration.acting_as(Actor(caller.key, f"{address} (admin API)".strip())), caller


def _check_admin(request: Request) -> Caller:
    caller = caller_of_request(request)
    if not caller.is_admin:
        problem = (
            "this key may not use the admin API; `pointsman keys create --admin` makes one that may"
            if caller.tenant
            else "authentication is off, so the admin API trusts nobody; set POINTSMAN_GATEWAY_AUTH=on"
        )
        raise PermissionDenied(problem, code="not_admin")
    return caller


def _log_change(caller: Caller, change: str, record: KeyRecord) -> None:
    log.info("%s %s key %s of tenant %s", caller.key, change, record.id, record.tenant)


def add_admin_api(app: FastAPI) -> None:
    routes: dict[tuple[str, str], Callable[..., Awaitable[Response]]] = {
        ("GET", "/keys"): list_keys,
        ("POST", "/keys"): create_key,
        ("GET", "/keys/{key}"): find_key,
        ("PATCH", "/keys/{key}"): limit_key,
        ("DELETE", "/keys/{key}"): revoke_key,
        ("GET", "/tenants"): list_tenants,
        ("GET", "/tenants/{tenant}"): find_tenant,
        ("PATCH", "/tenants/{tenant}"): change_tenant,
        ("GET", "/budgets"): budgets,
        ("GET", "/usage"): usage,
        ("GET", "/audit"): audit,
        ("GET", "/config"): configuration,
    }
    for (method, path), handler in routes.items():
        status = 201 if method == "POST" else 200
        app.add_api_route(PREFIX + path, handler, methods=[method], status_code=status, tags=["admin"])
