"""Who asks, by the credential that either door was shown."""

from typing import Protocol

from pointsman_gateway.domain import Caller

CALLER = "pointsman.caller"
"""In the ASGI scope of a request whose key has been checked: the `Caller`. Requests of open routes have none."""


class Tenancy(Protocol):
    """Knows callers by their credentials."""

    def identify_now(self, credential: str) -> Caller | None:
        """By a copy that is at hand; None where `identify` is to be asked. Raises Unauthenticated."""
        ...

    async def identify(self, credential: str) -> Caller:
        """Raises Unauthenticated, Unavailable."""
        ...


async def caller_of(tenancy: Tenancy, authorization: str) -> Caller:
    """From an Authorization header ("Bearer KEY"), empty where there is none. Raises PointsmanError."""
    shown = shown_by(authorization)
    caller = tenancy.identify_now(shown)
    return await tenancy.identify(shown) if caller is None else caller


def shown_by(authorization: str) -> str:
    """The credential; empty where there is none."""
    scheme, _, credential = authorization.partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""
