"""Single sign-on with a certified OpenID provider (oidc-provider of npm): tokens, rotated keys, an outage, a login."""

import re
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import jwt
import pytest
from pointsman_servicekit.errors import Unauthenticated

from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.processes import ROOT, Process
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found
from tests.gateway.test_api_keys import over_grpc, over_http
from tests.gateway.test_single_sign_on_apis import LOGIN, OURS, authorization_request
from tests.ports import free_port

AUDIENCE, CLIENT, REDIRECT = "urn:pointsman", "console", "https://gateway.example/console"
PACKAGES = ROOT / ".venv-clients" / "oidc-provider"


class Provider:
    """The provider's process. Each start has a new signing key."""

    def __init__(self, folder: Path) -> None:
        self._port, self._folder = free_port(), folder
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: Process | None = None

    async def start(self, key_id: str) -> None:
        script = Path(__file__).with_name("provider.mjs")
        program = ["node", str(script), str(self._port), key_id, AUDIENCE, REDIRECT]
        packages = {"PACKAGES": str(PACKAGES)}
        self._process = Process(program, packages, self._folder / f"{key_id}.log", "provider listens")
        await self._process.start()

    async def stop(self) -> None:
        if self._process:
            self._process.signal(signal.SIGTERM)
            await self._process.ended(10)
            self._process = None

    async def token(self) -> str:
        """Returns an access token of a program, obtained with its client credentials."""
        form = {"grant_type": "client_credentials", "scope": "api", "resource": AUDIENCE}
        async with httpx.AsyncClient(auth=("robot", "robot%27s+secret")) as client:
            return str((await client.post(f"{self.url}/token", data=form)).raise_for_status().json()["access_token"])


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    provider = Provider(tmp_path)
    await provider.start("first")
    yield provider
    await provider.stop()


@pytest.fixture
async def guarded(neighbours: Neighbours, valkey: Valkey, provider: Provider) -> AsyncIterator[Gateway]:
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url}
    neighbours.config.access = {
        "single_sign_on": {
            "issuer": provider.url,
            "audiences": [AUDIENCE, CLIENT],
            "algorithms": ["ES256"],
            "grants": [
                {"claims": {"client_id": "robot"}, "tenant": "robots"},
                {"claims": {"groups": "support"}, "tenant": "acme"},
            ],
            "login": {"client_id": CLIENT},
        }
    }
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


async def test_tokens_are_accepted_also_after_a_rotation_and_while_the_provider_is_down(
    guarded: Gateway, provider: Provider
) -> None:
    old = await provider.token()
    for ask in (over_http, over_grpc):
        assert (await ask(guarded, old))["x-pointsman-path"] == "small_talk"
    with pytest.raises(Unauthenticated):
        await over_http(guarded, jwt.encode(jwt.decode(old, options={"verify_signature": False}), "", "none"))

    await provider.stop()
    assert await over_http(guarded, old)  # the known signing key stays valid
    await provider.start("second")
    new = await provider.token()

    async def is_accepted() -> bool:  # the keys are read at most every ten seconds
        with suppress(Unauthenticated):
            return bool(await over_http(guarded, new))
        return False

    assert await found(is_accepted, within=30)
    with pytest.raises(Unauthenticated) as refused:
        await over_http(guarded, old)  # its key was withdrawn
    assert refused.value.code == "unknown_signing_key"


async def test_a_person_signs_in_to_the_console(guarded: Gateway, provider: Provider) -> None:
    verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
    async with open_http_client(guarded) as page:
        page.headers.update(OURS)
        endpoint, parameters = await authorization_request(page, verifier, nonce, REDIRECT)
        code = await _sign_in(endpoint, parameters)
        body = {"code": code, "verifier": verifier, "redirect_uri": REDIRECT, "nonce": nonce}
        response = await page.post(LOGIN, json=body)
        assert response.status_code == 200, response.text
        shown = {"authorization": f"Bearer {response.json()['token']}"}
        overview = (await page.get("/console/api/overview", headers=shown)).json()["overview"]
        assert (overview["caller"]["tenant"], overview["caller"]["admin"]) == ("acme", False)
        assert (await page.post(LOGIN, json=body)).json()["error"]["code"] == "login_failed"  # a code is used once


async def _sign_in(endpoint: str, parameters: dict[str, str]) -> str:
    """Signs in as a person with a browser would, consents, and returns the authorization code."""
    answers = {"login": {"prompt": "login", "login": "grace", "password": "x"}, "consent": {"prompt": "consent"}}
    async with httpx.AsyncClient() as browser:
        response = await browser.get(endpoint, params=parameters)
        while not response.headers.get("location", "").startswith(REDIRECT):
            if response.is_redirect:
                response = await browser.get(urljoin(str(response.url), response.headers["location"]))
                continue
            prompt = re.findall(r'name="prompt" value="(\w+)"', response.raise_for_status().text)[0]
            response = await browser.post(str(response.url), data=answers.pop(prompt))
    (code,) = parse_qs(urlsplit(response.headers["location"]).query)["code"]
    return code
