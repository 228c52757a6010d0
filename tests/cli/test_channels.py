"""The CLI's gRPC channels, with and without TLS."""

from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2
from pointsman_cli.errors import CommandError
from pointsman_cli.grpc_clients import open_channel
from pointsman_servicekit.grpc_server import serving
from pointsman_servicekit.tls import ServerTls

from tests.gateway.doubles.certificates import Authority
from tests.grpc_stubs import health_stub


async def is_served(address: str) -> bool:
    async with open_channel(address) as channel:
        answer = await health_stub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_channels_are_unencrypted_unless_a_ca_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POINTSMAN_CLIENT_TLS_CA", raising=False)
    async with serving("127.0.0.1:0", [], lambda server: None, grace=0) as server:
        assert await is_served(server.address)


async def test_a_service_is_reached_over_tls_by_the_name_in_its_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, "ours")
    service, client = authority.sign("service", "DNS:retriever.pointsman.svc"), authority.sign("client")
    monkeypatch.setenv("POINTSMAN_CLIENT_TLS_CA", str(authority.certificate))
    monkeypatch.setenv("POINTSMAN_CLIENT_TLS_CERTIFICATE", str(client.certificate))
    monkeypatch.setenv("POINTSMAN_CLIENT_TLS_KEY", str(client.key))
    monkeypatch.setenv("POINTSMAN_CLIENT_TLS_SERVER_NAME", "retriever.pointsman.svc")
    tls = ServerTls(service.certificate, service.key, authority.certificate)
    async with serving("127.0.0.1:0", [], lambda server: None, grace=0, tls=tls) as server:
        assert await is_served(server.address)


def test_a_missing_ca_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_CLIENT_TLS_CA", str(tmp_path / "ca.pem"))
    with pytest.raises(
        CommandError, match=r"POINTSMAN_CLIENT_TLS_\*: .*ca.pem cannot be read: No such file or directory"
    ):
        open_channel("127.0.0.1:1")
