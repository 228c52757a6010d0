"""The console's page and API over HTTP: headers, access, and rejected requests."""

import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_servicekit.keys.records import KeyScope

from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.gateway import TRIAGE, VOICE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.lora_server import ScriptedLoraServer
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

OURS = {"x-pointsman-console": "1"}
OVERVIEW = "/console/api/overview"
MOVE = {"model": "tiny", "alias": "triage@prod", "version": TRIAGE}

# -- the page


async def test_every_file_of_the_page_has_its_type_and_a_strict_content_security_policy(
    http: httpx.AsyncClient,
) -> None:
    page = await http.get("/console")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bstyle=|\bon[a-z]+=|https?://", page.text)
    names = set(re.findall(r'(?:src|href)="console/([^"]+)"', page.text))
    names |= {name for script in await _scripts(http, names) for name in re.findall(r'from "\./([^"]+)"', script)}
    types = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
    assert {name.rpartition(".")[2] for name in names} == set(types)
    for name in names:
        response = await http.get(f"/console/{name}")
        assert (response.status_code, response.headers["content-type"]) == (200, types[name.rpartition(".")[2]]), name
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"


async def _scripts(http: httpx.AsyncClient, names: set[str]) -> list[str]:
    """Returns the page's scripts, including those that they import."""
    wanted, read = {name for name in names if name.endswith(".js")}, dict[str, str]()
    while missing := wanted - read.keys():
        for name in missing:
            read[name] = (await http.get(f"/console/{name}")).text
            wanted |= set(re.findall(r'from "\./([^"]+)"', read[name]))
    return list(read.values())


async def test_the_page_is_small(http: httpx.AsyncClient) -> None:
    html = (await http.get("/console")).text
    names = set(re.findall(r'(?:src|href)="console/([^"]+)"', html))
    whole = html + "".join(await _scripts(http, names)) + (await http.get("/console/console.css")).text
    assert len(gzip.compress(whole.encode())) < 40_000


async def test_unchanged_files_are_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get("/console/console.css")
    again = await http.get("/console/console.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert first.headers["content-encoding"] == "gzip"
    plain = await http.get("/console/console.css", headers={"accept-encoding": "identity"})
    assert (plain.text, plain.headers.get("content-encoding")) == (first.text, None)


async def test_no_other_file_is_served(http: httpx.AsyncClient) -> None:
    for name in ["nothing.js", "..%2fapi.py", "api.py", "%2e%2e%2f%2e%2e%2fetc%2fpasswd"]:
        assert (await http.get(f"/console/{name}")).status_code == 404, name


async def test_a_disabled_console_is_not_found(neighbours: Neighbours) -> None:
    neighbours.settings["console"] = "off"
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        for path in ("/console", OVERVIEW):
            assert (await client.get(path, headers=OURS)).status_code == 404


# -- other sites


async def test_another_site_can_neither_read_nor_change(
    http: httpx.AsyncClient, lora_server: ScriptedLoraServer
) -> None:
    for headers, code in (
        ({}, "other_site"),
        ({"origin": "https://evil.example"}, "other_site"),
        (OURS | {"origin": "https://evil.example"}, "other_site"),
        (OURS | {"origin": "null"}, "other_site"),
        (OURS | {"origin": "http://["}, "other_site"),
        (OURS | {"origin": "http://a]b["}, "other_site"),
        (OURS | {"host": "["}, "unknown_host"),
        (OURS | {"host": "a]b["}, "unknown_host"),
        (OURS | {"host": "evil.example"}, "unknown_host"),
        (OURS | {"host": "evil.example:8080", "origin": "http://evil.example:8080"}, "unknown_host"),
        (OURS | {"host": "localhost.evil.example"}, "unknown_host"),
        (OURS | {"host": "127.0.0.1.evil.example"}, "unknown_host"),
    ):
        for response in (
            await http.get(OVERVIEW, headers=headers),
            await http.post("/console/api/adapters/alias", json=MOVE, headers=headers),
        ):
            assert (response.status_code, response.json()["error"]["code"]) == (403, code), headers
    assert lora_server.changes == []


async def test_no_cors_headers_are_sent(http: httpx.AsyncClient) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    response = await http.options("/console/api/adapters/alias", headers=asked)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_a_change_must_have_the_json_content_type(
    http: httpx.AsyncClient, lora_server: ScriptedLoraServer
) -> None:
    body = json.dumps(MOVE)
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = await http.post("/console/api/adapters/alias", content=body, headers=OURS | {"content-type": kind})
        assert response.status_code == 400
    assert lora_server.changes == []


async def test_local_host_names_and_configured_ones_are_accepted(neighbours: Neighbours) -> None:
    neighbours.settings["console_hosts"] = "gateway.lan, other.lan"
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        for host in ("localhost:8080", "console.localhost", "127.0.0.1:1", "[::1]:8080", "gateway.lan", "other.lan"):
            response = await client.get(OVERVIEW, headers=OURS | {"host": host, "origin": f"http://{host}"})
            assert response.status_code == 200, host


# -- keys


@pytest.fixture
async def guarded(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> AsyncIterator[Gateway]:
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    await neighbours.ready()
    for version in (TRIAGE, VOICE):
        neighbours.lora_server.versions[version] = pb.AdapterVersion(version=version, name=version.partition("@")[0])
    async with neighbours.gateway() as gateway:
        yield gateway


@pytest.fixture
async def http_with_keys(guarded: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client(guarded) as client:
        client.headers.update(OURS)
        yield client


async def key(valkey: Valkey, **order: Any) -> dict[str, str]:
    """Returns the header with a new key."""
    return {"authorization": f"Bearer {(await issue(valkey.url, **order)).credential.text}"}


async def ask(client: httpx.AsyncClient, shown: dict[str, str], text: str) -> str:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    return (await client.post("/v1/chat/completions", json=body, headers=shown)).headers["x-pointsman-decision-id"]


async def test_the_page_needs_no_key_but_its_data_does(http_with_keys: httpx.AsyncClient) -> None:
    assert (await http_with_keys.get("/console")).status_code == 200
    for path in (OVERVIEW, "/console/api/decisions", "/console/api/decisions/dec_1", "/console/api/adapters"):
        response = await http_with_keys.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "missing_key"), path
    for step, body in (("alias", MOVE), ("canary", {**MOVE, "weight": 0.1}), ("rollback", {})):
        asked = {"model": "tiny", "alias": "triage@prod"} if step == "rollback" else body
        response = await http_with_keys.post(f"/console/api/adapters/{step}", json=asked)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "missing_key"), step


async def test_with_authentication_any_host_name_is_accepted(http_with_keys: httpx.AsyncClient, valkey: Valkey) -> None:
    shown = await key(valkey)
    response = await http_with_keys.get(OVERVIEW, headers=shown | {"host": "console.acme.example"})
    assert response.status_code == 200


async def test_a_key_sees_its_tenants_decisions_and_no_others(
    http_with_keys: httpx.AsyncClient, valkey: Valkey
) -> None:
    acme, other = await key(valkey), await key(valkey, tenant="other")
    theirs, ours = await ask(http_with_keys, other, IN_CHAT), await ask(http_with_keys, acme, IN_TRIAGE)

    async def listed() -> list[str] | None:
        rows = (await http_with_keys.get("/console/api/decisions", headers=acme)).json()["decisions"]
        return [row["id"] for row in rows]

    assert await found(listed) == [ours]
    assert (await http_with_keys.get(f"/console/api/decisions/{ours}", headers=acme)).status_code == 200
    for shown, name in ((acme, theirs), (other, ours)):
        response = await http_with_keys.get(f"/console/api/decisions/{name}", headers=shown)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_decision")
    seen = (await http_with_keys.get(OVERVIEW, headers=acme)).json()["overview"]
    assert seen["window"]["requests"] == 1
    assert (seen["caller"]["tenant"], seen["caller"]["operator"]) == ("acme", False)


async def test_a_key_sees_the_paths_tasks_and_adapters_in_its_scope(
    http_with_keys: httpx.AsyncClient, valkey: Valkey
) -> None:
    scope = KeyScope(paths=("small_talk", "letter"), tasks=("chat", "policy"), adapters=("voice",))
    shown = await key(valkey, scope=scope)
    seen = (await http_with_keys.get(OVERVIEW, headers=shown)).json()["overview"]
    assert [path["path"] for path in seen["paths"]] == ["letter", "small_talk"]
    assert [task["task"] for task in seen["tasks"]] == ["policy", "chat"]
    (model,) = (await http_with_keys.get("/console/api/adapters", headers=shown)).json()["models"]
    assert [version["version"] for version in model["versions"]] == [VOICE]
    assert [alias["alias"] for alias in model["aliases"]] == ["voice@prod"]


async def test_only_an_operators_key_can_change_adapters(
    http_with_keys: httpx.AsyncClient, valkey: Valkey, lora_server: ScriptedLoraServer
) -> None:
    refused = await http_with_keys.post("/console/api/adapters/alias", json=MOVE, headers=await key(valkey))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_operator")
    narrow = await key(valkey, operator=True, scope=KeyScope(adapters=("voice",)))
    outside = await http_with_keys.post("/console/api/adapters/alias", json=MOVE, headers=narrow)
    assert (outside.status_code, outside.json()["error"]["code"]) == (403, "not_in_scope")
    assert lora_server.changes == []
    operator = await issue(valkey.url, operator=True)
    shown = {"authorization": f"Bearer {operator.credential.text}"}
    assert (await http_with_keys.get(OVERVIEW, headers=shown)).json()["overview"]["caller"]["operator"] is True
    moved = await http_with_keys.post("/console/api/adapters/alias", json=MOVE, headers=shown)
    assert moved.status_code == 200, moved.text
    assert lora_server.changes[0].author == f"console, {operator.record.id}"
