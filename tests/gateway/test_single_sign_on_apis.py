"""Single sign-on over the real HTTP and gRPC APIs: tokens, the admin scope, and the console's login with PKCE."""

import base64
import hashlib
import secrets
import sys
import threading
from collections.abc import AsyncIterator
from importlib.abc import MetaPathFinder
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pointsman_servicekit.errors import Unauthenticated

from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.issuer import AUDIENCE, CLIENT, SECRET, FakeIssuer, running_issuer
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found, until
from tests.gateway.test_api_keys import over_grpc, over_http

OURS = {"x-pointsman-console": "1"}
LOGIN = "/console/api/login"
TOKENS = "pointsman_gateway.tenancy.tokens"
"""The module that imports the libraries PyJWT, cryptography and httpx."""


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with running_issuer() as issuer:
        yield issuer


def access(issuer: FakeIssuer, **login: Any) -> dict[str, Any]:
    grants = [
        {"claims": {"groups": "ops"}, "tenant": "ops", "admin": True},
        {"tenant": "acme", "limits": {"dollars_per_day": 5}},
    ]
    return {
        "single_sign_on": {
            "issuer": issuer.url,
            "audiences": [AUDIENCE, CLIENT],
            "algorithms": ["ES256"],
            "grants": grants,
            "login": {"client_id": CLIENT, **login},
        }
    }


@pytest.fixture
async def guarded(neighbours: Neighbours, valkey: Valkey, issuer: FakeIssuer) -> AsyncIterator[Gateway]:
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url, "reload_seconds": 0.05}
    neighbours.config.access = access(issuer, parameters={"resource": "https://api.acme.example"})
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


@pytest.fixture
async def page(guarded: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """Opens the console's page, before its user has logged in."""
    async with open_http_client(guarded) as client:
        client.headers.update(OURS)
        yield client


async def authorization_request(
    page: httpx.AsyncClient, verifier: str, nonce: str, redirect_uri: str
) -> tuple[str, dict[str, str]]:
    """Returns the address to which the page sends the browser, and its parameters."""

    async def known() -> Any:
        return (await page.get(LOGIN)).json()

    login = await found(known)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    mine = {"response_type": "code", "code_challenge": challenge, "code_challenge_method": "S256"}
    return login["endpoint"], login["parameters"] | mine | {
        "redirect_uri": redirect_uri, "state": "s", "nonce": nonce,
    }  # fmt: skip


async def come_back(page: httpx.AsyncClient, verifier: str, nonce: str) -> dict[str, str]:
    """Sends the browser to the issuer, which sends it back to the page. Returns the body with which the page then logs
    in.
    """
    redirect_uri = f"{page.base_url}/console"
    endpoint, parameters = await authorization_request(page, verifier, nonce, redirect_uri)
    async with httpx.AsyncClient(verify=False) as browser:
        sent = await browser.get(endpoint, params=parameters)
    (code,) = parse_qs(urlsplit(sent.headers["location"]).query)["code"]
    return {"code": code, "verifier": verifier, "redirect_uri": redirect_uri, "nonce": nonce}


@pytest.mark.parametrize("ask", [over_http, over_grpc])
async def test_a_token_is_accepted_as_a_key_is(guarded: Gateway, issuer: FakeIssuer, ask: Any) -> None:
    token = issuer.token()
    for _ in range(2):
        assert (await ask(guarded, token))["x-pointsman-path"] == "small_talk"
    with pytest.raises(Unauthenticated) as raised:
        await ask(guarded, issuer.token(aud="elsewhere"))
    assert raised.value.code == "wrong_audience"


async def test_a_grant_gives_the_admin_scope(guarded: Gateway, issuer: FakeIssuer) -> None:
    async with open_http_client(guarded) as client:
        for groups, status in ((["ops"], 200), ([], 403)):
            shown = {"authorization": f"Bearer {issuer.token(groups=groups)}"}
            assert (await client.get("/admin/v1/keys", headers=shown)).status_code == status


async def test_the_console_logs_in_by_authorization_code_with_pkce(page: httpx.AsyncClient, issuer: FakeIssuer) -> None:
    issuer.subject = "grace"
    verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
    body = await come_back(page, verifier, nonce)
    response = await page.post(LOGIN, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    shown = {"authorization": f"Bearer {response.json()['token']}"}
    caller = (await page.get("/console/api/overview", headers=shown)).json()["overview"]["caller"]
    assert (caller["tenant"], caller["admin"]) == ("acme", False)
    replayed = await page.post(LOGIN, json=body)
    assert (replayed.status_code, replayed.json()["error"]["code"]) == (401, "login_failed")
    assert "invalid_grant" in replayed.json()["error"]["message"]


async def test_a_login_that_another_page_began_fails(page: httpx.AsyncClient, issuer: FakeIssuer) -> None:
    verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
    stolen = await come_back(page, verifier, nonce) | {"verifier": secrets.token_urlsafe(48)}
    other_nonce = await come_back(page, verifier, nonce) | {"nonce": secrets.token_urlsafe(16)}
    for body in (stolen, other_nonce):
        response = await page.post(LOGIN, json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "login_failed")


async def test_a_login_costs_little_before_anybody_is_known(page: httpx.AsyncClient, issuer: FakeIssuer) -> None:
    good = {"code": "c", "verifier": "v" * 43, "redirect_uri": "http://x/console", "nonce": "n" * 16}
    for content, headers, status in (
        (b"{}", {}, 400),
        (b"x" * 9000, {}, 400),
        (b"{", {}, 400),
        (b"", {}, 400),
        (str(good).encode(), {"content-type": "text/plain"}, 400),
        (b"{}", {"origin": "https://evil.example"}, 403),
    ):
        sent = {"content-type": "application/json", **headers}
        assert (await page.post(LOGIN, content=content, headers=sent)).status_code == status, content[:20]

    async def pieces() -> AsyncIterator[bytes]:
        yield b"{}"

    assert (await page.post(LOGIN, content=pieces(), headers={"content-type": "application/json"})).status_code == 400
    issuer.is_up = False
    assert (await page.post(LOGIN, json=good)).json()["error"]["code"] == "issuer_unavailable"


async def test_the_login_follows_the_configuration(
    guarded: Gateway, page: httpx.AsyncClient, neighbours: Neighbours, issuer: FakeIssuer
) -> None:
    token = issuer.token()
    assert await over_http(guarded, token)
    before = guarded.components.reloader.current.revision
    neighbours.config.access = access(issuer, client_secret_env="POINTSMAN_TEST_NO_SUCH_VARIABLE")
    neighbours.config.write()
    await until(lambda: "NO_SUCH_VARIABLE is not set" in guarded.components.reloader.status.problem)
    assert await over_http(guarded, token)
    neighbours.config.access = {"single_sign_on": None}
    neighbours.config.write()
    await until(lambda: guarded.components.reloader.current.revision != before)
    assert (await page.get(LOGIN)).json() is None
    with pytest.raises(Unauthenticated) as raised:
        await over_http(guarded, token)
    assert raised.value.code == "unknown_key"


async def test_a_reload_that_adds_single_sign_on_imports_its_libraries_in_a_thread(
    neighbours: Neighbours, valkey: Valkey, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import takes 0.2 s; in the event loop it would delay all requests."""
    threads: list[threading.Thread] = []

    class Observer(MetaPathFinder):
        def find_spec(self, name: str, path: Any, target: Any = None) -> None:
            if name == TOKENS:
                threads.append(threading.current_thread())

    del neighbours.config.paths["triage_few_shot"]
    neighbours.config.tasks = {}
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url, "reload_seconds": 0.05}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        monkeypatch.delitem(sys.modules, TOKENS, raising=False)
        monkeypatch.setattr(sys, "meta_path", [Observer(), *sys.meta_path])
        neighbours.config.access = access(issuer)
        neighbours.config.write()
        await until(lambda: gateway.components.tenancy.single_sign_on)
    assert threads
    assert threading.main_thread() not in threads


async def test_a_confidential_client_shows_its_secret(
    neighbours: Neighbours, valkey: Valkey, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POINTSMAN_TEST_CLIENT_SECRET", SECRET)
    issuer.required_secret = SECRET
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url}
    neighbours.config.access = access(issuer, client_secret_env="POINTSMAN_TEST_CLIENT_SECRET", bearer="access_token")
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as page:
        page.headers.update(OURS)
        body = await come_back(page, secrets.token_urlsafe(48), secrets.token_urlsafe(16))
        response = await page.post(LOGIN, json=body)
        assert response.status_code == 200, response.text
