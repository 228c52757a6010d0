"""The guard's ASGI middleware: limits vLLM to its public routes, and serves the routes by which the lora-server manages
adapters.
"""

import hmac
import json
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

from .adapter_files import OtherContent, ReceivedAdapters, check_content
from .adapter_table import (
    AdapterTable,
    InUse,
    MakeRequest,
    NoFolder,
    NoSlot,
    Refused,
    vllm_request,
)
from .request_use import RequestUse, current_use
from .versions import UnknownVersion, check_version, vllm_version

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECRET_VARIABLE = "POINTSMAN_ENGINE_SECRET"
SECRET_FILE_VARIABLE = "POINTSMAN_ENGINE_SECRET_FILE"
NETWORKS_VARIABLE = "POINTSMAN_ENGINE_ADMIN_NETWORKS"
"""The environment variable that lists the networks from which lora-servers may manage adapters, separated by commas
("10.0.0.0/8"). If it is empty, only clients on this machine may."""
MIN_SECRET_CHARACTERS = 16
SECRET_HEADER = b"x-pointsman-secret"
ADAPTERS_ROUTE = "/pointsman/v1/adapters"
FILES = "files/"

PUBLIC_ROUTES = frozenset(
    (
        *("/health", "/ping", "/version", "/load", "/metrics", "/metrics/"),
        *("/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
        *("/v1/messages/count_tokens", "/v1/embeddings", "/v1/rerank", "/v2/rerank"),
        *("/tokenize", "/detokenize"),
    )
)
"""The routes of vLLM that clients may use. All other routes of vLLM answer 404, including those that a later vLLM adds:
/v1/load_lora_adapter, /adapters, /invocations, /sleep, /collective_rpc, /scale_elastic_ep, /abort_requests,
/server_info, /openapi.json ..."""

_MAX_BODY_BYTES = 65536
"""The longest JSON body of a request from the lora-server; such a body contains a path."""


class Guard:
    """ASGI middleware of vLLM: counts the requests in progress to each model, and serves the routes that manage
    adapters (`ADAPTERS_ROUTE`).

    All routes except `PUBLIC_ROUTES` and `ADAPTERS_ROUTE` answer 404, and websockets are closed.
    """

    def __init__(
        self, app: App, make_request: MakeRequest = vllm_request, version: Callable[[], str] = vllm_version
    ) -> None:
        """Wraps vLLM's ASGI application `app`; reads the secret and the allowed networks from the environment.
        `version` returns vLLM's version.

        vLLM's server does not start if the secret is missing or too short (`MIN_SECRET_CHARACTERS`), a network is
        malformed, the secret's file cannot be read, or `check_version` raises, because no engine may run unprotected.
        The error is not raised here but at the server's startup. If it were raised here, uvicorn would assume that the
        application has no startup phase, and would serve.
        """
        self._app = app
        self._make_request = make_request
        self._refusal: Exception | None = None
        try:
            check_version(version(), os.environ)
            self._secret = _read_secret(os.environ).encode()
            self._networks = _read_networks(os.environ)
        except (ValueError, OSError, UnknownVersion) as error:
            self._refusal = error
        self._boot = secrets.token_hex(8)
        self._received = ReceivedAdapters(os.environ)
        self._table: AdapterTable | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request, or the server's startup. If vLLM must not start (see `__init__`), reports this at the
        startup, and raises the reason for every request.
        """
        if self._refusal is not None:
            if scope["type"] != "lifespan":
                raise self._refusal
            message = f"Error: the guard does not let vLLM start: {self._refusal}"
            await send({"type": "lifespan.startup.failed", "message": message})
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        table = self._table or self._create_table(scope["app"].state)
        path = _route(scope)
        if path in PUBLIC_ROUTES:
            use = RequestUse()
            token = current_use.set(use)
            try:
                await self._app(scope, receive, send)
            finally:
                current_use.reset(token)
                use.end_part()
        elif path.startswith("/pointsman/"):
            await _send_json(send, *await self._handle(table, scope, path, receive))
        else:
            await _send_json(send, 404, _error("Not Found", 404))

    def _create_table(self, state: Any) -> AdapterTable:
        """Creates the table of adapters at the first request, because vLLM creates its middleware before the objects
        that the table needs. Raises RuntimeError if this version of vLLM has objects of another form.
        """
        try:
            self._table = AdapterTable(state.openai_serving_models, state.engine_client, self._make_request)
        except AttributeError as error:
            raise RuntimeError(f"the guard does not fit this version of vLLM: {error}") from error
        return self._table

    async def _handle(self, table: AdapterTable, scope: Scope, path: str, receive: Receive) -> tuple[int, Any]:
        secret = next((value for name, value in scope["headers"] if name == SECRET_HEADER), b"")
        if not self._may_manage(scope):
            return 403, _error(f"requests from this address need {NETWORKS_VARIABLE} at the engine", 403)
        if not hmac.compare_digest(secret, self._secret):
            return 403, _error(f"the secret differs from the engine's {SECRET_VARIABLE}", 403)
        name, _, action = path.removeprefix(ADAPTERS_ROUTE).removeprefix("/").partition("/")
        method = scope["method"]
        try:
            if path == ADAPTERS_ROUTE and method == "GET":
                return 200, table.report() | {"boot": self._boot}
            if not path.startswith(f"{ADAPTERS_ROUTE}/") or not name:
                return 404, _error("Not Found", 404)
            if (method, action) == ("PUT", ""):
                await self._load(table, name, await _read_body(receive))
                return 200, {}
            if method == "PUT" and action.startswith(FILES):
                await self._received.receive(name, action.removeprefix(FILES), receive)
                return 200, {}
            if (method, action) == ("POST", "close"):
                return 200, {"in_flight": table.close(name)}
            if (method, action) == ("DELETE", ""):
                await table.remove(name)
                self._received.discard(name)
                return 200, {}
        except Refused as error:
            return 422, _error(str(error), 422)
        except NoFolder as error:
            return 424, _error(str(error), 424)
        except OtherContent as error:
            return 412, _error(str(error), 412)
        except NoSlot as error:
            return 409, _error(str(error), 409)
        except InUse as error:
            return 409, {"in_flight": error.in_flight}
        except Exception as error:  # raised by the engine, for example when it dies during the call
            return 503, _error(f"{type(error).__name__}: {error}", 503)
        return 404, _error("Not Found", 404)

    async def _load(self, table: AdapterTable, name: str, body: bytes) -> None:
        """Loads the adapter `name` from the folder that `body` names, or else from the files that the lora-server has
        sent. If `body` has a digest, the files are compared with it first. An adapter that is already loaded is only
        opened to new requests.

        Raises the errors of `AdapterTable.load`, `ReceivedAdapters.folder_of` and `check_content`.
        """
        named, sha256 = _order_in(body)
        if table.holds(name):
            await table.load(name, named or "")
            return
        folder = named or self._received.folder_of(name)
        if sha256:
            await check_content(folder, sha256)
        await table.load(name, folder)

    def _may_manage(self, scope: Scope) -> bool:
        """Returns whether the client is on this machine or in one of the networks of `NETWORKS_VARIABLE`."""
        host = (scope.get("client") or ("",))[0]
        if host == (scope.get("server") or (None,))[0]:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or any(address in network for network in self._networks)


def _read_secret(environment: Mapping[str, str]) -> str:
    file = environment.get(SECRET_FILE_VARIABLE)
    secret = Path(file).read_text("utf-8").strip() if file else environment.get(SECRET_VARIABLE, "")
    if len(secret) < MIN_SECRET_CHARACTERS:
        raise ValueError(
            f"{SECRET_FILE_VARIABLE if file else SECRET_VARIABLE} must hold at least {MIN_SECRET_CHARACTERS} "
            "characters, the same as the lora-server's POINTSMAN_LORA_ENGINE_SECRET"
        )
    return secret


def _read_networks(environment: Mapping[str, str]) -> "list[IPv4Network | IPv6Network]":
    written = environment.get(NETWORKS_VARIABLE, "").split(",")
    try:
        return [ip_network(network.strip()) for network in written if network.strip()]
    except ValueError as error:
        raise ValueError(f"{NETWORKS_VARIABLE}: {error}") from None


def _route(scope: Scope) -> str:
    """Returns the path as vLLM's router sees it, without the prefix of all its routes (--root-path)."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


async def _read_body(receive: Receive) -> bytes:
    body: bytes = b""
    while len(body) <= _MAX_BODY_BYTES:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body
    raise Refused("the request is too long")


def _order_in(body: bytes) -> "tuple[str | None, str]":
    """Parses the body of a request to load an adapter. Returns the folder (None if the adapter's files were sent), and
    the digest or its beginning, which may be empty.
    """
    try:
        order = json.loads(body)
        folder, sha256 = order["folder"], order.get("sha256", "")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Refused('the request is not {"folder": PATH or null, "sha256": DIGEST}') from None
    if folder is not None and not (isinstance(folder, str) and os.path.isabs(folder)):
        raise Refused("the folder must be an absolute path")
    if not isinstance(sha256, str) or (folder is None and not sha256):
        raise Refused("the digest must be a text, and an adapter that was sent needs one")
    return folder, sha256


def _error(message: str, code: int) -> dict[str, Any]:
    """Returns an error body in vLLM's format."""
    return {"error": {"message": message, "type": "NotFoundError" if code == 404 else "PointsmanGuard", "code": code}}


async def _send_json(send: Send, status: int, body: Any) -> None:
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
