"""The interface of the console's login at an OpenID Connect issuer; `tokens.py` implements it with optional
libraries.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class LoginCode:
    """The parameters with which the issuer redirects the browser back to the console's page (RFC 6749, RFC 7636)."""

    code: str
    verifier: str
    redirect_uri: str
    nonce: str


@dataclass(frozen=True, slots=True)
class LoginSession:
    """The result of a login: the token that the console's page uses as its credential."""

    token: str
    expires: float
    """Unix seconds."""


class Login(Protocol):
    """Login at an OpenID Connect issuer by authorization code."""

    async def login_request(self) -> Mapping[str, Any] | None:
        """Returns `endpoint` (the authorization endpoint's URL) and its `parameters`.

        None if no login is configured, or the issuer is unavailable.
        """
        ...

    async def log_in(self, code: LoginCode) -> LoginSession:
        """Exchanges an authorization code for a session; raises Unauthenticated, PermissionDenied or Unavailable."""
        ...
