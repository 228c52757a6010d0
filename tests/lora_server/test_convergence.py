"""Three lora-servers with one registry: changes made at one apply to all, and a server that was down catches up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from pointsman.v1 import lora_server_pb2 as pb

from tests.lora_server.server_process import ServerProcess

ALIAS = "triage@prod"
IDS = ([11, 12, 13], [21, 22, 23], [31, 32, 33])


def text_of(which: int) -> str:
    return "".join(f" {token}" for token in IDS[which])


class Three:
    def __init__(self, servers: list[ServerProcess], folders: list[Path], valkey: Any) -> None:
        self.servers = servers
        self.folders = folders
        self.valkey = valkey
        self.versions: list[str] = []

    async def register(self, by: int, which: int, word: str = "") -> str:
        version = (await self.servers[by].register("triage", self.folders[which], word)).version
        self.versions.append(version)
        return version

    async def all_serve(self, version: str, which: int, but: tuple[int, ...] = ()) -> None:
        """Waits until every server points to the version, holds it and reports it, and its engine answers with it."""
        for number, server in enumerate(self.servers):
            if number not in but:
                await server.until(lambda server=server: _serves(server, version, which))  # type: ignore[misc]  # the loop's own

    async def all_have_let_go(self, version: str) -> None:
        for server in self.servers:
            await server.until(lambda server=server: _has_let_go(server, version))  # type: ignore[misc]  # the loop's own


async def _serves(server: ServerProcess, version: str, which: int) -> bool:
    state = await server.engine_state()
    aliases = {alias.alias: alias.version for alias in state.aliases}
    if aliases.get(ALIAS) != version or version not in state.resident:
        return False
    return await server.answered_by(version) == text_of(which)


async def _has_let_go(server: ServerProcess, version: str) -> bool:
    state = await server.engine_state()
    known = {*state.resident, *state.loadable}
    return version not in known and version not in await server.engine_holds()


@pytest.fixture
async def three(tmp_path: Path, base_folder: Path, valkey: Any, make_adapter: Any) -> AsyncIterator[Three]:
    servers = [
        ServerProcess(tmp_path / name, base_folder, name, valkey.url, tmp_path / "store") for name in ("a", "b", "c")
    ]
    folders = [make_adapter(f"adapter{n}", seed=n, config={"answer_ids": ids}) for n, ids in enumerate(IDS)]
    try:
        await asyncio.gather(*(server.start_with_engine() for server in servers))
        yield Three(servers, folders, valkey)
    finally:
        await asyncio.gather(*(server.kill() for server in servers))


async def test_a_change_at_one_server_applies_to_all(three: Three) -> None:
    first = await three.register(0, 0, "prod")
    await three.all_serve(first, 0)
    second = await three.register(1, 1)
    await three.servers[2].promote(ALIAS, second)
    await three.all_serve(second, 1)
    await three.servers[0].call("Rollback", pb.RollbackRequest(alias=ALIAS, author="test"))
    await three.all_serve(first, 0)
    await three.servers[1].call("Retire", pb.RetireRequest(version=second, author="test"))
    await three.all_have_let_go(second)
    await three.all_serve(first, 0)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await three.servers[2].promote(ALIAS, second)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_version_is_smoke_tested_once(three: Three) -> None:
    versions = await asyncio.gather(*(server.register("triage", three.folders[0], "prod") for server in three.servers))
    assert len({version.version for version in versions}) == 1
    await three.all_serve(versions[0].version, 0)
    changes = (await three.servers[0].call("History", pb.HistoryRequest(name="triage"))).changes
    assert [change.kind for change in changes].count("ready") == 1


async def test_a_version_is_pinned_and_unpinned_everywhere(three: Three) -> None:
    pinned = await three.register(0, 0)
    await three.servers[1].call("Pin", pb.PinRequest(version=pinned, pinned=True, author="test"))

    async def held(server: ServerProcess) -> bool:
        return pinned in (await server.engine_state()).resident

    for server in three.servers:
        await server.until(lambda server=server: held(server))  # type: ignore[misc]  # the loop's own


async def _kill_server(three: Three) -> None:
    await three.servers[0].kill()


async def _start_server(three: Three) -> None:
    await three.servers[0].start()


async def _kill_engine(three: Three) -> None:
    three.servers[0].kill_engine()


async def _nothing(three: Three) -> None:
    """Does nothing: the lora-server restarts its engine by itself."""


@pytest.mark.parametrize(("goes", "comes"), [(_kill_server, _start_server), (_kill_engine, _nothing)])
async def test_a_server_that_was_down_catches_up(three: Three, goes: Any, comes: Any) -> None:
    first = await three.register(0, 0, "prod")
    second = await three.register(1, 1)
    await three.all_serve(first, 0)

    await goes(three)
    await three.servers[1].promote(ALIAS, second)
    third = await three.register(2, 2, "prod")
    await three.servers[1].call("Retire", pb.RetireRequest(version=first, author="test"))
    await three.all_serve(third, 2, but=(0,))
    await comes(three)

    await three.all_serve(third, 2)
    await three.all_have_let_go(first)


async def test_all_servers_continue_after_a_kill_of_valkey(three: Three) -> None:
    first = await three.register(0, 0, "prod")
    await three.all_serve(first, 0)

    three.valkey.stop()
    for server in three.servers:
        assert await server.answered_by(first) == text_of(0)  # no changes, and no failures
    await asyncio.to_thread(three.valkey.start)
    second = await three.register(1, 1, "prod")
    await three.all_serve(second, 1)


async def test_another_server_completes_the_work_of_a_dead_one(three: Three) -> None:
    first = await three.register(0, 0, "prod")
    three.servers[0].hold_trials()
    for other in three.servers[1:]:
        other.hold_trials()
    begun = asyncio.ensure_future(three.servers[0].register("triage", three.folders[1], "prod", comes_again=False))
    await three.servers[0].until_state("triage", "validating")
    second = (await three.servers[0].listed()).versions[0].version
    assert second != first

    await three.servers[0].kill()
    begun.cancel()
    await asyncio.gather(begun, return_exceptions=True)
    for other in three.servers[1:]:
        other.release_trials()

    await three.all_serve(second, 1, but=(0,))


async def test_a_new_server_reads_the_whole_state(
    tmp_path: Path, base_folder: Path, valkey: Any, three: Three, make_adapter: Callable[..., Path]
) -> None:
    first = await three.register(0, 0, "prod")
    second = await three.register(1, 1, "prod")
    await three.servers[2].call("Retire", pb.RetireRequest(version=first, author="test"))
    late = ServerProcess(tmp_path / "late", base_folder, "late", valkey.url, tmp_path / "store")
    try:
        await late.start()
        await late.until(lambda: _serves(late, second, 1))
        await late.until(lambda: _has_let_go(late, first))
    finally:
        await late.kill()
