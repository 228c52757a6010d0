"""The HTTP API with TLS and mTLS, with real handshakes."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_gateway.http.connection_limits import ConnectionLimits
from pointsman_gateway.http.server import serve_http
from pointsman_servicekit.tls import ServerTls, TlsError, client_tls, server_tls

from tests.gateway.doubles.certificates import Authority, copied
from tests.gateway.doubles.waiting import found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"), "theirs")


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> ServerTls:
    return copied(authority.sign("server"), tmp_path)


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()})


@asynccontextmanager
async def client_of(tls: ServerTls, context: ssl.SSLContext) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serve_http(app, "127.0.0.1:0", tls=tls, grace=1) as address,
        httpx.AsyncClient(base_url=f"https://{address}", verify=context, timeout=10) as client,
    ):
        yield client


def believing(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.certificate))


async def test_clients_that_trust_the_ca_are_served_over_tls(tls: ServerTls, authority: Authority) -> None:
    async with client_of(tls, believing(authority)) as client:
        assert (await client.get("/")).text == "https"


async def test_clients_that_trust_another_ca_disconnect(tls: ServerTls, stranger: Authority) -> None:
    async with client_of(tls, believing(stranger)) as client:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get("/")


async def test_an_old_version_of_tls_is_refused(tls: ServerTls, authority: Authority) -> None:
    context = believing(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with client_of(tls, context) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/")


async def test_plain_http_on_the_tls_port_gets_no_answer(tls: ServerTls) -> None:
    async with serve_http(app, "127.0.0.1:0", tls=tls, grace=1) as address, httpx.AsyncClient(timeout=10) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://{address}/")


async def test_a_client_with_a_certificate_of_the_client_ca_is_served(
    tls: ServerTls, authority: Authority, stranger: Authority
) -> None:
    mutual = ServerTls(tls.certificate, tls.key, stranger.certificate)
    shown, context = stranger.sign("client"), believing(authority)
    context.load_cert_chain(shown.certificate, shown.key)
    async with client_of(mutual, context) as client:
        assert (await client.get("/")).text == "https"


@pytest.mark.parametrize("shows", [False, True], ids=["no certificate", "one of another CA"])
async def test_with_a_client_ca_other_clients_are_rejected(
    tls: ServerTls, authority: Authority, stranger: Authority, shows: bool
) -> None:
    mutual = ServerTls(tls.certificate, tls.key, stranger.certificate)
    context = believing(authority)
    if shows:
        shown = authority.sign("client")
        context.load_cert_chain(shown.certificate, shown.key)
    async with client_of(mutual, context) as client:
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            await client.get("/")


async def test_a_renewed_certificate_is_used_without_a_restart(
    tls: ServerTls, authority: Authority, stranger: Authority
) -> None:
    async with serve_http(app, "127.0.0.1:0", tls=tls, grace=1) as address:
        assert await _shown(address, authority)
        renewed = stranger.sign("renewed")
        shutil.copy(renewed.certificate, tls.certificate)
        shutil.copy(renewed.key, tls.key)
        await found(lambda: _shown(address, stranger))


async def test_an_invalid_new_certificate_is_not_used_and_logged(
    tls: ServerTls, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_http(app, "127.0.0.1:0", tls=tls, grace=1) as address:
        tls.certificate.write_text("broken")

        async def is_told() -> bool:
            return "holds no certificate in PEM" in caplog.text

        await found(is_told)
        assert await _shown(address, authority)


async def _shown(address: str, authority: Authority) -> bool:
    """Returns whether the server presents a certificate of this CA."""
    try:
        async with httpx.AsyncClient(verify=believing(authority), timeout=10) as client:
            return (await client.get(f"https://{address}/")).text == "https"
    except httpx.ConnectError:
        return False


async def test_a_missing_handshake_times_out(tls: ServerTls) -> None:
    limits = ConnectionLimits(handshake_timeout=0.2)
    async with serve_http(app, "127.0.0.1:0", tls=tls, grace=1, limits=limits) as address:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


def test_certificate_and_key_must_be_set_together(tls: ServerTls, authority: Authority) -> None:
    assert server_tls(None, None, None) is None
    assert client_tls(None, None, None) is None
    wrong: list[tuple[Any, str]] = [
        ((tls.certificate, None, None), "tls_certificate is set without tls_key"),
        ((None, tls.key, None), "tls_key is set without tls_certificate"),
        ((None, None, authority.certificate), "tls_client_ca is set without"),
    ]
    for given, message in wrong:
        with pytest.raises(TlsError, match=message):
            server_tls(*given)
    with pytest.raises(TlsError, match="client_tls_certificate is set without client_tls_key"):
        client_tls(authority.certificate, tls.certificate, None)
    with pytest.raises(TlsError, match="without client_tls_ca"):
        client_tls(None, tls.certificate, tls.key)


def test_files_that_cannot_be_used_are_named(tls: ServerTls, authority: Authority, tmp_path: Path) -> None:
    text, other, locked = tmp_path / "text", authority.sign("other"), tmp_path / "locked.key"
    text.write_text("no PEM")
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    wrong: list[tuple[Any, str]] = [
        ((tmp_path / "nothing", tls.key, None), "nothing cannot be read: No such file or directory"),
        ((tmp_path, tls.key, None), "cannot be read: Is a directory"),
        ((text, tls.key, None), "text holds no certificate in PEM"),
        ((tls.certificate, text, None), "text holds no private key in PEM"),
        ((tls.certificate, locked, None), "locked.key is encrypted"),
        ((tls.certificate, other.key, None), "other.key is not that of the certificate"),
        ((tls.certificate, tls.key, text), "text holds no certificate in PEM"),
        ((tls.certificate, tls.key, tmp_path / "nothing"), "nothing cannot be read"),
    ]
    for given, message in wrong:
        with pytest.raises(TlsError, match=message):
            server_tls(*given)
