"""The admin API over HTTP with a real Valkey: it has the functions of `pointsman keys`, for keys with the admin
scope.
"""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

KEYS, TENANTS, CONFIG = "/admin/v1/keys", "/admin/v1/tenants", "/admin/v1/config"
AUDIT = "/admin/v1/audit"
ROUTES = [
    ("GET", KEYS), ("POST", KEYS), ("GET", f"{KEYS}/key-1"), ("PATCH", f"{KEYS}/key-1"), ("DELETE", f"{KEYS}/key-1"),
    ("GET", TENANTS), ("GET", f"{TENANTS}/acme"), ("PATCH", f"{TENANTS}/acme"), ("GET", "/admin/v1/budgets"),
    ("GET", "/admin/v1/usage"), ("GET", CONFIG), ("GET", AUDIT),
]  # fmt: skip


@pytest.fixture
async def guarded(neighbours: Neighbours, valkey: Valkey) -> AsyncIterator[Gateway]:
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url, "reload_seconds": 0.05}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


@pytest.fixture
async def admin(guarded: Gateway, valkey: Valkey) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client with a key that has the admin scope."""
    issued = await issue(valkey.url, tenant="ops", admin=True)
    async with open_http_client(guarded) as client:
        client.headers["authorization"] = f"Bearer {issued.credential.text}"
        yield client


async def chat(gateway: Gateway, key: str) -> httpx.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
    async with open_http_client(gateway) as client:
        return await client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})


async def create(admin: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    created = await admin.post(KEYS, json={"tenant": "acme", **body})
    assert created.status_code == 201, created.text
    return dict(created.json())


def body_of(method: str, path: str) -> dict[str, Any] | None:
    return {"tenant": "acme"} if (method, path) == ("POST", KEYS) else {"limits": {}} if method == "PATCH" else None


async def test_only_a_key_with_the_admin_scope_may_use_it(guarded: Gateway, valkey: Valkey) -> None:
    plain, operator = [(await issue(valkey.url, operator=operator)).credential.text for operator in (False, True)]
    async with open_http_client(guarded) as client:
        for key, status, code in (
            ("", 401, "missing_key"),
            (f"pm_{'A' * 8}_{'b' * 32}", 401, "unknown_key"),
            (plain, 403, "not_admin"),
            (operator, 403, "not_admin"),
        ):
            for method, path in ROUTES:
                headers = {"authorization": f"Bearer {key}"} if key else {}
                response = await client.request(method, path, json=body_of(method, path), headers=headers)
                assert (response.status_code, response.json()["error"]["code"]) == (status, code), path


async def test_without_authentication_only_the_consoles_page_may_read_the_configuration(
    http: httpx.AsyncClient,
) -> None:
    ours = {"x-pointsman-console": "1"}
    for method, path in ROUTES:
        response = await http.request(method, path, json=body_of(method, path), headers=ours)
        if path == CONFIG:
            assert response.json()["running"]["files"]["paths.yaml"]
        else:
            assert (response.status_code, response.json()["error"]["code"]) == (403, "not_admin"), path
            assert "POINTSMAN_GATEWAY_AUTH=on" in response.json()["error"]["message"]
    for headers in ({}, ours | {"host": "evil.example"}, ours | {"origin": "https://evil.example"}):
        assert (await http.get(CONFIG, headers=headers)).status_code == 403


async def test_a_key_is_created_used_limited_and_revoked(guarded: Gateway, admin: httpx.AsyncClient) -> None:
    created = await create(
        admin, name="desk", limits={"requests_per_minute": 5}, scope={"tasks": ["chat"]}, expires=time.time() + 3600
    )
    key, prefix = created.pop("key"), created["prefix"]
    assert "digest" not in created
    assert (created["state"], created["tenant"], created["scope"]["tasks"]) == ("active", "acme", ["chat"])
    assert (await chat(guarded, key)).status_code == 200
    assert (await admin.get(f"{KEYS}/{prefix}")).json() == created
    limited = await admin.patch(f"{KEYS}/{prefix}", json={"limits": {"tokens_per_minute": 9000}})
    assert limited.json()["limits"] == created["limits"] | {"tokens_per_minute": 9000}
    removed = await admin.patch(f"{KEYS}/{prefix}", json={"limits": {"requests_per_minute": None}})
    assert removed.json()["limits"]["requests_per_minute"] is None
    assert removed.json()["limits"]["tokens_per_minute"] == 9000
    for _ in range(2):
        assert (await admin.delete(f"{KEYS}/{prefix}")).json()["state"] == "revoked"

    async def is_refused() -> bool:
        return (await chat(guarded, key)).status_code == 401

    await found(is_refused)
    listed = (await admin.get(KEYS, params={"tenant": "acme"})).json()["keys"]
    assert [(one["prefix"], one["state"]) for one in listed] == [(prefix, "revoked")]
    assert key.rsplit("_", 1)[1] not in (await admin.get(KEYS)).text


async def test_a_tenants_limits_consent_budget_and_usage(guarded: Gateway, admin: httpx.AsyncClient) -> None:
    key = (await create(admin, tenant="acme"))["key"]
    changed = await admin.patch(f"{TENANTS}/acme", json={"limits": {"dollars_per_day": 2.5}, "learning": ["chat"]})
    assert (changed.json()["limits"]["dollars_per_day"], changed.json()["learning"]) == (2.5, ["chat"])
    assert (await admin.get(f"{TENANTS}/acme")).json() == changed.json()
    assert changed.json() in (await admin.get(TENANTS)).json()["tenants"]
    cost = float((await chat(guarded, key)).headers["x-pointsman-cost-usd"])

    async def is_counted() -> bool:
        (tenant, of_key) = (await admin.get("/admin/v1/usage", params={"tenant": "acme"})).json()["usage"]
        assert (tenant["key"], of_key["key"]["tenant"]) == (None, "acme")
        return bool(tenant["today"] == of_key["today"] and of_key["today"]["dollars"] == pytest.approx(cost))

    async def is_charged() -> bool:
        (budget,) = (await admin.get("/admin/v1/budgets")).json()["budgets"]
        expected = {"tenant": "acme", "key": None, "limit": "dollars_per_day", "usd": 2.5, "is_nearly_spent": False}
        assert budget | expected == budget
        return bool(budget["used_usd"] == pytest.approx(cost, rel=1e-3))

    await found(is_counted)
    await found(is_charged)


WRONG: list[tuple[str, str, dict[str, Any] | None, int, str]] = [
    ("POST", KEYS, {"tenant": "Acme Inc"}, 400, "bad_tenant"),
    ("POST", KEYS, {}, 400, "bad_parameter"),
    ("POST", KEYS, {"tenant": "acme", "limits": {"requests_per_minute": 0}}, 400, "bad_limit"),
    ("POST", KEYS, {"tenant": "acme", "limits": {"requests_per_minute": "5"}}, 400, "bad_parameter"),
    ("POST", KEYS, {"tenant": "acme", "limit": {}}, 400, "bad_parameter"),
    ("POST", KEYS, {"tenant": "acme", "scope": {"tasks": [""]}}, 400, "bad_scope"),
    ("POST", KEYS, {"tenant": "acme", "expires": 1}, 400, "bad_expiry"),
    ("POST", KEYS, {"tenant": "acme", "priority": 1000}, 400, "bad_priority"),
    ("PATCH", f"{KEYS}/nobody", {"limits": {}}, 404, "unknown_key"),
    ("DELETE", f"{KEYS}/nobody", None, 404, "unknown_key"),
    ("GET", f"{TENANTS}/nobody", None, 404, "unknown_tenant"),
    ("PATCH", f"{TENANTS}/No Body", {}, 400, "bad_tenant"),
    ("POST", KEYS, {"tenant": "acme", "scope": {"tasks": ["\ud800"]}}, 400, "bad_text"),
    ("PATCH", f"{TENANTS}/acme", {"learning": ["\ud800"]}, 400, "bad_text"),
    ("PUT", KEYS, {}, 405, "unknown_route"),
]


async def test_wrong_requests_are_refused_by_name_and_change_nothing(admin: httpx.AsyncClient) -> None:
    before = (await admin.get(KEYS)).json()
    for method, path, body, status, code in WRONG:
        headers = {"content-type": "application/json"}
        text = await admin.request(method, path, content=json.dumps(body), headers=headers)
        assert (text.status_code, text.json()["error"]["code"]) == (status, code), text.text
    assert (await admin.get(KEYS)).json() == before


async def test_while_redis_is_away_a_change_is_refused_and_not_half_made(
    admin: httpx.AsyncClient, valkey: Valkey
) -> None:
    assert (await admin.get(KEYS)).status_code == 200
    valkey.kill()
    response = await admin.post(KEYS, json={"tenant": "acme"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "redis_unavailable")


async def test_the_running_the_previous_and_the_rejected_configuration_are_shown(
    guarded: Gateway, admin: httpx.AsyncClient, neighbours: Neighbours
) -> None:
    first = (await admin.get(CONFIG)).json()
    assert (first["previous"], first["rejected"]) == (None, None)
    assert "small_talk" in first["running"]["files"]["paths.yaml"]
    neighbours.config.tasks["chat"]["policy"] = {"fixed": "handbook"}
    neighbours.config.write()

    async def history(part: str) -> Any:
        return (await admin.get(CONFIG)).json()[part]

    assert await found(lambda: history("previous")) == first["running"]
    running = await history("running")
    neighbours.config.tasks["chat"]["policy"] = {"fixed": "nowhere"}
    neighbours.config.write()
    rejected = await found(lambda: history("rejected"))
    assert "nowhere" in rejected["problem"]
    assert "nowhere" in rejected["files"]["tasks.yaml"]
    assert await history("running") == running


async def changes(admin: httpx.AsyncClient, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await admin.get(AUDIT, params={"kind": kind})).json()["changes"]
    return found


async def test_the_audit_log_names_the_key_and_the_address_of_who_changes_something(
    admin: httpx.AsyncClient, guarded: Gateway
) -> None:
    (own,) = (await admin.get(KEYS, params={"tenant": "ops"})).json()["keys"]
    key = await create(admin, limits={"dollars_per_day": 2})
    await admin.patch(f"{KEYS}/{key['id']}", json={"limits": {"dollars_per_day": 3}})
    (change,) = await changes(admin, "budget")
    assert (change["who"], change["where"]) == (own["id"], "127.0.0.1 (admin API)")
    assert (change["subject"], change["change"]) == (f"key {key['id']} of acme", "limited")
    assert (change["before"], change["after"]) == ({"dollars_per_day": 2}, {"dollars_per_day": 3})
    assert abs(change["unix_ms"] / 1000 - time.time()) < 60
    assert (await admin.get(AUDIT, params={"kind": "weather"})).status_code == 400


async def test_an_edit_of_the_configuration_is_in_the_audit_log(admin: httpx.AsyncClient, guarded: Gateway) -> None:
    async def first() -> bool:
        return bool(await changes(admin, "configuration"))

    assert await found(first, within=20)
    file = guarded.folder / "models.yaml"
    file.write_text(file.read_text().replace("context_window: 4096", "context_window: 4095", 1))

    async def look() -> list[dict[str, Any]] | None:
        edits = [one for one in await changes(admin, "configuration") if one["change"] == "changed"]
        return edits or None

    edits = await found(look, within=20)
    assert edits is not None
    assert edits[0]["subject"] == "models.yaml"
    assert str(guarded.folder) in edits[0]["where"]
    assert 4095 in edits[0]["after"].values()
    assert 4096 in edits[0]["before"].values()
