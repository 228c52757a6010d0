"""Several lora-servers with one registry: each adapter is loaded where it is placed, and is always loaded somewhere."""

import asyncio
import signal
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_lora_server.adapters.placement import engines_for
from pointsman_lora_server.domain import Placement, StoredPlan
from pointsman_lora_server.registry import AdapterRegistry
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.grpc_errors import from_rpc_error

from tests.lora_server.server_process import ServerProcess

AT_ONCE = {"SHUTDOWN_DELAY": "0"}
NAMES = ("triage", "voice", "summary")


class Fleet:
    def __init__(self, folder: Path, base: Path, valkey: Any, make_adapter: Any) -> None:
        self.servers: list[ServerProcess] = []
        self.versions: dict[str, str] = {}
        """By adapter, its version."""
        self.more = {"SHUTDOWN_DELAY": "0"}
        """Settings of the servers that are started from now on."""
        self._folder = folder
        self._base = base
        self._valkey = valkey
        self._make_adapter = make_adapter

    async def start(self, *names: str) -> None:
        started = [
            ServerProcess(
                self._folder / name,
                self._base,
                name,
                self._valkey.url,
                self._folder / "store",
                more=self.more,
            )
            for name in names
        ]
        self.servers += started
        await asyncio.gather(*(server.start_with_engine() for server in started))

    async def register(self, name: str, seed: int, word: str = "prod") -> str:
        folder = self._make_adapter(f"{name}{seed}", seed=seed, config={"answer_ids": [seed, seed + 1]})
        version = (await self.servers[0].register(name, folder, word)).version
        if word:
            self.versions[name] = version
        return version

    async def place(self, copies: int | None, *names: str, expected: pb.Placement | None = None) -> None:
        kinds = {None: pb.PLACEMENT_KIND_ALL, 0: pb.PLACEMENT_KIND_ON_DEMAND}
        for name in names:
            kind = kinds.get(copies, pb.PLACEMENT_KIND_COPIES)
            asked = pb.Placement(name=name, kind=kind, copies=copies or 0)
            await self.servers[0].call(
                "SetPlacement", pb.SetPlacementRequest(placement=asked, expected=expected, author="test")
            )

    def where(self, version: str, copies: int) -> Collection[str]:
        """Returns the names of the servers on which the version is placed."""
        engines = {f"{server.folder.name} ({server.engine_url})": server.folder.name for server in self.servers}
        return {engines[engine] for engine in engines_for(version, Placement(copies), engines)}

    async def ask(self, version: str, name: str) -> None:
        """Sends a request for the version to the engine of the server `name`."""
        body = {"model": version, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
        async with aiohttp.ClientSession() as session:
            await session.post(f"{self.server(name).engine_url}/v1/chat/completions", json=body)

    async def holders(self, version: str) -> Collection[str]:
        states = await asyncio.gather(*(server.engine_state() for server in self.servers))
        return {s.folder.name for s, state in zip(self.servers, states, strict=True) if version in state.resident}

    async def until_placed(self, copies: int) -> None:
        """Waits until each version is loaded exactly where it is placed. Asserts that each was loaded somewhere all the
        time.
        """
        for version in self.versions.values():
            await self.servers[0].until(lambda version=version: self._is_placed(version, copies))  # type: ignore[misc]  # the loop's own

    async def _is_placed(self, version: str, copies: int) -> bool:
        holders = await self.holders(version)
        assert holders, f"{version} is nowhere"
        return holders == self.where(version, copies)

    def server(self, name: str) -> ServerProcess:
        return next(server for server in self.servers if server.folder.name == name)


@pytest.fixture
async def fleet(tmp_path: Path, base_folder: Path, valkey: Any, make_adapter: Any) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path, base_folder, valkey, make_adapter)
    try:
        await fleet.start("a", "b", "c")
        for seed, name in enumerate(NAMES):
            await fleet.register(name, 10 * seed)
        yield fleet
    finally:
        await asyncio.gather(*(server.kill() for server in fleet.servers))


async def test_adapters_follow_their_placement_as_engines_come_and_go(fleet: Fleet) -> None:
    await fleet.until_placed(3)
    await fleet.place(1, *NAMES)
    await fleet.until_placed(1)
    await fleet.start("d", "e")
    await fleet.until_placed(1)
    await fleet.place(2, *NAMES)
    await fleet.until_placed(2)

    leaving = fleet.server(next(iter(fleet.where(fleet.versions["triage"], 2))))
    leaving.signal(signal.SIGTERM)
    fleet.servers.remove(leaving)
    await fleet.until_placed(2)
    assert await leaving.ended(within=60) == 0
    assert "it goes all the same" not in leaving.words


async def test_a_lost_copy_is_replaced_on_another_engine(fleet: Fleet) -> None:
    await fleet.place(2, *NAMES)
    await fleet.until_placed(2)
    killed = fleet.server(next(iter(fleet.where(fleet.versions["triage"], 1))))
    await killed.kill()
    fleet.servers.remove(killed)
    await fleet.until_placed(2)


async def test_a_promotion_waits_until_the_placed_engines_have_loaded_it(fleet: Fleet) -> None:
    await fleet.place(1, "triage")
    following = await fleet.register("triage", 77, word="")
    (there,) = fleet.where(following, 1)
    asked = next(server for server in fleet.servers if server.folder.name != there)
    await asked.promote("triage@prod", following)
    assert there in await fleet.holders(following)
    fleet.versions = {"triage": following}
    await fleet.until_placed(1)


async def test_an_adapter_on_demand_is_loaded_where_it_is_requested(fleet: Fleet) -> None:
    await fleet.place(0, "triage")
    following = await fleet.register("triage", 77)
    holders = await fleet.holders(following)
    assert holders  # the server that registered it has smoke-tested it
    other = next(server for server in fleet.servers if server.folder.name not in holders)
    await other.call("EnsureLoaded", pb.EnsureLoadedRequest(version=following))
    assert other.folder.name in await fleet.holders(following)


async def test_a_placement_change_is_conditional_and_recorded(fleet: Fleet) -> None:
    everywhere = pb.Placement(kind=pb.PLACEMENT_KIND_ALL)
    await fleet.place(2, "voice", expected=everywhere)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await fleet.place(1, "voice", expected=everywhere)
    error = from_rpc_error(refused.value, "lora-server")
    assert (error.code, "'voice' is placed 2" in error.message) == ("placement_moved", True)
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await fleet.place(1, "unheard-of")
    assert from_rpc_error(unknown.value, "lora-server").code == "unknown_adapter"
    listed = await fleet.servers[1].listed()
    assert [(each.name, each.copies) for each in listed.placements] == [("voice", 2)]
    history = await fleet.servers[2].call("History", pb.HistoryRequest(name="voice", limit=1))
    assert [(c.kind, c.before, c.after) for c in history.changes] == [("placement", "all", "2")]


async def test_a_busy_adapter_by_demand_gets_more_copies_than_the_others(
    tmp_path: Path, base_folder: Path, valkey: Any, make_adapter: Any
) -> None:
    fleet = Fleet(tmp_path, base_folder, valkey, make_adapter)
    fleet.more |= {"PLACEMENT": "auto", "TOKENS_PER_SECOND": "30", "PLACEMENT_MOVES_PER_MINUTE": "60"}
    try:
        await fleet.start("a", "b", "c")
        for seed, name in enumerate(NAMES):
            await fleet.register(name, 10 * seed)
        busy = fleet.versions["triage"]

        async def copies() -> dict[str, int]:
            async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
                plan = await AdapterRegistry(redis, "tiny-base").read_plan(StoredPlan())
            return {version: len(engines) for version, engines in plan.engines.items()}

        async def is_on_all() -> bool:
            holders = await fleet.holders(busy)
            await asyncio.gather(*(fleet.ask(busy, next(iter(holders))) for _ in range(20)))
            return (await copies()).get(busy) == 3 and len(holders) == 3

        await fleet.servers[0].until(is_on_all)
        assert await copies() == dict.fromkeys(fleet.versions.values(), 1) | {busy: 3}
    finally:
        await asyncio.gather(*(server.kill() for server in fleet.servers))
