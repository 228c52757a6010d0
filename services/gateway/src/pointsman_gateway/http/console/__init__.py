"""The console's page, and `/console/api`, the JSON API that it uses. The API may change with any version.

The page is served from the files of this package, with headers that forbid all other content. Only that page may call
the API from a browser. Pages of other sites cannot send the required header without a CORS preflight request, which is
never granted. If keys are off, the page's host must be local (localhost or an IP address) or configured, which prevents
DNS rebinding: a name of an attacker that resolves to this machine. If keys are on, the attacker lacks the key.
"""

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from fastapi import FastAPI, Query, Request
from pointsman_servicekit.errors import InvalidArgument, NotFound, PermissionDenied
from pydantic import Field, ValidationError
from starlette.responses import RedirectResponse, Response

from pointsman_gateway.console.stage import Console
from pointsman_gateway.domain import Caller
from pointsman_gateway.domain.path import AliasMove
from pointsman_gateway.http.asgi_app import LOGIN_PATH
from pointsman_gateway.http.dependencies import caller_of_request, dependencies_of
from pointsman_gateway.http.fields import StrictBody, invalid_field
from pointsman_gateway.tenancy.login import LoginCode

CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Allows scripts and styles from files of this gateway only; trusted types prevent that text becomes markup."""

HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # clients revalidate by etag
    "vary": "accept-encoding",
}

CONSOLE_HEADER = "x-pointsman-console"

MAX_LOGIN_BYTES = 8192
"""The size limit of a login's body; the limit matters because a login requires no credential."""

MAX_PAGE_SIZE = 200

PAGE_CURSOR = r"^\d{1,20}-\d{1,20}$|^$"
"""The id of an entry in the request log, or empty."""

Handler = Callable[..., Awaitable[Response]]

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the console's page, as it is served."""

    content: bytes
    compressed: bytes
    kind: str
    etag: str

    def answer(self, request: Request) -> Response:
        headers = {**HEADERS, "etag": self.etag}
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.compressed, headers={**headers, "content-encoding": "gzip"}, media_type=self.kind)
        return Response(self.content, headers=headers, media_type=self.kind)


class Assets:
    """The files of the console's page, by name."""

    def __init__(self) -> None:
        self._assets = {
            file.name: _asset(file.name, file.read_bytes())
            for file in files(__package__).joinpath("assets").iterdir()
            if file.name.rpartition(".")[2] in CONTENT_TYPES
        }

    def find(self, name: str) -> Asset:
        """Returns a file of the page; raises NotFound."""
        asset = self._assets.get(name)
        if asset is None:
            raise NotFound(f"the console has no file '{name[:100]}'", code="unknown_route")
        return asset


def _asset(name: str, content: bytes) -> Asset:
    etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
    return Asset(content, gzip.compress(content, mtime=0), CONTENT_TYPES[name.rpartition(".")[2]], etag)


async def page(request: Request) -> Response:
    assets: Assets = request.app.state.console_assets
    return assets.find("index.html").answer(request)


async def asset(name: str, request: Request) -> Response:
    assets: Assets = request.app.state.console_assets
    return assets.find(name).answer(request)


async def without_slash(request: Request) -> Response:
    return RedirectResponse("../console", status_code=308)


def check_site(request: Request, keys: bool, hosts: Sequence[str]) -> None:
    """Checks that the console's own page sends the request: raises PermissionDenied ("other_site", "unknown_host").

    Raises InvalidArgument if the content type is not JSON. `keys` says that keys are on; `hosts` are allowed in
    addition to localhost and IP addresses.
    """
    host = request.headers.get("host", "")
    if CONSOLE_HEADER not in request.headers or not _is_same_site(request.headers.get("origin"), host):
        raise PermissionDenied(
            f"only the console's own page speaks to this route: same origin, and the header {CONSOLE_HEADER}",
            code="other_site",
        )
    if not keys and not _is_local_or_allowed(host, hosts):
        raise PermissionDenied(
            f"keys are off, so the console is served to this machine's own names only, not to '{host[:100]}'; "
            "POINTSMAN_GATEWAY_CONSOLE_HOSTS names others",
            code="unknown_host",
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json":
        raise InvalidArgument("the body must be application/json", code="bad_content_type", param="content-type")


def _is_same_site(origin: str | None, host: str) -> bool:
    """Returns whether a page of this host sends the request, or no page of a browser."""
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # the origin is no URL
        return False


def _is_local_or_allowed(host: str, hosts: Sequence[str]) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:  # such as an address with one bracket
        return False
    if name == "localhost" or name.endswith(".localhost") or name in hosts:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class LoginBody(StrictBody):
    code: str = Field(min_length=1, max_length=4096)
    verifier: str = Field(pattern="^[A-Za-z0-9._~-]{43,128}$", description="RFC 7636")
    redirect_uri: str = Field(max_length=500)
    nonce: str = Field(min_length=16, max_length=128)


async def login_request(request: Request) -> Response:
    """Returns the issuer's authorization endpoint and its parameters; null without single sign-on."""
    check_site(request, True, ())
    login = dependencies_of(request).login()
    return json_answer(login and await login.login_request())


async def log_in(request: Request) -> Response:
    """Exchanges an authorization code for the token that the page then sends as its credential."""
    check_site(request, True, ())
    login = dependencies_of(request).login()
    if login is None:
        raise NotFound("this gateway has no single sign-on", code="unknown_route")
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > MAX_LOGIN_BYTES:
        raise InvalidArgument(f"content-length must be 1 to {MAX_LOGIN_BYTES}", code="body_too_large")
    try:
        body = LoginBody.model_validate_json(await request.body())
    except ValidationError as error:
        raise invalid_field(error.errors()[0]) from error
    session = await login.log_in(LoginCode(**body.model_dump()))
    return json_answer({"token": session.token, "expires": session.expires})


class _MoveBody(StrictBody):
    model: str = Field(min_length=1, description="the base model")
    alias: str = Field(min_length=1)
    expected_version: str = Field(default="", description="where it must point now; empty: wherever it points")


class AliasBody(_MoveBody):
    version: str = Field(min_length=1)
    force: bool = Field(default=False, description="even where the evaluation says that prompting is as good")

    def to_move(self, author: str) -> AliasMove:
        return AliasMove(self.alias, self.version, self.expected_version, author, force=self.force)


class CanaryBody(_MoveBody):
    version: str = Field(default="", description="empty with a weight of 0")
    weight: float = Field(ge=0, le=1, description="the share of users; 0 ends it")
    force: bool = Field(default=False, description="even where the evaluation says that prompting is as good")

    def to_move(self, author: str) -> AliasMove:
        return AliasMove(self.alias, self.version, self.expected_version, author, self.weight, self.force)


class RollbackBody(_MoveBody):
    reason: str = Field(default="", max_length=500, description="for the history")

    def to_move(self, author: str) -> AliasMove:
        return AliasMove(self.alias, "", self.expected_version, author, reason=self.reason)


async def overview(request: Request) -> Response:
    """Returns the current state of paths, tasks, engines and the configuration."""
    console, caller = _authorize(request)
    dependencies = dependencies_of(request)
    workers, status = await dependencies.states_of_workers(), dependencies.configuration.status
    return json_answer({"overview": await console.overview(caller), "configuration": status, "workers": workers})


async def decisions(
    request: Request,
    before: Annotated[str, Query(pattern=PAGE_CURSOR)] = "",
    count: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 50,
) -> Response:
    console, caller = _authorize(request)
    return json_answer(await console.decisions(caller, before, count))


async def decision(decision_id: str, request: Request) -> Response:
    console, caller = _authorize(request)
    return json_answer(await console.decision(caller, decision_id))


async def adapters(request: Request) -> Response:
    console, caller = _authorize(request)
    return json_answer({"models": await console.adapters(caller)})


async def set_alias(body: AliasBody, request: Request) -> Response:
    return await _move(request, "alias", body)


async def set_canary(body: CanaryBody, request: Request) -> Response:
    return await _move(request, "canary", body)


async def roll_back(body: RollbackBody, request: Request) -> Response:
    return await _move(request, "rollback", body)


async def _move(request: Request, step: str, body: AliasBody | CanaryBody | RollbackBody) -> Response:
    console, caller = _authorize(request)
    return json_answer(await console.move(caller, body.model, step, body.to_move(_author(caller))))


def _author(caller: Caller) -> str:
    return f"console, {caller.key}" if caller.key else "console"


def _authorize(request: Request) -> tuple[Console, Caller]:
    """Returns the console and the caller. Raises PointsmanError if the page of another site sends the request."""
    console = dependencies_of(request).console
    assert console is not None  # otherwise its routes are not registered
    check_site(request, console.keys, console.hosts)
    return console, caller_of_request(request)


def json_answer(content: Any, status: int = 200) -> Response:
    """Returns a JSON response that must not be cached."""
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(_encode(content), status, headers, media_type="application/json")


def add_console(app: FastAPI) -> None:
    """Adds the console's routes, which are not in /openapi.json: docs/console.md describes them."""
    app.state.console_assets = Assets()
    gets: dict[str, Handler] = {
        "/console": page,
        "/console/": without_slash,
        LOGIN_PATH: login_request,
        "/console/api/overview": overview,
        "/console/api/decisions": decisions,
        "/console/api/decisions/{decision_id}": decision,
        "/console/api/adapters": adapters,
        "/console/{name}": asset,
    }
    posts: dict[str, Handler] = {
        LOGIN_PATH: log_in,
        "/console/api/adapters/alias": set_alias,
        "/console/api/adapters/canary": set_canary,
        "/console/api/adapters/rollback": roll_back,
    }
    for path, handler in gets.items():
        app.get(path, include_in_schema=False)(handler)
    for path, handler in posts.items():
        app.post(path, include_in_schema=False)(handler)
