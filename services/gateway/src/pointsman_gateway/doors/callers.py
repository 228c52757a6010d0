"""Who asks, by the credential that either door was shown."""

from typing import Protocol

from pointsman_gateway.domain import Caller


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
    scheme, _, credential = authorization.partition(" ")
    shown = credential.strip() if scheme.lower() == "bearer" else ""
    caller = tenancy.identify_now(shown)
    return await tenancy.identify(shown) if caller is None else caller
