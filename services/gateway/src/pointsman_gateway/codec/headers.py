"""Headers of requests and answers that have the same names in HTTP and in the metadata of gRPC calls."""

from collections.abc import Mapping
from functools import lru_cache

from pointsman_gateway.domain import Caller, Receipt, Started
from pointsman_gateway.ports import Tenancy

Headers = list[tuple[bytes, bytes]]

CACHE_OFF, CACHE_RENEW, CACHE_USE = "off", "renew", "use"

KEY_HEADERS = (b"api-key", b"x-api-key")
"""Headers, used by clients of Azure and Anthropic, that may hold the API key if a request has no header
`authorization`."""


async def identify_caller(tenancy: Tenancy, credential: str) -> Caller:
    """Returns the caller to whom an API key or token belongs; `credential` is empty if the request has neither.

    Raises Unauthenticated if the credential is missing or invalid, PermissionDenied if a valid token has no rights, and
    Unavailable if the credential cannot be checked now.
    """
    caller = tenancy.identify_now(credential)
    return await tenancy.identify(credential) if caller is None else caller


def credential_of(headers: Mapping[bytes, bytes]) -> str:
    """Returns the API key or token in a request's headers; empty if there is none. Names in `headers` are in lower
    case.

    The header `authorization` ("Bearer KEY") counts first; if it has another scheme, the result is empty. Without this
    header, the result is the value of the first header of `KEY_HEADERS` that the request has.
    """
    authorization = headers.get(b"authorization")
    if authorization is None:
        return next(filter(None, map(headers.get, KEY_HEADERS)), b"").decode("latin-1").strip()
    return bearer_token(authorization.decode("latin-1"))


def bearer_token(authorization: str) -> str:
    """Returns the token in an Authorization header's value; empty if its scheme is not Bearer."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def cache_mode(cache_control: bytes | None) -> str:
    """Returns how the answer cache is used for a request with this Cache-Control header (RFC 9111, section 5.2.1).

    For `no-store` the result is CACHE_OFF: the cache is neither read nor written. For `no-cache` and `max-age=0` it is
    CACHE_RENEW: the cache is only written. For any other value and for None it is CACHE_USE.
    """
    if not cache_control:
        return CACHE_USE
    directives = {directive.strip() for directive in cache_control.lower().split(b",")}
    if b"no-store" in directives:
        return CACHE_OFF
    return CACHE_RENEW if directives & {b"no-cache", b"max-age=0"} else CACHE_USE


def decision_headers(started: Started) -> Headers:
    """Returns the `x-pointsman-*` headers that tell a client which path answers its request, and why the router has
    chosen this path.
    """
    decision, path = started.decision, started.decision.path
    headers = [
        (b"x-pointsman-decision-id", decision.id.encode()),
        *_route_headers(decision.task, path.name, path.kind, decision.reason),
        (b"x-pointsman-confidence", b"%.4f" % decision.confidence),
        (b"x-pointsman-overhead-ms", b"%.2f" % (started.overhead_seconds * 1000)),
    ]
    if path.adapter:
        headers.append((b"x-pointsman-adapter", started.model.encode()))
    if started.cached:
        headers.append((b"x-pointsman-cache", started.cached.encode()))
    return headers


@lru_cache(maxsize=1024)
def _route_headers(task: str, path: str, kind: str, reason: str) -> Headers:
    """Returns the headers with the task, the path's name and kind, and the reason of the decision. Results are cached,
    since many requests have the same ones.
    """
    return [
        (b"x-pointsman-task", task.encode()),
        (b"x-pointsman-path", path.encode("latin-1")),
        (b"x-pointsman-kind", kind.encode()),
        (b"x-pointsman-reason", reason.encode("latin-1")),
    ]


def cost_headers(receipt: Receipt) -> Headers:
    """Returns the response header with the cost of an answer in dollars; no header if the cost is unknown."""
    cost = receipt.cost_usd
    return [] if cost is None else [(b"x-pointsman-cost-usd", b"%.9f" % cost)]
