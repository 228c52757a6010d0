"""Two lora-servers with their engines are replaced one after another at new addresses without losing a stream."""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pointsman.v1 import lora_server_pb2 as pb

from tests.gateway.doubles.config_folder import IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.dns_server import DnsServer, running_dns
from tests.gateway.doubles.load import Load, under_load
from tests.gateway.doubles.process_gateway import ProcessGateway
from tests.gateway.doubles.valkey import Valkey, running_valkey
from tests.gateway.doubles.waiting import found, until
from tests.lora_server.server_process import ServerProcess
from tests.lora_server.tiny_adapters import BASE_NAME, good_tensors, write_adapter, write_base
from tests.ports import free_port

NAME = "lora-server.pointsman.svc"
STREAMS = 50
PIECES = list(range(100, 116))


@dataclass
class Fleet:
    folder: Path
    dns: DnsServer
    valkey: Valkey
    gateway: ProcessGateway
    port: int
    servers: list[ServerProcess] = field(default_factory=list)
    started: int = 0

    async def start(self) -> ServerProcess:
        """Starts a server at a new address, like a new pod; DNS does not list it yet."""
        self.started += 1
        server = ServerProcess(
            self.folder / f"server-{self.started}",
            self.folder / "base",
            f"engine-{self.started}",
            self.valkey.url,
            self.folder / "store",
            listen=f"127.0.1.{self.started}:{self.port}",
            more={"ENGINE_ARGS": "--answer-seconds 1.0", "SHUTDOWN_DELAY": "2"},
        )
        self.servers.append(server)
        await server.start_with_engine()
        return server

    def tell(self) -> None:
        self.dns.names[NAME] = [server.address.rpartition(":")[0] for server in self.servers]

    async def stop(self, server: ServerProcess) -> None:
        """Stops a server as Kubernetes stops a pod: sends SIGTERM, and removes its address from the name in DNS.

        Waits until the process has ended, and fails unless its exit status is 0.
        """
        self.servers.remove(server)
        server.signal(signal.SIGTERM)
        self.tell()
        assert await server.ended(within=90) == 0

    async def until_asked(self, engine: str) -> None:
        async def asked() -> bool:
            return await self.gateway.metric("pointsman_engine_in_flight", engine=engine) > 0

        await found(asked, within=60)


@pytest.fixture
async def fleet(tmp_path: Path, model_folder: Path) -> AsyncIterator[Fleet]:
    write_base(tmp_path / "base")
    port, config = free_port(), ConfigFolder(tmp_path / "config")
    config.models["models"] = {BASE_NAME: config.models["models"]["tiny"]}
    config.models["engines"] = {"fleet": {"model": BASE_NAME, "lora_server": f"dns:///{NAME}:{port}"}}
    for path in config.paths.values():
        path["model"] = BASE_NAME
    async with running_dns() as dns, running_valkey(tmp_path / "valkey") as valkey:
        settings = {"config": config.write(), "embedding_model": model_folder, "dns": dns.address}
        gateway = ProcessGateway(tmp_path, settings)
        fleet = Fleet(tmp_path, dns, valkey, gateway, port)
        try:
            await fleet.start()
            await fleet.start()
            fleet.tell()
            await gateway.open_clients()
            yield fleet
        finally:
            await asyncio.gather(gateway.kill(), *(server.kill() for server in fleet.servers))


async def register(fleet: Fleet) -> str:
    folder = write_adapter(fleet.folder / "adapter", good_tensors(), config={"answer_ids": PIECES})
    return (await fleet.servers[0].register("triage", folder, "prod")).version


async def all_hold(fleet: Fleet, version: str) -> None:
    for server in fleet.servers:

        async def holds(server: ServerProcess = server) -> bool:
            return version in (await server.engine_state()).resident

        await server.until(holds)


async def replace(fleet: Fleet, server: ServerProcess, version: str, load: Load) -> None:
    await fleet.stop(server)
    await fleet.start()
    await all_hold(fleet, version)
    fleet.tell()
    for engine in ("fleet/0", "fleet/1"):
        await fleet.until_asked(engine)
    assert load.streaming > 0


async def test_a_single_copy_moves_between_engines_without_losing_a_stream(fleet: Fleet) -> None:
    """The server that stops holds the only copy; the other one loads it before gateways stop using the first."""
    version = await register(fleet)
    one = pb.Placement(name="triage", kind=pb.PLACEMENT_KIND_COPIES, copies=1)
    await fleet.servers[0].call("SetPlacement", pb.SetPlacementRequest(placement=one))
    async with under_load(fleet.gateway.url, IN_TRIAGE, clients=STREAMS, deadline=60) as load:
        await until(lambda: load.streaming >= STREAMS * 0.8, within=60)
        for server in list(fleet.servers):
            await fleet.stop(server)
            await fleet.start()
            fleet.tell()
            await load.more(STREAMS)
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []
    assert {(outcome.path, outcome.model) for outcome in load.outcomes} == {("triage_adapter", version)}


async def test_a_rolling_restart_of_lora_servers_and_engines_loses_no_stream(fleet: Fleet) -> None:
    version = await register(fleet)
    await all_hold(fleet, version)
    async with under_load(fleet.gateway.url, IN_TRIAGE, clients=STREAMS, deadline=60) as load:
        await until(lambda: load.streaming >= STREAMS * 0.8, within=60)
        for engine in ("fleet/0", "fleet/1"):
            await fleet.until_asked(engine)
        for server in list(fleet.servers):
            await replace(fleet, server, version, load)
        await load.more(STREAMS)
    whole = "".join(f" {piece}" for piece in PIECES)
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []
    assert {outcome.text for outcome in load.outcomes} == {whole}
    assert {(outcome.path, outcome.model) for outcome in load.outcomes} == {("triage_adapter", version)}
    print(f"{len(load.outcomes)} streams of {version}, none lost")
