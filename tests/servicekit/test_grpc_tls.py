"""gRPC with TLS and mTLS."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_server import ServerLimits, serving
from pointsman_servicekit.tls import ClientTls, ServerTls, TlsError

from tests.gateway.doubles.certificates import Authority, copied
from tests.gateway.doubles.waiting import found, until
from tests.grpc_stubs import health_stub

ASK = health_pb2.HealthCheckRequest()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"), "theirs")


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> ServerTls:
    return copied(authority.sign("server"), tmp_path)


def nothing(server: grpc.aio.Server) -> None:
    """Registers no service, so that the server has only health."""


async def serves(address: str, tls: ClientTls | None) -> bool:
    async with open_channel(address, tls) as channel:
        code = await _code(channel, ASK)
    assert code in (None, grpc.StatusCode.UNAVAILABLE)
    return code is None


async def test_only_clients_that_trust_the_ca_are_served(
    tls: ServerTls, authority: Authority, stranger: Authority
) -> None:
    async with serving("127.0.0.1:0", [], nothing, grace=0, tls=tls) as server:
        assert await serves(server.address, ClientTls(authority.certificate))
        assert not await serves(server.address, ClientTls(stranger.certificate))
        assert not await serves(server.address, None)


async def test_the_servers_certificate_must_contain_its_name(authority: Authority) -> None:
    signed = authority.sign("named", "DNS:gateway.example")
    tls = ServerTls(signed.certificate, signed.key)
    async with serving("127.0.0.1:0", [], nothing, grace=0, tls=tls) as server:
        assert not await serves(server.address, ClientTls(authority.certificate))
        assert await serves(server.address, ClientTls(authority.certificate, server_name="gateway.example"))


async def test_with_a_client_ca_only_its_clients_are_served(
    tls: ServerTls, authority: Authority, stranger: Authority
) -> None:
    mutual = ServerTls(tls.certificate, tls.key, authority.certificate)
    ours, theirs = authority.sign("client"), stranger.sign("client")
    async with serving("127.0.0.1:0", [], nothing, grace=0, tls=mutual) as server:
        assert await serves(server.address, ClientTls(authority.certificate, ours.certificate, ours.key))
        assert not await serves(server.address, ClientTls(authority.certificate))
        assert not await serves(server.address, ClientTls(authority.certificate, theirs.certificate, theirs.key))


async def test_a_renewed_certificate_is_used_without_a_restart(
    tls: ServerTls, authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving("127.0.0.1:0", [], nothing, grace=0, tls=tls) as server:
        tls.certificate.write_text("half-written")
        assert await serves(server.address, ClientTls(authority.certificate))
        await until(lambda: "holds no certificate in PEM" in caplog.text)
        renewed = stranger.sign("renewed")
        shutil.copy(renewed.certificate, tls.certificate)
        shutil.copy(renewed.key, tls.key)
        await found(lambda: serves(server.address, ClientTls(stranger.certificate)))


async def test_mismatched_files_prevent_the_start(tls: ServerTls, authority: Authority) -> None:
    other = authority.sign("other")
    with pytest.raises(TlsError, match="is not that of the certificate"):
        async with serving("127.0.0.1:0", [], nothing, tls=ServerTls(tls.certificate, other.key)):
            pass
    with pytest.raises(TlsError, match="is not that of the certificate"):
        open_channel("127.0.0.1:1", ClientTls(authority.certificate, tls.certificate, other.key))


@pytest.mark.parametrize(
    ("metadata", "code"),
    [([("x", "y" * 1000)], None), ([("x", "y" * 5000)], grpc.StatusCode.RESOURCE_EXHAUSTED)],
)
async def test_metadata_size_is_limited(metadata: Sequence[tuple[str, str]], code: grpc.StatusCode | None) -> None:
    limits = ServerLimits(max_metadata_bytes=4096)
    async with (
        serving("127.0.0.1:0", [], nothing, grace=0, limits=limits) as server,
        open_channel(server.address) as channel,
    ):
        assert await _code(channel, ASK, metadata) is code


async def test_message_size_is_limited() -> None:
    limits = ServerLimits(max_message_bytes=1000)
    async with (
        serving("127.0.0.1:0", [], nothing, grace=0, limits=limits) as server,
        open_channel(server.address) as channel,
    ):
        large = health_pb2.HealthCheckRequest(service="x" * 2000)
        assert await _code(channel, large) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await _code(channel, ASK) is None


async def test_an_old_connection_accepts_no_new_calls_and_completes_running_ones() -> None:
    async with (
        serving("127.0.0.1:0", [], nothing, grace=0, limits=ServerLimits(max_connection_age=0.3)) as server,
        open_channel(server.address) as channel,
    ):
        assert await _code(channel, ASK) is None
        watch = health_stub(channel).Watch(ASK)
        await watch.read()
        await _until_sent_away(channel)
        await server.set_serving(False)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await _code(channel, ASK) is None


async def _until_sent_away(channel: grpc.aio.Channel) -> None:
    state = channel.get_state()
    async with asyncio.timeout(20):
        while state is grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)
            state = channel.get_state()


async def _code(channel: grpc.aio.Channel, request: Any, metadata: Any = ()) -> grpc.StatusCode | None:
    try:
        await health_stub(channel).Check(request, metadata=metadata, timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None
