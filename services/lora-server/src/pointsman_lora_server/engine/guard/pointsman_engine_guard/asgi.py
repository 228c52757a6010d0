"""The guard as ASGI sees it: which of vLLM's routes the world may use, and the lora-server's own."""

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .ledger import Full, InUse, Ledger, MakeRequest, Refused, vllm_request
from .uses import Use, current

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECRET = "POINTSMAN_ENGINE_SECRET"
HEADER = b"x-pointsman-secret"
ADAPTERS = "/pointsman/v1/adapters"

PUBLIC = frozenset(
    (
        *("/health", "/ping", "/version", "/load", "/metrics", "/metrics/"),
        *("/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
        *("/v1/messages/count_tokens", "/v1/embeddings", "/tokenize", "/detokenize"),
    )
)
"""All else of vLLM's is 404, and so is what a later vLLM adds: /v1/load_lora_adapter, /adapters, /invocations, /sleep,
/collective_rpc, /scale_elastic_ep, /abort_requests, /server_info, /openapi.json ..."""

_LONGEST_BODY = 65536  # bytes, of the lora-server's requests; theirs hold a path


class Guard:
    def __init__(self, app: App, make_request: MakeRequest = vllm_request) -> None:
        """Raises KeyError where the environment holds no secret: rather no engine than an open one."""
        self._app = app
        self._make_request = make_request
        self._secret = os.environ[SECRET].encode()
        self._ledger: Ledger | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ledger = self._ledger or self._open(scope["app"].state)
        path = _path_of(scope)
        if path in PUBLIC:
            use = Use()
            token = current.set(use)
            try:
                await self._app(scope, receive, send)
            finally:
                current.reset(token)
                use.leave()
        elif path.startswith("/pointsman/"):
            await _answer(send, *await self._admit(ledger, scope, path, receive))
        else:
            await _answer(send, 404, _error("Not Found", 404))

    def _open(self, state: Any) -> Ledger:
        """At the first request: vLLM builds its middleware before what it serves."""
        self._ledger = Ledger(state.openai_serving_models, state.engine_client, self._make_request)
        return self._ledger

    async def _admit(self, ledger: Ledger, scope: Scope, path: str, receive: Receive) -> tuple[int, Any]:
        told = next((value for name, value in scope["headers"] if name == HEADER), b"")
        if not hmac.compare_digest(told, self._secret) or not _is_from_this_machine(scope):
            return 403, _error("Forbidden", 403)
        name, _, action = path.removeprefix(ADAPTERS).removeprefix("/").partition("/")
        method = scope["method"]
        try:
            if path == ADAPTERS and method == "GET":
                return 200, ledger.report()
            if not path.startswith(f"{ADAPTERS}/") or not name:
                return 404, _error("Not Found", 404)
            if (method, action) == ("PUT", ""):
                await ledger.load(name, _folder_in(await _body(receive)))
                return 200, {}
            if (method, action) == ("POST", "close"):
                return 200, {"in_flight": ledger.close(name)}
            if (method, action) == ("DELETE", ""):
                await ledger.remove(name)
                return 200, {}
        except Refused as error:
            return 422, _error(str(error), 422)
        except Full as error:
            return 409, _error(str(error), 409)
        except InUse as error:
            return 409, {"in_flight": error.in_flight}
        except Exception as error:  # the engine's own, when it dies meanwhile
            return 503, _error(f"{type(error).__name__}: {error}", 503)
        return 404, _error("Not Found", 404)


def _path_of(scope: Scope) -> str:
    """As vLLM's router reads it: without what stands before all its routes (--root-path)."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _is_from_this_machine(scope: Scope) -> bool:
    host = (scope.get("client") or ("",))[0]
    return host == "::1" or host.startswith(("127.", "::ffff:127.")) or host == (scope.get("server") or (None,))[0]


async def _body(receive: Receive) -> bytes:
    body: bytes = b""
    while len(body) <= _LONGEST_BODY:
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
    """In vLLM's form."""
    return {"error": {"message": message, "type": "NotFoundError" if code == 404 else "PointsmanGuard", "code": code}}


async def _answer(send: Send, status: int, body: Any) -> None:
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
