"""An OpenID Connect issuer whose keys a test rotates: metadata, keys, and login by authorization code with PKCE."""

import base64
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NoReturn
from urllib.parse import unquote

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.gateway.doubles.http_server import answer_without_end, serving

AUDIENCE, CLIENT, SECRET = "pointsman", "console", "s&cret %1"


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@dataclass
class FakeIssuer:
    url: str = ""
    keys: dict[str, ec.EllipticCurvePrivateKey] = field(
        default_factory=lambda: {"first": ec.generate_private_key(ec.SECP256R1())}
    )
    is_up: bool = True
    fault: str = ""
    """How the issuer misbehaves: "trickle", "flood" or "redirect" replaces every answer, "compress" compresses it."""
    reads: int = 0
    """How often the issuer's keys were read."""
    metadata_reads: int = 0
    subject: str = "ada"
    """The user who logs in."""
    claims: dict[str, Any] = field(default_factory=dict)
    """Additional claims in tokens."""
    required_secret: str = ""
    """The client secret that the issuer requires; empty: none."""
    nonce: str | None = None
    """The nonce in ID tokens; None: the nonce of the authorization request."""
    _codes: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def token(self, key: str = "first", signed_with: Any = None, headers: Any = (), **claims: Any) -> str:
        """Returns a token of "ada". A claim whose value is None is left out."""
        now = time.time()
        given = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 600, **self.claims, **claims}
        body = {name: value for name, value in given.items() if value is not None}
        more = {"kid": key, **dict(headers)}
        return jwt.encode(body, signed_with or self.keys[key], more.pop("alg", "ES256"), more)

    def rotate(self, old: str, new: str) -> None:
        del self.keys[old]
        self.keys[new] = ec.generate_private_key(ec.SECP256R1())

    def public_keys(self) -> list[dict[str, Any]]:
        found = [
            {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": name, "use": "sig"}
            for name, key in self.keys.items()
        ]
        return [*found, {**RSAAlgorithm.to_jwk(rsa_key().public_key(), as_dict=True), "kid": "rsa", "use": "sig"}]

    async def misbehave(self, request: web.Request) -> NoReturn:
        if self.fault == "redirect":
            raise web.HTTPTemporaryRedirect(f"{self.url}/keys")
        await answer_without_end(request, *((b" ", 0.02) if self.fault == "trickle" else (b" " * 65536,)))

    async def metadata(self, request: web.Request) -> web.Response:
        self.metadata_reads += 1
        if not self.is_up:
            raise web.HTTPServiceUnavailable
        endpoints = {"jwks_uri": "keys", "authorization_endpoint": "authorize", "token_endpoint": "token"}
        return web.json_response(
            {"issuer": self.url} | {name: f"{self.url}/{path}" for name, path in endpoints.items()}
        )

    async def read_keys(self, request: web.Request) -> web.Response:
        self.reads += 1
        return web.json_response({"keys": self.public_keys()})

    async def authorize(self, request: web.Request) -> web.Response:
        """Logs `subject` in without a password."""
        asked = request.query
        assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
        code = secrets.token_urlsafe(16)
        self._codes[code] = dict(asked)
        raise web.HTTPFound(f"{asked['redirect_uri']}?code={code}&state={asked['state']}")

    async def exchange(self, request: web.Request) -> web.Response:
        form = await request.post()
        if self.required_secret:
            shown = aiohttp.BasicAuth.decode(request.headers["authorization"])
            assert (unquote(shown.login), unquote(shown.password)) == (CLIENT, self.required_secret)
        asked = self._codes.pop(str(form["code"]), None)
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked is None or asked["code_challenge"] != challenge or asked["redirect_uri"] != form["redirect_uri"]:
            return web.json_response({"error": "invalid_grant"}, status=400)
        identity = {"sub": self.subject, "aud": CLIENT, "nonce": self.nonce or asked["nonce"]}
        return web.json_response({"id_token": self.token(**identity), "access_token": self.token(sub=self.subject)})


@asynccontextmanager
async def running_issuer() -> AsyncIterator[FakeIssuer]:
    issuer = FakeIssuer()

    @web.middleware
    async def handle(request: web.Request, handler: Any) -> web.StreamResponse:
        misbehaves = issuer.fault not in ("", "compress")
        answer: web.StreamResponse = await (issuer.misbehave if misbehaves else handler)(request)
        if issuer.fault == "compress":
            answer.enable_compression(web.ContentCoding.gzip)
        return answer

    app = web.Application(middlewares=[handle])
    app.router.add_get("/.well-known/openid-configuration", issuer.metadata)
    app.router.add_get("/keys", issuer.read_keys)
    app.router.add_get("/authorize", issuer.authorize)
    app.router.add_post("/token", issuer.exchange)
    async with serving(app, shutdown_timeout=0.1) as issuer.url:
        yield issuer
