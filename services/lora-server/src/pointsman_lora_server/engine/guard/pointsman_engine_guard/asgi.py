"""The ASGI middleware: which of vLLM's routes are public, and the lora-server's own routes for adapters."""

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .adapter_table import AdapterTable, InUse, MakeRequest, NoSlot, Refused, RequestUse, current_use, vllm_request

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECRET_VARIABLE = "POINTSMAN_ENGINE_SECRET"
SECRET_HEADER = b"x-pointsman-secret"
ADAPTERS_ROUTE = "/pointsman/v1/adapters"

PUBLIC_ROUTES = frozenset(
    (
        *("/health", "/ping", "/version", "/load", "/metrics", "/metrics/"),
        *("/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
        *("/v1/messages/count_tokens", "/v1/embeddings", "/tokenize", "/detokenize"),
    )
)
"""All other routes of vLLM answer 404, including those that a later vLLM adds: /v1/load_lora_adapter, /adapters,
/invocations, /sleep, /collective_rpc, /scale_elastic_ep, /abort_requests, /server_info, /openapi.json ..."""

_MAX_BODY_BYTES = 65536
"""Of the lora-server's requests, which contain a path."""


class Guard:
    """Counts every public request against the model that it uses, and serves the routes of the lora-server."""

    def __init__(self, app: App, make_request: MakeRequest = vllm_request) -> None:
        """Raises KeyError if the environment has no secret: better no engine than an open one."""
        self._app = app
        self._make_request = make_request
        self._secret = os.environ[SECRET_VARIABLE].encode()
        self._table: AdapterTable | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        """Called at the first request, since vLLM creates its middleware before the objects that the table needs."""
        self._table = AdapterTable(state.openai_serving_models, state.engine_client, self._make_request)
        return self._table

    async def _handle(self, table: AdapterTable, scope: Scope, path: str, receive: Receive) -> tuple[int, Any]:
        secret = next((value for name, value in scope["headers"] if name == SECRET_HEADER), b"")
        if not hmac.compare_digest(secret, self._secret) or not _is_from_this_machine(scope):
            return 403, _error("Forbidden", 403)
        name, _, action = path.removeprefix(ADAPTERS_ROUTE).removeprefix("/").partition("/")
        method = scope["method"]
        try:
            if path == ADAPTERS_ROUTE and method == "GET":
                return 200, table.report()
            if not path.startswith(f"{ADAPTERS_ROUTE}/") or not name:
                return 404, _error("Not Found", 404)
            if (method, action) == ("PUT", ""):
                await table.load(name, _folder_in(await _read_body(receive)))
                return 200, {}
            if (method, action) == ("POST", "close"):
                return 200, {"in_flight": table.close(name)}
            if (method, action) == ("DELETE", ""):
                await table.remove(name)
                return 200, {}
        except Refused as error:
            return 422, _error(str(error), 422)
        except NoSlot as error:
            return 409, _error(str(error), 409)
        except InUse as error:
            return 409, {"in_flight": error.in_flight}
        except Exception as error:  # raised by the engine, for example when it dies during the call
            return 503, _error(f"{type(error).__name__}: {error}", 503)
        return 404, _error("Not Found", 404)


def _route(scope: Scope) -> str:
    """The path as vLLM's router sees it, without the prefix of all its routes (--root-path)."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _is_from_this_machine(scope: Scope) -> bool:
    host = (scope.get("client") or ("",))[0]
    return host == "::1" or host.startswith(("127.", "::ffff:127.")) or host == (scope.get("server") or (None,))[0]


async def _read_body(receive: Receive) -> bytes:
    body: bytes = b""
    while len(body) <= _MAX_BODY_BYTES:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body
    raise Refused("the request is too long")


def _folder_in(body: bytes) -> str:
    try:
        folder = json.loads(body)["folder"]
    except (ValueError, TypeError, KeyError):
        raise Refused('the request is not {"folder": PATH}') from None
    if not isinstance(folder, str) or not os.path.isabs(folder):
        raise Refused("the folder must be an absolute path")
    return folder


def _error(message: str, code: int) -> dict[str, Any]:
    """An error body in vLLM's format."""
    return {"error": {"message": message, "type": "NotFoundError" if code == 404 else "PointsmanGuard", "code": code}}


async def _send_json(send: Send, status: int, body: Any) -> None:
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
