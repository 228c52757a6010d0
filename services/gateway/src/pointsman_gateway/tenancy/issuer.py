"""An OpenID Connect issuer: its metadata and signing keys, which are read in the background, and its token endpoint."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from math import inf
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
from jwt import PyJWK, PyJWTError
from pointsman_servicekit.errors import Unauthenticated, Unavailable
from pointsman_servicekit.http_client import open_async_client, read_body

from pointsman_gateway.config.access_file import LoginConfig, SingleSignOnConfig, is_trusted_url

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5.0
"""Time limit for one request to the issuer, up to the end of the response."""
MAX_BYTES = 1024 * 1024
"""Maximum number of bytes of one response of the issuer."""
MIN_REFRESH_INTERVAL_SECONDS = 10.0
"""Minimum number of seconds between two reads of the issuer's keys, even if many tokens name unknown keys."""
MAX_WAITING = 64
"""Maximum number of tokens that wait for a read of the keys; further tokens with unknown keys are rejected at once."""
MAX_LOGINS = 8
"""Maximum number of login codes that are exchanged at once. The limit is needed, since a login needs no credential."""
MIN_RSA_BITS = 2048

_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""The key type of an algorithm, by the algorithm's first two letters."""
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}

SigningKeys = Mapping[tuple[str, str], tuple[PyJWK, Mapping[str, Any]]]
"""By key id and algorithm: the key, and the JSON in which the issuer publishes it."""


class Issuer:
    def __init__(self, config: SingleSignOnConfig, clock: Callable[[], float], on_removed: Callable[[], None]) -> None:
        """Takes a monotonic `clock` in seconds. `on_removed` is called when a signing key is no longer valid: the
        issuer has withdrawn or changed it, or the keys could not be read for too long.
        """
        self._config = config
        self._clock = clock
        self._on_removed = on_removed
        self._keys: SigningKeys = {}
        self._read_at = self._tried_at = -inf
        self._refreshing: asyncio.Task[None] | None = None
        self._waiting = self._logins = 0
        self._has_failed = False
        self.metadata: Mapping[str, Any] = {}
        """The issuer's metadata document; empty until it has been read."""

    def find_key_now(self, key_id: str, algorithm: str) -> PyJWK | None:
        if self._clock() - self._read_at > self._lifetime:
            return None
        if key_id:
            found = self._keys.get((key_id, algorithm))
            return found[0] if found else None
        candidates = [key for (_, of), (key, _) in self._keys.items() if of == algorithm]
        return candidates[0] if len(candidates) == 1 else None

    async def find_key(self, key_id: str, algorithm: str) -> PyJWK:
        """Returns the signing key with this id and algorithm; an empty id stands for the algorithm's only key.

        Reads the issuer's keys if the key is unknown, at most once in `MIN_REFRESH_INTERVAL_SECONDS`. Raises
        Unauthenticated ("unknown_signing_key") if the issuer does not publish such a key, or Unavailable
        ("issuer_unavailable") if the keys could not be read for so long that none is valid any more.
        """
        key = self.find_key_now(key_id, algorithm)
        if key is None and await self._refresh_for_unknown_key():
            key = self.find_key_now(key_id, algorithm)
        if key is not None:
            return key
        if self._clock() - self._read_at > self._lifetime:
            raise issuer_unavailable()
        raise Unauthenticated(
            f"the token is signed with a key that {self._config.issuer} does not publish", code="unknown_signing_key"
        )

    async def find_metadata(self) -> Mapping[str, Any]:
        """Returns the issuer's metadata document, and reads it if necessary; empty if it cannot be read. A failed read
        is not repeated within `MIN_REFRESH_INTERVAL_SECONDS`.
        """
        if not self.metadata:
            await self._refresh_for_unknown_key()
        return self.metadata

    async def refresh_if_due(self) -> None:
        """Drops the issuer's keys if they are too old, and reads metadata and keys if that is due. Has to be called
        periodically.

        Raises Unavailable ("issuer_unavailable") if they cannot be read.
        """
        now = self._clock()
        if self._keys and now - self._read_at > self._lifetime:
            self._keys = {}
            self._on_removed()
        interval = MIN_REFRESH_INTERVAL_SECONDS if self._has_failed else self._config.signing_keys.refresh_seconds
        if now - self._tried_at >= interval:
            await self._refresh()

    async def exchange(self, login: LoginConfig, secret: str, form: Mapping[str, str]) -> Mapping[str, Any]:
        """Posts `form` to the token endpoint, and returns the JSON object with the tokens.

        `secret` is the secret of the OpenID Connect client; empty for a client without one. Raises Unauthenticated
        ("login_failed") if the issuer rejects the form, Unavailable ("issuer_unavailable") if it does not answer
        properly or its metadata has not been read, and Unavailable ("too_many_logins") if `MAX_LOGINS` logins are in
        progress.
        """
        if self._logins >= MAX_LOGINS:
            raise Unavailable("too many logins at once; try again", code="too_many_logins", retry_after=1.0)
        if not self.metadata:
            raise issuer_unavailable()
        self._logins += 1
        try:
            status, answer = await self._post(login, secret, form)
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            raise issuer_unavailable() from error
        finally:
            self._logins -= 1
        if status != 200:
            problem = answer.get("error")
            known = problem if isinstance(problem, str) and problem.isidentifier() else f"status {status}"
            raise Unauthenticated(f"the issuer refused the login: {known[:40]}", code="login_failed")
        return answer

    @property
    def _lifetime(self) -> float:
        keys = self._config.signing_keys
        return keys.refresh_seconds + keys.valid_without_issuer_seconds

    async def _refresh_for_unknown_key(self) -> bool:
        """Reads the issuer's keys; returns False if that fails, was done in the last `MIN_REFRESH_INTERVAL_SECONDS`, or
        `MAX_WAITING` tokens wait for it already.
        """
        is_free = self._refreshing is None
        if self._waiting >= MAX_WAITING or (is_free and self._clock() - self._tried_at < MIN_REFRESH_INTERVAL_SECONDS):
            return False
        self._waiting += 1
        try:
            await self._refresh()
        except Unavailable:
            return False
        finally:
            self._waiting -= 1
        return True

    async def _refresh(self) -> None:
        """Reads metadata and keys; concurrent callers share one read (single-flight).

        Raises Unavailable ("issuer_unavailable") if they cannot be read.
        """
        if self._refreshing is None:
            self._tried_at = self._clock()
            self._refreshing = asyncio.create_task(self._read(), name="read the issuer's keys")
            self._refreshing.add_done_callback(self._finish_refresh)
        await asyncio.shield(self._refreshing)

    def _finish_refresh(self, task: "asyncio.Task[None]") -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # it was logged, and nobody may be left to receive it

    async def _read(self) -> None:
        config = self._config
        try:
            async with await _open_client() as client:
                metadata = await _get(client, f"{config.issuer.rstrip('/')}/.well-known/openid-configuration")
                if metadata.get("issuer") != config.issuer:
                    raise ValueError(f"its metadata is that of issuer {metadata.get('issuer')!r}")
                read = await _get(client, _endpoint(metadata, "jwks_uri"))
            keys = to_signing_keys(read, config.algorithms)
            if not keys:
                raise ValueError(f"it publishes no key for {', '.join(config.algorithms)}")
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            if not self._has_failed:
                log.warning("the signing keys of %s cannot be read: %s", config.issuer, error)
            self._has_failed = True
            raise issuer_unavailable() from error
        before, self._keys, self.metadata = self._keys, keys, metadata
        self._read_at, self._has_failed = self._clock(), False
        if any(name not in keys or keys[name][1] != jwk for name, (_, jwk) in before.items()):
            self._on_removed()

    async def _post(self, login: LoginConfig, secret: str, form: Mapping[str, str]) -> tuple[int, Mapping[str, Any]]:
        fields = {**form, "client_id": login.client_id}
        auth: httpx.Auth = httpx.Auth()  # none
        if secret and "client_secret_basic" in self.metadata.get(
            "token_endpoint_auth_methods_supported", ["client_secret_basic"]
        ):
            auth = httpx.BasicAuth(quote(login.client_id, safe=""), quote(secret, safe=""))
        elif secret:
            fields["client_secret"] = secret
        async with await _open_client() as client:
            return await _send(client, "POST", _endpoint(self.metadata, "token_endpoint"), data=fields, auth=auth)


def to_signing_keys(document: Mapping[str, Any], algorithms: tuple[str, ...]) -> SigningKeys:
    """Returns the public keys of a JSON Web Key Set (RFC 7517) that may sign tokens with one of the algorithms.

    Invalid keys, and RSA keys with fewer than `MIN_RSA_BITS`, are left out.
    """
    found: dict[tuple[str, str], tuple[PyJWK, Mapping[str, Any]]] = {}
    listed = document.get("keys")
    for jwk in listed if isinstance(listed, list) else []:
        for algorithm in algorithms:
            if isinstance(jwk, dict) and _is_for(jwk, algorithm):
                try:
                    key = PyJWK(jwk, algorithm)
                except (PyJWTError, ValueError, TypeError):
                    continue
                if getattr(key.key, "key_size", MIN_RSA_BITS) >= MIN_RSA_BITS or jwk["kty"] != "RSA":
                    found[str(jwk.get("kid", "")), algorithm] = key, jwk
    return found


def _is_for(jwk: Mapping[str, Any], algorithm: str) -> bool:
    return (
        jwk.get("kty") == _KEY_TYPES[algorithm[:2]]
        and jwk.get("use", "sig") == "sig"
        and jwk.get("alg", algorithm) == algorithm
        and jwk.get("crv") == _CURVES.get(algorithm)
    )


async def _open_client() -> httpx.AsyncClient:
    """Opens the HTTP client in a thread, because loading the certificates of all authorities takes long."""
    return await asyncio.to_thread(open_async_client, timeout=TIMEOUT_SECONDS)


async def _send(client: httpx.AsyncClient, method: str, url: str, **more: Any) -> tuple[int, Mapping[str, Any]]:
    """Returns the status and the JSON object of a response.

    Raises httpx.HTTPError if the request fails or the status is an error, except for a client error (4xx) of a POST;
    TimeoutError after `TIMEOUT_SECONDS`; and ValueError if the response is over `MAX_BYTES` or no JSON object.
    """
    async with asyncio.timeout(TIMEOUT_SECONDS), client.stream(method, url, **more) as answer:
        if method == "GET" or not answer.is_client_error:
            answer.raise_for_status()
        content = await read_body(answer, MAX_BYTES)
    return answer.status_code, _json_object(content)


async def _get(client: httpx.AsyncClient, url: str) -> Mapping[str, Any]:
    """Returns the JSON object at a URL; raises httpx.HTTPError, TimeoutError or ValueError, as `_send` does."""
    return (await _send(client, "GET", url))[1]


def _json_object(content: bytes) -> Mapping[str, Any]:
    """Parses a JSON object; raises ValueError for anything else."""
    try:
        read = msgspec.json.decode(content)
    except RecursionError:
        raise ValueError("the issuer's response is nested too deeply") from None
    if not isinstance(read, dict):
        raise ValueError("the issuer's response is no JSON object")
    return read


def _endpoint(metadata: Mapping[str, Any], name: str) -> str:
    """Returns the URL of the endpoint `name` in the issuer's metadata; raises ValueError if it is missing, or not a URL
    that `is_trusted_url` accepts.
    """
    url = metadata.get(name)
    if not isinstance(url, str) or not is_trusted_url(url):
        raise ValueError(f"its {name} is {url!r}, which is no https URL")
    return url


def issuer_unavailable() -> Unavailable:
    return Unavailable(
        "the token cannot be verified: the issuer cannot be reached", code="issuer_unavailable", retry_after=10.0
    )
