"""The interface by which the console logs users in at an OpenID Connect issuer. `tokens.SingleSignOn` implements
it; it needs optional libraries.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class LoginCode:
    """The data that the console's page sends to log in: the issuer's authorization code, and the PKCE verifier,
    redirect URI and nonce of the page's request to the issuer.
    """

    code: str
    verifier: str
    """The code verifier of RFC 7636, whose hash was in the page's request to the issuer."""
    redirect_uri: str
    nonce: str


@dataclass(frozen=True, slots=True)
class LoginSession:
    """The result of a login: the token that the console's page sends as its credential, and when it expires (Unix
    seconds).
    """

    token: str
    expires: float
    """The time at which the login expires, in Unix seconds."""


class Login(Protocol):
    """Interface of a login at an OpenID Connect issuer by authorization code."""

    async def login_request(self) -> Mapping[str, Any] | None:
        """Returns where and how to start a login: `endpoint`, the URL of the issuer's authorization endpoint, and
        its query `parameters`.

        Returns None if no login is configured, or the issuer is unavailable.
        """
        ...

    async def log_in(self, code: LoginCode) -> LoginSession:
        """Exchanges an issuer's authorization code for a session: a token for the console, and when it expires.

        Raises Unauthenticated if no login is configured, the issuer rejects the code or a token is invalid,
        PermissionDenied if the user gets no rights or no valid tenant, and Unavailable if the issuer does not answer
        or too many logins are in progress.
        """
        ...
