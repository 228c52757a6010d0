"""The gateway as a process with TLS settings: both servers use TLS, and invalid files stop the start with a reason."""

import asyncio
import os
import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.tls import ClientTls

from tests.gateway.doubles.api_clients import GrpcStreamClient
from tests.gateway.doubles.certificates import Authority
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.gateway import Neighbours
from tests.gateway.doubles.waiting import found


@asynccontextmanager
async def running(neighbours: Neighbours, model: Path, **settings: object) -> AsyncIterator[asyncio.subprocess.Process]:
    await neighbours.ready()
    neighbours.config.models["engines"]["local"]["lora_server"] = neighbours.lora_server.address
    options = {
        "config": neighbours.config.write(),
        "embedding_model": model,
        "retriever": neighbours.retriever.address,
        "http_listen": "127.0.0.1:0",
        "grpc_listen": "127.0.0.1:0",
        **settings,
    }
    environment = os.environ | {f"POINTSMAN_GATEWAY_{name.upper()}": str(value) for name, value in options.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pointsman_gateway",
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_both_servers_use_tls_and_require_client_certificates(
    neighbours: Neighbours, model_folder: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca", "ours")
    server, client = authority.sign("server"), authority.sign("client")
    settings = {
        "tls_certificate": server.certificate,
        "tls_key": server.key,
        "tls_client_ca": authority.certificate,
        "log_format": "json",
    }
    async with running(neighbours, model_folder, **settings) as process:
        assert process.stderr is not None
        http_address = grpc_address = ""
        async with asyncio.timeout(60):
            async for line in process.stderr:
                listening = re.search(rb'"HTTP on (\S+), gRPC on ([^\s"]+)"', line)
                if listening:
                    http_address, grpc_address = (address.decode() for address in listening.groups())
                    break
        context = ssl.create_default_context(cafile=str(authority.certificate))
        context.load_cert_chain(client.certificate, client.key)
        async with httpx.AsyncClient(base_url=f"https://{http_address}", verify=context, timeout=10) as http:

            async def is_ready() -> bool:
                return (await http.get("/readyz")).status_code == 200

            await found(is_ready)
        async with open_channel(
            grpc_address, ClientTls(authority.certificate, client.certificate, client.key)
        ) as channel:
            assert (await GrpcStreamClient(channel).ask(IN_CHAT)).path == "small_talk"
        async with open_channel(grpc_address, ClientTls(authority.certificate)) as channel:
            with pytest.raises(Unavailable):
                await GrpcStreamClient(channel).ask(IN_CHAT)


async def test_a_key_of_another_certificate_prevents_the_start(
    neighbours: Neighbours, model_folder: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "ca", "ours")
    server, other = authority.sign("server"), authority.sign("other")
    async with running(neighbours, model_folder, tls_certificate=server.certificate, tls_key=other.key) as process:
        async with asyncio.timeout(60):
            _, result = await process.communicate()
        assert process.returncode == 1
        assert f"the key {other.key} is not that of the certificate {server.certificate}" in result.decode()
