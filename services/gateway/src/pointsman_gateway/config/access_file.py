"""The schema of access.yaml: single sign-on, which accepts an issuer's JSON Web Tokens in addition to keys."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pointsman_servicekit.errors import InvalidArgument
from pointsman_servicekit.keys.records import KeyScope, Limits, TenantRecord
from pydantic import Field, field_validator, model_validator

from pointsman_gateway.config.field_types import Strict

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""The signature algorithms that tokens may use. All are asymmetric: the key that verifies a symmetric signature can
also create one.
"""

CLAIM_REFERENCE = re.compile(r"\{([^{}]+)\}")
"""Matches a `tenant` of the form "{CLAIM}", which stands for the value of the token's claim with this name."""

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

ClaimValues = str | tuple[str, ...]


def is_trusted_url(url: str) -> bool:
    """Returns whether the URL is https, or http with localhost, 127.0.0.1 or ::1 as its host."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    )


class SigningKeysConfig(Strict):
    refresh_seconds: float = Field(default=300, ge=10, description="interval at which the issuer's keys are read")
    valid_without_issuer_seconds: float = Field(
        default=86_400, ge=0, description="how long known keys stay valid while the issuer cannot be reached"
    )


class ScopeConfig(Strict):
    """What a user may use. An unset key (null) allows all names, an empty list none.

    An unset `embeddings` or `rerankers` allows all models only if every other key is unset, too.
    """

    tasks: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    adapters: tuple[str, ...] | None = None
    collections: tuple[str, ...] | None = None
    embeddings: tuple[str, ...] | None = None
    rerankers: tuple[str, ...] | None = None

    def to_scope(self) -> KeyScope:
        return KeyScope(**dict(self))


class LimitsConfig(Strict):
    """The limits of each user, which apply in addition to those of the tenant; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_streams: int | None = None
    dollars_per_day: float | None = None
    dollars_per_month: float | None = None

    def to_limits(self) -> Limits:
        return Limits(**dict(self))


class GrantConfig(Strict):
    """The tenant, scope, limits and rights of the users whose tokens have certain claims."""

    claims: dict[str, ClaimValues] = Field(
        default_factory=dict,
        description="values by claim: the claim must equal one of them, or be a list that contains one; a.b is the "
        "claim b within a; empty: every token matches",
    )
    tenant: str = Field(description="the tenant's name, or {CLAIM} for the value of a claim")
    scope: ScopeConfig = ScopeConfig()
    limits: LimitsConfig = LimitsConfig()
    priority: int = Field(default=0, ge=-100, le=100)
    operator: bool = Field(default=False, description="may move adapters in the console")
    admin: bool = Field(default=False, description="may use the admin API")

    @model_validator(mode="after")
    def _check_records(self) -> "GrantConfig":
        try:
            self.scope.to_scope(), self.limits.to_limits()
            if not CLAIM_REFERENCE.fullmatch(self.tenant):
                TenantRecord(self.tenant)
        except InvalidArgument as error:
            raise ValueError(error.message) from error
        return self


class LoginConfig(Strict):
    """Login to the console by authorization code with PKCE. Register HOST/console as the redirect URI."""

    client_id: str = Field(min_length=1)
    client_secret_env: str = Field(
        default="", description="the environment variable with the client's secret; empty: a public client"
    )
    scopes: tuple[str, ...] = ("openid",)
    parameters: dict[str, str] = Field(
        default_factory=dict, description="more parameters of the authorization request, such as audience or resource"
    )
    bearer: Literal["id_token", "access_token"] = Field(
        default="id_token",
        description="the token that the console sends; its audience must be in `audiences` (an ID token has client_id)",
    )

    @field_validator("scopes")
    @classmethod
    def _has_openid(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in value:
            raise ValueError("scopes must contain openid, because the login is verified with the ID token")
        return value


class SingleSignOnConfig(Strict):
    issuer: str = Field(description="the issuer's URL: the `iss` of tokens, and the base of OpenID Connect Discovery")
    audiences: tuple[str, ...] = Field(min_length=1, description="the `aud` of a token must contain one of these")
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256",), min_length=1)
    clock_skew_seconds: float = Field(default=30, ge=0, le=300)
    max_lifetime_seconds: float = Field(
        default=86_400, gt=0, description="tokens with a longer lifetime are rejected, because tokens cannot be revoked"
    )
    subject_claim: Annotated[str, Field(min_length=1, description="the claim that identifies the user")] = "sub"
    signing_keys: SigningKeysConfig = SigningKeysConfig()
    grants: tuple[GrantConfig, ...] = Field(min_length=1, description="the first grant whose claims match applies")
    login: LoginConfig | None = Field(default=None, description="unset: the console accepts only keys")

    @field_validator("issuer")
    @classmethod
    def _is_encrypted(cls, value: str) -> str:
        if not is_trusted_url(value):
            raise ValueError("write https://...; over http, anybody on the network could forge tokens")
        return value


class AccessFile(Strict):
    single_sign_on: SingleSignOnConfig | None = Field(default=None, description="unset: only keys are accepted")
