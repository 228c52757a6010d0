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
