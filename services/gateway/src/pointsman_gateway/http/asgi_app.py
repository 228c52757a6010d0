"""The ASGI application around FastAPI: sets the request id, checks the API key before the body is read, and limits the
body's size.

Paths of Azure's API are replaced by the paths of OpenAI's. Frequent endpoints, whose dialects have a `DirectReading`,
bypass FastAPI. CORS and tracing are further applications around this one.
"""

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from pointsman_servicekit.buffer_budget import BufferedBytesBudget, BufferReservation
from pointsman_servicekit.errors import InvalidArgument, PointsmanError
from pointsman_servicekit.logs import request_id
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pointsman_gateway.codec.headers import Headers, credential_of, identify_caller
from pointsman_gateway.codec.limits import LIMITS, TOKEN_ID_LIMITS, BodyLimits, check_body
from pointsman_gateway.domain import Caller
from pointsman_gateway.http.asgi_answer import CALLER, ClientDisconnected, send_error
from pointsman_gateway.http.dialects.registry import DIALECTS, dialect_of
from pointsman_gateway.ports import Tenancy

LOGIN_PATH = "/console/api/login"
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", LOGIN_PATH})
"""Paths that need no key, in addition to the console's static files."""

TOKEN_ID_PATHS = frozenset({"/v1/embeddings", *(one.path for one in DIALECTS if one.takes_token_ids)})
"""Paths whose bodies may hold token ids instead of text."""

AZURE_PREFIX = "/openai/"
DEPLOYMENT = "pointsman.deployment"
"""Key in the ASGI scope for the name of the deployment in the request's path, which is the request's model."""
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_DEPLOYMENT_PATH = re.compile(r"/openai/deployments/([^/].*?)(/(?:chat/completions|completions|embeddings|responses))")

Route = Callable[["RawRequest"], Awaitable[None]]

OnRejected = Callable[[Scope, PointsmanError], None]
"""Called with the ASGI scope and the error of each request that is rejected before it reaches FastAPI."""


def needs_key(path: str) -> bool:
    is_console_file = path == "/console" or (path.startswith("/console/") and not path.startswith("/console/api/"))
    return path not in OPEN_PATHS and not is_console_file


def translate_azure_path(scope: Scope) -> None:
    """Replaces a path of Azure's API in `scope` by the path of OpenAI's API, so /openai/X becomes /v1/X.

    The path must begin with `AZURE_PREFIX`. In a known path /openai/deployments/NAME/X, the NAME is stored in the scope
    under `DEPLOYMENT`; an unknown path below /openai/deployments/ is not changed. Modifies the scope itself, not a
    copy, because the server reads the callback under `ON_DISCONNECT` from it.
    """
    path: str = scope["path"]
    deployment = _DEPLOYMENT_PATH.fullmatch(path)
    if deployment:
        scope[DEPLOYMENT], path = deployment[1], "/v1" + deployment[2]
    elif not path.startswith("/openai/deployments/"):
        path = "/v1/" + path.removeprefix(AZURE_PREFIX).removeprefix("v1/")
    scope["path"], scope["raw_path"] = path, path.encode()


def name_model(body: bytes, scope: Scope) -> bytes:
    """Returns the JSON body with its `model` set to the deployment in the request's path (`DEPLOYMENT` in `scope`).

    Without a deployment, returns the body unchanged. Raises InvalidArgument if there is a deployment and the body is
    not a JSON object.
    """
    deployment = scope.get(DEPLOYMENT)
    if deployment is None:
        return body
    try:
        fields = _decode_fields(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"the body is not a JSON object: {error}", code="bad_json") from error
    return msgspec.json.encode({**fields, "model": deployment})


class RawRequest:
    """One HTTP request that is handled without FastAPI."""

    __slots__ = ("_reservation", "arrived", "headers", "receive", "response_headers", "scope", "send")

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Mapping[bytes, bytes],
        id: str,
        reservation: BufferReservation,
    ) -> None:
        self.arrived = time.perf_counter()
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers = headers
        self.response_headers = dialect_of(scope).error_format.id_headers(id.encode())
        self._reservation = reservation

    async def read_body(self, caller: Caller) -> bytes:
        """Reads and returns the whole body; for a path of Azure's API, its `model` is set to the deployment in the
        path.

        Raises InvalidArgument if the body exceeds a limit or is not valid, Unavailable if too many bytes of requests
        are in memory, and ClientDisconnected if the client disconnects first.
        """
        body = await read_body(self.receive, self.headers, caller.tenant, self._reservation)
        return name_model(body, self.scope)


async def read_body(
    receive: Receive,
    headers: Mapping[bytes, bytes],
    tenant: str,
    reservation: BufferReservation,
    limits: BodyLimits = LIMITS,
) -> bytes:
    """Reads the whole body, and reserves its bytes for `tenant` as they arrive; the caller releases `reservation`.

    `headers` are the request's headers, by lower-case name. Raises InvalidArgument if the body exceeds one of the
    `limits` or is not UTF-8, Unavailable if too many bytes of requests are buffered, and ClientDisconnected if the
    client disconnects before the end of the body.
    """
    if int(headers.get(b"content-length", b"0")) > limits.max_bytes:
        raise _too_large()
    parts: list[bytes] = []
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        part, more = message.get("body", b""), message.get("more_body", False)
        parts.append(part)
        length += len(part)
        if length > limits.max_bytes:
            raise _too_large()
        reservation.grow(tenant, len(part))
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    check_body(body, limits)
    return body


class GatewayApp:
    """The ASGI application around FastAPI: sets request ids, checks keys, limits bodies, translates Azure's paths."""

    def __init__(
        self,
        app: ASGIApp,
        tenancy: Tenancy,
        budget: BufferedBytesBudget,
        asgi_routes: Mapping[tuple[str, str], Route],
        on_rejected: OnRejected,
    ) -> None:
        """Wraps `app`, for which it checks keys by `tenancy` and counts the bytes of bodies in `budget`.

        `asgi_routes` are handlers by method and path ("POST", "/v1/messages"); they bypass `app`, and check keys
        themselves. `on_rejected` is called with each request that is rejected here.
        """
        self._app = app
        self._tenancy = tenancy
        self._budget = budget
        self._asgi_routes = asgi_routes
        self._on_rejected = on_rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        id = request_id_from(headers.get(b"x-request-id"))
        reservation = BufferReservation(self._budget)
        token = request_id.set(id)
        try:
            route = self._asgi_routes.get((scope["method"], scope["path"]))
            if route is None and scope["path"].startswith(AZURE_PREFIX):
                translate_azure_path(scope)
                route = self._asgi_routes.get((scope["method"], scope["path"]))
            if route is not None:
                await route(RawRequest(scope, receive, send, headers, id, reservation))
            else:
                await self._pass_to_fastapi(
                    scope,
                    receive,
                    _SendWithId(send, dialect_of(scope).error_format.id_headers(id.encode())),
                    headers,
                    reservation,
                )
        finally:
            request_id.reset(token)
            reservation.release()

    async def _pass_to_fastapi(
        self,
        scope: Scope,
        receive: Receive,
        send: "_SendWithId",
        headers: Mapping[bytes, bytes],
        reservation: BufferReservation,
    ) -> None:
        tenant = ""
        try:
            if needs_key(scope["path"]):
                scope[CALLER] = caller = await identify_caller(self._tenancy, credential_of(headers))
                tenant = caller.tenant
            await self._app(scope, _ReceiveWhole(scope, receive, headers, tenant, reservation), send)
        except Exception as error:
            if send.has_ended:
                return  # Starlette raises an error again after it has sent the response to it
            if send.has_started or not isinstance(error, PointsmanError):
                raise
            self._on_rejected(scope, error)
            await send_error(send, error, [], dialect_of(scope).error_format)


def request_id_from(header: bytes | None) -> str:
    """Returns the client's x-request-id, cut to 64 characters, if it is printable ASCII; otherwise a new id."""
    if header:
        id = header[:64].decode("latin-1")
        if id.isascii() and id.isprintable():
            return id
    return secrets.token_hex(8)


class _ReceiveWhole:
    """An ASGI `receive` that returns the whole body in one message, with its model set by `name_model`.

    Raises InvalidArgument or Unavailable, as `read_body` and `name_model` do. Returns a disconnect message if the
    client disconnects.
    """

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        headers: Mapping[bytes, bytes],
        tenant: str,
        reservation: BufferReservation,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._headers = headers
        self._tenant = tenant
        self._reservation = reservation
        self._has_read = False

    async def __call__(self) -> Message:
        if self._has_read:
            return await self._receive()
        try:
            limits = TOKEN_ID_LIMITS if self._scope["path"] in TOKEN_ID_PATHS else LIMITS
            body = await read_body(self._receive, self._headers, self._tenant, self._reservation, limits)
        except ClientDisconnected:
            return {"type": "http.disconnect"}
        finally:
            self._has_read = True
        return {"type": "http.request", "body": name_model(body, self._scope), "more_body": False}


class _SendWithId:
    """Adds the request id to the response, and records whether the response has started and ended."""

    def __init__(self, send: Send, id_headers: Headers) -> None:
        self._send = send
        self._id_headers = id_headers
        self.has_started = self.has_ended = False

    async def __call__(self, message: Any) -> None:
        self.has_ended = message["type"] == "http.response.body" and not message.get("more_body")
        if message["type"] == "http.response.start":
            self.has_started = True
            message["headers"] = [*message["headers"], *self._id_headers]
        await self._send(message)


def _too_large() -> InvalidArgument:
    return InvalidArgument(f"the body is over {LIMITS.max_bytes} bytes", code="body_too_large")
