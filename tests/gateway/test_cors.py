"""Cross-origin requests of web pages are refused by browsers unless the configuration names the page's origin."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_gateway.settings import Settings
from pydantic import ValidationError

from tests.gateway.doubles import openai_shapes as shapes
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey

APP, OTHER = "https://app.example.com", "https://elsewhere.example.com"
CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}
ALLOWED = "access-control-allow-origin"


@pytest.fixture
async def open_to_app(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Runs a gateway with authentication that allows one origin."""
    given = {"auth": "on", "redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    neighbours.settings |= {"cors_origins": f"{APP}, http://localhost:3000", **given}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


async def test_no_origin_is_allowed_by_default(http: httpx.AsyncClient) -> None:
    answer = await http.options(CHAT, headers={"origin": APP, **PREFLIGHT})
    assert (answer.status_code, ALLOWED in answer.headers) == (405, False)
    answer = await http.post(CHAT, json=BODY, headers={"origin": APP})
    assert (answer.status_code, ALLOWED in answer.headers) == (200, False)


async def test_a_page_of_an_allowed_origin_may_call_the_api(open_to_app: Gateway, valkey: Valkey) -> None:
    key = (await issue(valkey.url)).credential.text
    async with open_http_client(open_to_app) as http:
        for url in CHAT, "/v1/responses", "/v1/messages", "/v2/rerank", "/openai/deployments/auto/chat/completions":
            before = await http.options(url, headers={"origin": APP, **PREFLIGHT})
            assert (before.status_code, before.headers[ALLOWED]) == (200, APP)
            assert "x-stainless-lang" in before.headers["access-control-allow-headers"]
            assert "POST" in before.headers["access-control-allow-methods"]
            assert "access-control-allow-credentials" not in before.headers
        headers = {"origin": APP, "authorization": f"Bearer {key}"}
        for stream in False, True:
            answer = await http.post(CHAT, json={**BODY, "stream": stream}, headers=headers)
            assert (answer.status_code, answer.headers[ALLOWED]) == (200, APP)
            assert answer.headers["access-control-expose-headers"] == "*"
            assert "origin" in answer.headers["vary"].lower()
        refused = await http.post(CHAT, json=BODY, headers={"origin": APP})
        assert (shapes.error(refused)["code"], refused.headers[ALLOWED]) == ("missing_key", APP)


async def test_a_page_of_another_origin_may_not(open_to_app: Gateway) -> None:
    async with open_http_client(open_to_app) as http:
        for origin in OTHER, APP + ".evil.example.com", "http://app.example.com", "null":
            answer = await http.options(CHAT, headers={"origin": origin, **PREFLIGHT})
            assert (answer.status_code, ALLOWED in answer.headers) == (400, False)
            assert ALLOWED not in (await http.post(CHAT, json=BODY, headers={"origin": origin})).headers


async def test_console_and_metrics_are_for_no_other_origin(open_to_app: Gateway) -> None:
    async with open_http_client(open_to_app) as http:
        for url in "/console", "/console/api/overview", "/metrics", "/healthz":
            assert ALLOWED not in (await http.get(url, headers={"origin": APP})).headers
            assert ALLOWED not in (await http.options(url, headers={"origin": APP, **PREFLIGHT})).headers


async def test_all_origins_are_never_allowed_with_credentials(neighbours: Neighbours) -> None:
    neighbours.settings |= {"cors_origins": "*"}
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        answer = await http.options(CHAT, headers={"origin": OTHER, "cookie": "a=b", **PREFLIGHT})
        assert answer.headers[ALLOWED] in ("*", OTHER)
        assert "access-control-allow-credentials" not in answer.headers
        answer = await http.get("/v1/models", headers={"origin": OTHER})
        assert (answer.headers[ALLOWED], "access-control-allow-credentials" in answer.headers) == ("*", False)


@pytest.mark.parametrize(
    ("origins", "problem"),
    [
        ("app.example.com", "is no origin"),
        ("https://app.example.com/", "is no origin"),
        ("https://*.example.com", "is no origin"),
        ("https://App.example.com", "in lower case"),
        ("*, https://app.example.com", "write it alone"),
        ("null", "is no origin"),
    ],
)
def test_what_is_no_origin_is_refused_at_the_start(origins: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Settings(cors_origins=origins)


def test_origins_may_have_ports_and_addresses() -> None:
    origins = "http://localhost:3000,https://[::1]:8443, app://obsidian.md,"
    assert Settings(cors_origins=origins).origins == (
        "http://localhost:3000",
        "https://[::1]:8443",
        "app://obsidian.md",
    )
