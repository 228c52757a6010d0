"""Who asks, by the credential that HTTP or gRPC carries."""

from pointsman_gateway.domain import Caller
from pointsman_gateway.pipeline.ports import Tenancy

CALLER = "pointsman.caller"
"""In the ASGI scope of a request whose key has been checked: the `Caller`. Requests of open routes have none."""


async def caller_of(tenancy: Tenancy, authorization: str) -> Caller:
    """From an Authorization header ("Bearer KEY"), empty if there is none. Raises PointsmanError."""
    credential = credential_of(authorization)
    caller = tenancy.identify_now(credential)
    return await tenancy.identify(credential) if caller is None else caller


def credential_of(authorization: str) -> str:
    """Empty if there is none."""
    scheme, _, credential = authorization.partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""


OFF, RENEW, USE = "off", "renew", "use"


def wish_of(cache_control: bytes | None) -> str:
    """From the request's `cache-control` (RFC 9111, 5.2.1), over either door.

    `no-store`: neither look nor keep. `no-cache`, or `max-age=0`: an earlier answer is not wanted, the new one is kept.
    """
    if not cache_control:
        return USE
    directives = {directive.strip() for directive in cache_control.lower().split(b",")}
    if b"no-store" in directives:
        return OFF
    return RENEW if directives & {b"no-cache", b"max-age=0"} else USE
