"""The lora-server as a process with TLS, and when it reports that it is ready."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.tls import ClientTls

from tests.gateway.doubles.certificates import Authority
from tests.gateway.doubles.waiting import found
from tests.lora_server.server_process import MakeAdapter, RunLoraServer, ServerProcess
from tests.ports import free_port


async def _watches(address: str, tls: ClientTls | None) -> bool:
    async with open_channel(address, tls) as channel:
        try:
            async for _ in lora_server_pb2_grpc.LoraServerStub(channel).Watch(pb.WatchRequest(), timeout=10):
                return True
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  # it need not be raised
    return False


async def test_with_tls_only_clients_of_the_ca_are_served_and_probes_stay_plain(
    tmp_path: Path, base_folder: Path, valkey: Any
) -> None:
    authority, metrics = Authority(tmp_path / "ca", "ours"), f"127.0.0.1:{free_port()}"
    server, gateway = authority.sign("lora-server"), authority.sign("gateway")
    tls = {"TLS_CERTIFICATE": server.certificate, "TLS_KEY": server.key, "TLS_CLIENT_CA": authority.certificate}
    settings = {"METRICS_LISTEN": metrics, **{name: str(value) for name, value in tls.items()}}
    process = ServerProcess(tmp_path / "one", base_folder, "one", valkey.url, tmp_path / "store", more=settings)
    await process.start()
    try:
        assert await _watches(process.address, ClientTls(authority.certificate, gateway.certificate, gateway.key))
        assert not await _watches(process.address, ClientTls(authority.certificate))
        assert not await _watches(process.address, None)
        async with aiohttp.ClientSession() as http:

            async def says_ready() -> bool:
                async with http.get(f"http://{metrics}/readyz") as answer:
                    return answer.status == 200

            await found(says_ready, within=60)
    finally:
        await process.kill()


async def test_it_is_ready_once_the_engine_holds_the_aliases_versions(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        version = await lora.register("triage", make_adapter(), "prod")
    start = tmp_path / "start"
    async with run_lora_server("--start-file", str(start)) as lora:

        async def has_held() -> bool:
            with suppress(aiohttp.ClientError):
                await lora.hold("loads")
                return True
            return False

        await found(has_held)
        start.touch()
        await lora.until_asked(f"load {version.version}")
        assert not lora.components.is_ready()
        await lora.release()
        await lora.until(lambda state: bool(state.resident))

        async def is_ready() -> bool:
            return bool(lora.components.is_ready())

        await found(is_ready)
        lora.kill_engine()
        await lora.until(lambda state: state.status != pb.ENGINE_STATUS_READY)
        assert not lora.components.is_ready()
