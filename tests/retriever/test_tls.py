"""The gRPC server over TLS: which clients are served, and which settings prevent the start."""

from pathlib import Path

import grpc
import httpx
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_embedding import MiniLM
from pointsman_retriever import bootstrap
from pointsman_retriever.settings import Settings
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.tls import ClientTls, TlsError

from tests.gateway.doubles.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca", "ours")


@pytest.fixture
def settings(tmp_path: Path, model_folder: Path, authority: Authority) -> Settings:
    server = authority.sign("retriever")
    return Settings(
        listen="127.0.0.1:0",
        metrics_listen="127.0.0.1:0",
        data=tmp_path / "data",
        embedding_model=model_folder,
        tls_certificate=server.certificate,
        tls_key=server.key,
        tls_client_ca=authority.certificate,
    )


async def _lists(address: str, tls: ClientTls | None) -> bool:
    async with open_channel(address, tls) as channel:
        try:
            await retriever_pb2_grpc.RetrieverStub(channel).ListCollections(pb.ListCollectionsRequest(), timeout=10)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  # it need not be raised
            return False
    return True


async def test_only_clients_with_a_certificate_of_the_ca_are_served(
    settings: Settings, authority: Authority, minilm: MiniLM
) -> None:
    gateway = authority.sign("gateway")
    async with bootstrap.run_service(settings, minilm) as running:
        assert await _lists(running.address, ClientTls(authority.certificate, gateway.certificate, gateway.key))
        assert not await _lists(running.address, ClientTls(authority.certificate))
        assert not await _lists(running.address, None)


async def test_probes_and_metrics_are_served_without_tls(settings: Settings, minilm: MiniLM) -> None:
    async with bootstrap.run_service(settings, minilm) as running, httpx.AsyncClient() as http:
        ready = await http.get(f"http://127.0.0.1:{running.metrics_port}/readyz")
        assert (ready.status_code, ready.text) == (200, "ready\n")


async def test_a_certificate_without_a_key_prevents_the_start(settings: Settings, minilm: MiniLM) -> None:
    half = settings.model_copy(update={"tls_key": None})
    with pytest.raises(TlsError, match="tls_certificate is set without tls_key; set both, or none"):
        async with bootstrap.run_service(half, minilm):
            pass
