"""Single sign-on: tokens of the issuer are accepted in addition to keys, and no other tokens are."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.api_jws import PyJWS
from pointsman_gateway.config.access_file import SingleSignOnConfig
from pointsman_gateway.domain import Scope, Usage
from pointsman_gateway.domain.request import Caller
from pointsman_gateway.tenancy.issuer import MAX_WAITING, MIN_REFRESH_INTERVAL_SECONDS, to_signing_keys
from pointsman_gateway.tenancy.login import LoginCode
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.errors import PermissionDenied, PointsmanError, Unauthenticated, Unavailable
from pointsman_servicekit.keys.administration import Administration
from pointsman_servicekit.keys.records import Limits

from tests.gateway.doubles.issuer import AUDIENCE, CLIENT, FakeIssuer, rsa_key, running_issuer
from tests.gateway.doubles.tenancy import Counter, Times, counter_at, issue, register_at
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found, until


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with running_issuer() as issuer:
        yield issuer


def config(issuer: FakeIssuer, **more: Any) -> SingleSignOnConfig:
    given = {
        "issuer": issuer.url,
        "audiences": [AUDIENCE],
        "algorithms": ["ES256"],
        "grants": [{"tenant": "acme"}],
        "signing_keys": {"refresh_seconds": 300, "valid_without_issuer_seconds": 3600},
    }
    return SingleSignOnConfig.model_validate(given | more)


@asynccontextmanager
async def signing_on(
    valkey: Valkey, issuer: FakeIssuer, times: Times | None = None, **more: Any
) -> AsyncIterator[Counter]:
    async with counter_at(valkey.url, times) as counter:
        counter.tenancy.use_single_sign_on(config(issuer, **more))
        yield counter


async def refused(counter: Counter, token: str) -> str:
    """Returns the code of the error for a refused token; the error must not contain the token."""
    with pytest.raises(PointsmanError) as raised:
        await counter.tenancy.identify(token)
    assert isinstance(raised.value, Unauthenticated | PermissionDenied | Unavailable)
    assert token not in raised.value.message
    return raised.value.code


def b64(data: Any) -> str:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


async def test_claims_determine_tenant_scope_limits_and_rights(valkey: Valkey, issuer: FakeIssuer) -> None:
    grants = [
        {"claims": {"realm_access.roles": "ops"}, "tenant": "ops", "admin": True, "operator": True, "priority": 9},
        {
            "claims": {"groups": ["support", "sales"], "https://acme.example/org": "acme"},
            "tenant": "{team.id}",
            "scope": {"tasks": ["triage"]},
            "limits": {"requests_per_minute": 2},
        },
    ]
    async with signing_on(valkey, issuer, grants=grants) as counter:
        admin = await counter.tenancy.identify(issuer.token(realm_access={"roles": ["x", "ops"]}))
        assert (admin.tenant, admin.is_admin, admin.is_operator, admin.priority) == ("ops", True, True, 9)
        mine: dict[str, Any] = {"https://acme.example/org": "acme", "groups": ["sales"], "team": {"id": "north"}}
        token = issuer.token(**mine)
        caller = await counter.tenancy.identify(token)
        assert (caller.tenant, caller.scope, caller.is_admin) == ("north", Scope(tasks=frozenset({"triage"})), False)
        assert counter.tenancy.identify_now(token) is caller  # from then on without a verification
        again = await counter.tenancy.identify(issuer.token(jti="another", **mine))
        assert again.key == caller.key != admin.key
        assert [bool(await counter.let_in(one)) for one in (caller, again, caller)] == [True, True, False]
        assert await refused(counter, issuer.token(groups=["guests"])) == "no_grant"
        assert await refused(counter, issuer.token(**mine | {"team": {"id": "No Name"}})) == "bad_tenant"
        assert await refused(counter, issuer.token(**mine | {"team": "north"})) == "bad_tenant"


async def test_a_tenants_limits_apply_to_its_users_and_change_at_once(valkey: Valkey, issuer: FakeIssuer) -> None:
    await issue(valkey.url, tenant_limits=Limits(requests_per_minute=1))
    async with signing_on(valkey, issuer) as counter, register_at(valkey.url) as register:
        token = issuer.token()
        caller = await counter.tenancy.identify(token)
        assert [bool(await counter.let_in(caller)) for _ in range(2)] == [True, False]
        await register.limit_tenant("acme", lambda _: Limits(requests_per_minute=50))
        await until(lambda: _limit_of(counter.tenancy.identify_now(token)) == 50)
        assert await found(lambda: counter.let_in(caller))  # a refusal is cached for a tenth of a second


def _limit_of(caller: Caller | None) -> int:
    return caller.usage.limits.requests[0].maximum if caller else 0  # type: ignore[attr-defined]  # a VerifiedCaller


def sign(issuer: FakeIssuer, claims: bytes) -> str:
    return PyJWS().encode(claims, issuer.keys["first"], "ES256", {"kid": "first", "typ": "JWT"})


def _forgeries(issuer: FakeIssuer) -> dict[str, tuple[str, str]]:
    """Returns forged tokens by name, each with the code of the expected error."""
    now, other = time.time(), ec.generate_private_key(ec.SECP256R1())
    good = issuer.token()
    head, body, signature = good.split(".")
    public = issuer.keys["first"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(good, options={"verify_signature": False})
    by_secret = f"{b64({'alg': 'HS256', 'typ': 'JWT', 'kid': 'first'})}.{body}"
    unsigned = {"alg": "none", "typ": "JWT", "kid": "first"}
    tampered = b64({**claims, "sub": "root"})
    confused = f"{by_secret}.{b64(hmac.digest(public, by_secret.encode(), 'sha256'))}"
    return {
        "unsigned": (f"{b64(unsigned)}.{body}.", "wrong_algorithm"),
        "None": (f"{b64(unsigned | {'alg': 'None'})}.{body}.{signature}", "wrong_algorithm"),
        "public key as HMAC secret": (confused, "wrong_algorithm"),
        "algorithm that is not pinned": (
            issuer.token("rsa", rsa_key(), {"alg": "RS256"}),
            "wrong_algorithm",
        ),
        "another key": (issuer.token(signed_with=other), "bad_token"),
        "tampered claims": (f"{head}.{tampered}.{signature}", "bad_token"),
        "no signature": (f"{head}.{body}.", "bad_token"),
        "unknown key": (issuer.token("evil", other), "unknown_signing_key"),
        "key in the header": (
            issuer.token("evil", other, {"jwk": {"kty": "EC"}, "jku": "http://127.0.0.1:1/keys"}),
            "unknown_signing_key",
        ),
        "expired": (issuer.token(iat=now - 900, exp=now - 60), "expired_token"),
        "not valid yet": (issuer.token(nbf=now + 120), "immature_token"),
        "issued in the future": (issuer.token(iat=now + 120, exp=now + 600), "immature_token"),
        "another audience": (issuer.token(aud="elsewhere"), "wrong_audience"),
        "no audience": (issuer.token(aud=None), "missing_claim"),
        "another issuer": (issuer.token(iss="https://evil.example"), "wrong_issuer"),
        "no expiry": (issuer.token(exp=None), "missing_claim"),
        "for ever": (issuer.token(exp=now + 10**8), "long_lived_token"),
        "an expiry in a text": (issuer.token(exp=str(int(now) + 60)), "bad_token"),
        "an expiry without end": (issuer.token(exp=1e400), "bad_token"),
        "an expiry of 100 bits": (issuer.token(exp=2**100), "bad_token"),
        "an expiry of 2,000 bits": (issuer.token(exp=2**2000), "bad_token"),
        "a time of issue in a text": (issuer.token(iat=str(int(now))), "bad_token"),
        "a time of issue of 2,000 bits": (issuer.token(iat=-(2**2000)), "bad_token"),
        "true as a time": (issuer.token(iat=True), "bad_token"),
        "deep claims": (sign(issuer, b'{"exp":' + b"[" * 2_000 + b"]" * 2_000 + b"}"), "bad_token"),
        "a time of 5,000 digits": (sign(issuer, b'{"exp":' + b"9" * 5_000 + b"}"), "bad_token"),
        "no subject": (issuer.token(sub=None), "missing_claim"),
        "a logout token": (issuer.token(headers={"typ": "logout+jwt"}), "bad_token"),
        "a critical extension": (issuer.token(headers={"crit": ["exp"]}), "bad_token"),
        "a number as key id": (f"{b64({'alg': 'ES256', 'kid': 5})}.{body}.{signature}", "bad_token"),
        "no JSON": (".".join((b64(b'{"not json'), body, signature)), "bad_token"),
        "two parts": (f"{head}.{body}", "bad_token"),
        "not ASCII": (good + "ä", "bad_token"),
        "deep": (".".join((b64(b'{"a":' + b"[" * 5000), body, signature)), "bad_token"),
        "too long": (good + "A" * 9000, "unknown_key"),
    }


async def test_forged_expired_and_foreign_tokens_are_refused(valkey: Valkey, issuer: FakeIssuer) -> None:
    async with signing_on(valkey, issuer) as counter:
        good = issuer.token(exp=time.time() - 5)  # within the clock skew
        assert (await counter.tenancy.identify(good)).tenant == "acme"
        for name, (token, code) in _forgeries(issuer).items():
            assert counter.tenancy.identify_now(token) is None, name
            assert await refused(counter, token) == code, name


async def test_unknown_keys_cause_one_read_of_the_issuers_keys_in_ten_seconds(
    valkey: Valkey, issuer: FakeIssuer
) -> None:
    times, other = Times(), ec.generate_private_key(ec.SECP256R1())
    async with signing_on(valkey, issuer, times) as counter:
        await counter.tenancy.identify(issuer.token())
        before = issuer.reads
        times.pass_by(MIN_REFRESH_INTERVAL_SECONDS + 1)
        forged = [issuer.token(f"evil-{number}", other) for number in range(300)]
        codes = await asyncio.gather(*(refused(counter, token) for token in forged))
        assert set(codes) == {"unknown_signing_key"}
        assert issuer.reads == before + 1
        assert counter.metric("pointsman_key_lookups_total", outcome="refused") == 300


async def test_a_forged_token_costs_no_call_and_a_millisecond(valkey: Valkey, issuer: FakeIssuer) -> None:
    async with signing_on(valkey, issuer) as counter:
        await counter.tenancy.identify(issuer.token())
        valkey.kill()
        issuer.is_up = False
        reads, costs = issuer.reads, []
        forged = [issuer.token(signed_with=ec.generate_private_key(ec.SECP256R1())) for _ in range(20)]
        for token in forged:
            began = time.process_time()
            assert await refused(counter, token) == "bad_token"
            costs.append(time.process_time() - began)
        assert min(costs) < 0.001
        assert issuer.reads == reads


async def test_rotated_keys_are_found_and_removed_ones_end_their_tokens(valkey: Valkey, issuer: FakeIssuer) -> None:
    times = Times()
    async with signing_on(valkey, issuer, times) as counter:
        old = issuer.token(exp=time.time() + 7200)
        await counter.tenancy.identify(old)
        issuer.rotate("first", "second")
        assert counter.tenancy.identify_now(old)  # replayed before the gateway can know
        times.pass_by(MIN_REFRESH_INTERVAL_SECONDS + 1)
        assert (await counter.tenancy.identify(issuer.token("second"))).tenant == "acme"
        assert counter.tenancy.identify_now(old) is None
        assert await refused(counter, old) == "unknown_signing_key"


async def test_a_removed_key_is_noticed_without_a_new_token(valkey: Valkey, issuer: FakeIssuer) -> None:
    times = Times()
    async with signing_on(valkey, issuer, times) as counter:
        old = issuer.token(exp=time.time() + 7200)
        await counter.tenancy.identify(old)
        issuer.rotate("first", "second")
        times.pass_by(301)
        await until(lambda: counter.tenancy.identify_now(old) is None)


async def test_known_keys_stay_valid_for_a_time_while_the_issuer_is_down(valkey: Valkey, issuer: FakeIssuer) -> None:
    times = Times()
    async with signing_on(valkey, issuer, times) as counter:
        await counter.tenancy.identify(issuer.token())
        issuer.is_up = False
        times.pass_by(3000)
        token = issuer.token(sub="grace", exp=time.time() + 7200)
        assert (await counter.tenancy.identify(token)).tenant == "acme"
        times.pass_by(1000)
        await until(lambda: counter.tenancy.identify_now(token) is None)
        assert await refused(counter, token) == "issuer_unavailable"
        issuer.is_up = True
        times.pass_by(MIN_REFRESH_INTERVAL_SECONDS + 1)
        assert (await counter.tenancy.identify(token)).tenant == "acme"


async def test_a_token_that_expires_is_refused_when_it_is_sent_again(valkey: Valkey, issuer: FakeIssuer) -> None:
    async with signing_on(valkey, issuer, clock_skew_seconds=0) as counter:
        token = issuer.token(exp=time.time() + 3)
        await counter.tenancy.identify(token)
        await until(lambda: counter.tenancy.identify_now(token) is None, within=10)
        assert await refused(counter, token) == "expired_token"


async def test_other_settings_apply_to_tokens_that_were_verified_before(valkey: Valkey, issuer: FakeIssuer) -> None:
    async with signing_on(valkey, issuer) as counter:
        token = issuer.token()
        assert (await counter.tenancy.identify(token)).tenant == "acme"
        counter.tenancy.use_single_sign_on(config(issuer, grants=[{"tenant": "other"}]))
        assert counter.tenancy.identify_now(token) is None
        assert (await counter.tenancy.identify(token)).tenant == "other"
        counter.tenancy.use_single_sign_on(None)
        assert await refused(counter, token) == "unknown_key"


async def test_settings_that_change_while_a_token_is_looked_up_apply_to_it(valkey: Valkey, issuer: FakeIssuer) -> None:
    async with signing_on(valkey, issuer) as counter:
        await counter.tenancy.identify(issuer.token(sub="grace"))  # the issuer's keys are known
        token = issuer.token()

        async def change(grants: Any) -> None:
            others = config(issuer, grants=grants) if grants else None
            counter.tenancy.use_single_sign_on(others)

        caller, _ = await asyncio.gather(counter.tenancy.identify(token), change([{"tenant": "other"}]))
        assert (caller.tenant, counter.tenancy.identify_now(token)) == ("other", caller)
        counter.tenancy.use_single_sign_on(config(issuer))
        result, _ = await asyncio.gather(refused(counter, token), change(None))
        assert result == "unknown_key"


async def test_the_first_pages_wait_for_the_issuers_metadata(valkey: Valkey, issuer: FakeIssuer) -> None:
    async with signing_on(valkey, issuer, login={"client_id": CLIENT}) as counter:
        sign_on = counter.tenancy.single_sign_on
        assert sign_on is not None
        requests = await asyncio.gather(*(sign_on.login_request() for _ in range(MAX_WAITING)))
        assert [request and request["endpoint"] for request in requests] == [f"{issuer.url}/authorize"] * MAX_WAITING
        assert issuer.metadata_reads == 1


async def test_pages_cause_one_read_in_ten_seconds_while_the_issuer_is_down(valkey: Valkey, issuer: FakeIssuer) -> None:
    issuer.is_up = False
    async with signing_on(valkey, issuer, Times(), login={"client_id": CLIENT}) as counter:
        sign_on = counter.tenancy.single_sign_on
        assert sign_on is not None
        for _ in range(2):
            assert set(await asyncio.gather(*(sign_on.login_request() for _ in range(300)))) == {None}
        assert issuer.metadata_reads == 1


@pytest.mark.parametrize("fault", ["trickle", "flood", "redirect", "compress"])
async def test_an_issuer_that_misbehaves_is_left_in_time(
    valkey: Valkey, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("pointsman_gateway.tenancy.issuer.TIMEOUT_SECONDS", 0.5)
    times, code = Times(), LoginCode("code", "v" * 43, "http://x/console", "n" * 16)
    async with signing_on(valkey, issuer, times, login={"client_id": CLIENT}) as counter:
        await counter.tenancy.identify(issuer.token())
        issuer.fault = fault
        sign_on = counter.tenancy.single_sign_on
        assert sign_on is not None
        with pytest.raises(Unavailable) as raised:
            await sign_on.log_in(code)
        assert raised.value.code == "issuer_unavailable"
        times.pass_by(MIN_REFRESH_INTERVAL_SECONDS + 1)
        issuer.rotate("first", "second")
        assert await refused(counter, issuer.token("second")) == "unknown_signing_key"
        issuer.fault = ""
        times.pass_by(MIN_REFRESH_INTERVAL_SECONDS + 1)
        assert (await counter.tenancy.identify(issuer.token("second"))).tenant == "acme"


async def test_usage_of_single_sign_on_is_shown_by_user(valkey: Valkey, issuer: FakeIssuer) -> None:
    await issue(valkey.url)
    async with signing_on(valkey, issuer) as counter, open_redis(valkey.url, lambda up: None, 5) as redis:
        caller = await counter.tenancy.identify(issuer.token())
        reservation = await counter.tenancy.enter(caller, 10)
        reservation.settle(Usage(3, 4), 0.5, "ok")
        await counter.tenancy.usage.write()
        rows = await Administration(redis).usage("acme")
        assert {row.key.id: row.today.get("requests", 0) for row in rows if row.key}[caller.key] == 1
        assert rows[0].today["requests"] == 1


def test_only_public_signing_keys_of_the_pinned_algorithms_are_used() -> None:
    weak = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
    strong = RSAAlgorithm.to_jwk(rsa_key().public_key(), as_dict=True)
    other_curve = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
    keys: list[Any] = [
        {**strong, "kid": "strong"},
        {**weak, "kid": "weak"},
        {**strong, "kid": "encryption", "use": "enc"},
        {**strong, "kid": "pss", "alg": "PS256"},
        {**other_curve, "kid": "curve"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "symmetric"},
        {"kty": "RSA", "kid": "incomplete"},
        "no object",
    ]
    assert set(to_signing_keys({"keys": keys}, ("RS256", "ES256"))) == {("strong", "RS256")}
    assert to_signing_keys({"keys": None}, ("RS256",)) == {}


def test_unsafe_settings_are_refused_by_name() -> None:
    good = {"issuer": "https://login.example", "audiences": ["p"], "grants": [{"tenant": "acme"}]}
    check: Callable[[Any], object] = SingleSignOnConfig.model_validate
    assert check(good)
    for change, message in (
        ({"issuer": "http://login.example"}, "write https://"),
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"audiences": []}, "audiences"),
        ({"grants": []}, "grants"),
        ({"grants": [{"tenant": "No Name"}]}, "No Name"),
        ({"grants": [{"tenant": "a", "limits": {"requests_per_minute": 0}}]}, "requests_per_minute is 0"),
        ({"clock_skew_seconds": 3600}, "clock_skew_seconds"),
        ({"login": {"client_id": "c", "scopes": ["profile"]}}, "openid"),
    ):
        with pytest.raises(ValueError, match=message):
            check(good | change)
