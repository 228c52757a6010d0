"""Single sign-on: verifies an issuer's JSON Web Tokens (RFC 7519), and maps their claims to tenant, scope and limits.

Rejecting a forged token costs a base64 decoding or the verification of one signature, and no call to Redis. Tokens with
unknown keys cause at most one read of the issuer's keys in `MIN_REFRESH_INTERVAL_SECONDS`.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jwt
from pointsman_servicekit.errors import InvalidArgument, PermissionDenied, PointsmanError, Unauthenticated
from pointsman_servicekit.keys.records import MAX_NAME_CHARACTERS, KeyRecord, TenantRecord, digest_of

from pointsman_gateway.config.access_file import CLAIM_REFERENCE, GrantConfig, SingleSignOnConfig
from pointsman_gateway.tenancy.issuer import Issuer
from pointsman_gateway.tenancy.login import LoginCode, LoginSession

_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""The accepted types of tokens, in lower case. Issuers sign other types for other purposes, such as logout tokens."""

_REFUSALS: Mapping[type[jwt.InvalidTokenError], tuple[str, str]] = {
    jwt.ExpiredSignatureError: ("expired_token", "the token has expired; get a new one"),
    jwt.ImmatureSignatureError: ("immature_token", "the token is not valid yet"),
    jwt.InvalidAudienceError: ("wrong_audience", "the token is for another audience"),
    jwt.InvalidIssuerError: ("wrong_issuer", "the token is of another issuer"),
    jwt.MissingRequiredClaimError: ("missing_claim", "the token lacks a claim"),
}

Claims = Mapping[str, Any]

MAX_UNIX_SECONDS = 2.0**53
"""Maximum of the times in a token; JSON libraries may read larger whole numbers inexactly."""


class SingleSignOn:
    """Verifies an issuer's tokens and logs users in; implements `TokenVerifier` and `Login`."""

    def __init__(
        self,
        config: SingleSignOnConfig,
        issuer: Issuer,
        client_secret: str = "",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.issuer = issuer
        self._client_secret = client_secret
        self._wall = wall

    async def verify(self, token: str) -> KeyRecord:
        """Returns the rights that a JSON Web Token gives its holder, as the record of an API key.

        Raises Unauthenticated if the token is invalid, PermissionDenied ("no_grant") if no grant in access.yaml matches
        its claims, PermissionDenied ("bad_tenant") if its claim for the tenant is invalid, and Unavailable
        ("issuer_unavailable") if the issuer's signing keys could not be read.
        """
        claims = await self._verified_claims(token, self.config.audiences)
        return self._to_record(claims, digest_of(token))

    async def login_request(self) -> Mapping[str, Any] | None:
        """Returns where and how to start a login: `endpoint`, the URL of the issuer's authorization endpoint, and
        its query `parameters`.

        Returns None if no login is configured, or the issuer is unavailable.
        """
        login = self.config.login
        endpoint = (await self.issuer.find_metadata()).get("authorization_endpoint") if login else None
        if login is None or not endpoint:
            return None
        parameters = {**login.parameters, "client_id": login.client_id, "scope": " ".join(login.scopes)}
        return {"endpoint": endpoint, "parameters": parameters}

    async def log_in(self, code: LoginCode) -> LoginSession:
        """Exchanges an issuer's authorization code for tokens, verifies the ID token and the session's token, and
        returns the session.

        Raises Unauthenticated ("login_failed") if no login is configured, the issuer rejects the code or the ID
        token is of another login. Also raises Unauthenticated for an invalid token, PermissionDenied if its claims
        grant no rights or have no valid tenant, and Unavailable if the issuer does not answer or too many logins are
        in progress.
        """
        login = self.config.login
        if login is None:
            raise Unauthenticated("this gateway has no login by single sign-on", code="login_failed")
        form = {
            "grant_type": "authorization_code",
            "code": code.code,
            "code_verifier": code.verifier,
            "redirect_uri": code.redirect_uri,
        }
        answer = await self.issuer.exchange(login, self._client_secret, form)
        identity = await self._verified_claims(str(answer.get("id_token", "")), [login.client_id])
        if identity.get("nonce") != code.nonce:
            raise Unauthenticated("the ID token belongs to another login; log in again", code="login_failed")
        token = str(answer.get(login.bearer, ""))
        record = await self.verify(token)
        assert record.expires is not None  # `exp` is required
        return LoginSession(token, record.expires)

    async def _verified_claims(self, token: str, audiences: Sequence[str]) -> Claims:
        key_id, algorithm = self._read_header(token)
        key = self.issuer.find_key_now(key_id, algorithm) or await self.issuer.find_key(key_id, algorithm)
        config = self.config
        try:
            claims: Claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=audiences,
                issuer=config.issuer,
                leeway=config.clock_skew_seconds,
                options={"require": ["exp", "iat", "iss", "aud"]},
            )
        except jwt.InvalidTokenError as error:
            raise _refusal(error) from error
        except (ValueError, RecursionError) as error:  # of json, for numbers that are too long and deep values
            raise _malformed() from error
        if not all(map(_is_time, (claims["exp"], claims["iat"]))):
            raise Unauthenticated("the token's times are no numbers of seconds since 1970", code="bad_token")
        if claims["exp"] - claims["iat"] > config.max_lifetime_seconds:
            raise Unauthenticated(
                f"the token is valid for longer than the {config.max_lifetime_seconds:g} seconds that are allowed",
                code="long_lived_token",
            )
        return claims

    def _read_header(self, token: str) -> tuple[str, str]:
        """Returns the key's id (which may be empty) and the algorithm in a token's header, before any verification.

        Raises Unauthenticated if the header is malformed, or the algorithm or the type of token is not accepted.
        """
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError) as error:
            raise _malformed() from error
        algorithm, key_id = header.get("alg"), header.get("kid", "")
        if algorithm not in self.config.algorithms:
            allowed = ", ".join(self.config.algorithms)
            raise Unauthenticated(f"the token must be signed with {allowed}", code="wrong_algorithm")
        if "crit" in header or str(header.get("typ", "jwt")).lower() not in _TYPES or not isinstance(key_id, str):
            raise _malformed()
        return key_id, str(algorithm)

    def _to_record(self, claims: Claims, digest: str) -> KeyRecord:
        config = self.config
        subject = _claim(claims, config.subject_claim)
        if not isinstance(subject, str) or not subject:
            raise Unauthenticated(f"the token has no claim '{config.subject_claim}'", code="missing_claim")
        grant = next((grant for grant in config.grants if _matches(grant, claims)), None)
        if grant is None:
            raise PermissionDenied("no grant in access.yaml matches the claims of this token", code="no_grant")
        tenant = _tenant_of(grant, claims)
        return KeyRecord(
            id=subject_id(config.issuer, subject, tenant),
            prefix="",
            digest=digest,
            tenant=tenant,
            name="".join(filter(str.isprintable, subject))[:MAX_NAME_CHARACTERS],
            scope=grant.scope.to_scope(),
            limits=grant.limits.to_limits(),
            priority=grant.priority,
            created=float(claims["iat"]),
            expires=float(claims["exp"]) + config.clock_skew_seconds,
            operator=grant.operator,
            admin=grant.admin,
        )


def subject_id(issuer: str, subject: str, tenant: str) -> str:
    """Returns the id under which the usage and limits of a single sign-on user are kept, in place of an API key's
    id: "sso-" and 16 hexadecimal digits.
    """
    return "sso-" + hashlib.sha256("\n".join((issuer, subject, tenant)).encode()).hexdigest()[:16]


def _is_time(claim: Any) -> bool:
    """Returns whether a claim is a number that can be a time in Unix seconds; PyJWT also accepts texts and numbers of
    any size.
    """
    return type(claim) in (int, float) and abs(claim) < MAX_UNIX_SECONDS


def _claim(claims: Claims, name: str) -> Any:
    """Returns the claim of this name; else, for a dotted name, the value in nested claims; None if there is none."""
    if name in claims or "." not in name:
        return claims.get(name)
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _matches(grant: GrantConfig, claims: Claims) -> bool:
    for name, wanted in grant.claims.items():
        value = _claim(claims, name)
        values = value if isinstance(value, list) else [value]
        if not any(one == value for one in ((wanted,) if isinstance(wanted, str) else wanted) for value in values):
            return False
    return True


def _tenant_of(grant: GrantConfig, claims: Claims) -> str:
    """Returns the grant's tenant: the name in the grant, or the value of the token's claim to which the grant refers.

    Raises PermissionDenied ("bad_tenant") if that claim is missing or is not a valid name of a tenant.
    """
    reference = CLAIM_REFERENCE.fullmatch(grant.tenant)
    if not reference:
        return grant.tenant
    value = _claim(claims, reference[1])
    try:
        return TenantRecord(value if isinstance(value, str) else "").name
    except InvalidArgument as error:
        raise PermissionDenied(
            f"the token's claim '{reference[1]}' names no tenant: {error.message}", code="bad_tenant"
        ) from error


def _refusal(error: jwt.InvalidTokenError) -> PointsmanError:
    for family, (code, message) in _REFUSALS.items():
        if isinstance(error, family):
            return Unauthenticated(message, code=code)
    return Unauthenticated("the signature or the claims of the token are not valid", code="bad_token")


def _malformed() -> Unauthenticated:
    return Unauthenticated("this is neither a key nor a JSON Web Token that is accepted here", code="bad_token")
