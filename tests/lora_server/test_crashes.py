"""Kills the lora-server, its engine or Valkey while a version is in each of its states.

Afterwards the killed process is restarted, and the version must reach its final state: versions that were to serve are
served, versions that were to be retired are retired, the engine answers with the right version only, and no
acknowledged change is lost.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from pointsman.v1 import lora_server_pb2 as pb

from tests.lora_server.server_process import ServerProcess

ALIAS = "triage@prod"
IDS = {"stable": [11, 12, 13], "new": [21, 22, 23], "other": [31, 32, 33]}
"""By version, the tokens of the engine's answer; all are different."""


def text_of(which: str) -> str:
    return "".join(f" {token}" for token in IDS[which])


@dataclass
class Scene:
    """A lora-server with a serving version and a new one."""

    server: ServerProcess
    valkey: Any
    folders: dict[str, Path]
    versions: dict[str, str] = field(default_factory=dict)
    calls: "list[asyncio.Task[object]]" = field(default_factory=list)

    def begin(self, call: Awaitable[object]) -> None:
        """Starts a call in the background that may be interrupted and is not repeated. The lora-server must complete
        what the call has started anyway.
        """
        self.calls.append(asyncio.ensure_future(call))

    async def version(self, name: str) -> str:
        """Returns the newest version of `name`."""
        return next(each.version for each in (await self.server.listed()).versions if each.name == name)

    async def alias(self) -> str:
        return next((each.version for each in (await self.server.listed()).aliases if each.alias == ALIAS), "")

    async def end_calls(self) -> None:
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*self.calls, return_exceptions=True)


@pytest.fixture
async def scene(tmp_path: Path, base_folder: Path, valkey: Any, make_adapter: Any) -> AsyncIterator[Scene]:
    server = ServerProcess(tmp_path / "server", base_folder, "local", valkey.url, tmp_path / "store")
    folders = {
        name: make_adapter(name, seed=seed, config={"answer_ids": ids}) for seed, (name, ids) in enumerate(IDS.items())
    }
    scene = Scene(server, valkey, folders)
    await server.start_with_engine()
    try:
        scene.versions["stable"] = (await server.register("triage", folders["stable"], "prod")).version
        yield scene
    finally:
        await scene.end_calls()
        await server.kill()


# -- the states: each brings the version to a state and keeps it there until the block ends


@asynccontextmanager
async def registered(scene: Scene) -> AsyncIterator[None]:
    """Brings the version to the state in which it waits for another one's smoke test."""
    scene.server.hold_trials()
    scene.begin(scene.server.register("other", scene.folders["other"], comes_again=False))
    await scene.server.until_state("other", "validating")
    scene.begin(scene.server.register("triage", scene.folders["new"], "prod", comes_again=False))
    await scene.server.until_state("triage", "registered")
    yield
    scene.server.release_trials()


@asynccontextmanager
async def validating(scene: Scene) -> AsyncIterator[None]:
    scene.server.hold_trials()
    scene.begin(scene.server.register("triage", scene.folders["new"], "prod", comes_again=False))
    await scene.server.until_state("triage", "validating")
    yield
    scene.server.release_trials()


@asynccontextmanager
async def loading(scene: Scene) -> AsyncIterator[None]:
    await scene.server.hold("loads")
    scene.begin(scene.server.register("triage", scene.folders["new"], "prod", comes_again=False))
    await scene.server.until_state("triage", "loading")
    yield
    await scene.server.release()


@asynccontextmanager
async def warm(scene: Scene) -> AsyncIterator[None]:
    await scene.server.register("triage", scene.folders["new"])
    await scene.server.until_state("triage", "warm")
    yield


@asynccontextmanager
async def serving(scene: Scene) -> AsyncIterator[None]:
    await scene.server.register("triage", scene.folders["new"], "prod")
    await scene.server.until_state("triage", "serving")
    yield


@asynccontextmanager
async def draining(scene: Scene) -> AsyncIterator[None]:
    """Brings the version to the state in which a request to it is in progress and does not end."""
    await _unneeded(scene)
    await scene.server.hold("answers")
    asking = asyncio.ensure_future(scene.server.answered_by(scene.versions["new"]))
    await scene.server.until(lambda: _asked(scene, scene.versions["new"]))
    scene.begin(scene.server.call("Retire", _retire(scene.versions["new"])))
    await scene.server.until_state("triage", "draining")
    yield
    await scene.server.release()
    with suppress(aiohttp.ClientError):
        await asking


@asynccontextmanager
async def retired(scene: Scene) -> AsyncIterator[None]:
    await _unneeded(scene)
    await scene.server.call("Retire", _retire(scene.versions["new"]))
    await scene.server.until_state("triage", "retired")
    yield


async def _unneeded(scene: Scene) -> None:
    scene.versions["new"] = (await scene.server.register("triage", scene.folders["new"])).version


def _retire(version: str) -> object:
    return pb.RetireRequest(version=version, author="test")


async def _asked(scene: Scene, version: str) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"{scene.server.engine_url}/asked") as answer:
        return f"chat {version}" in await answer.json()


# -- the process that is killed and restarted


async def lora_server(scene: Scene) -> None:
    await scene.server.kill()
    scene.server.release_trials()
    await scene.server.start()


async def engine(scene: Scene) -> None:
    scene.server.kill_engine()


async def valkey(scene: Scene) -> None:
    scene.valkey.stop()
    await asyncio.to_thread(scene.valkey.start)


every_victim = pytest.mark.parametrize("victim", [lora_server, engine, valkey])
Way = Callable[[Scene], Any]
Victim = Callable[[Scene], Awaitable[None]]


@every_victim
@pytest.mark.parametrize("state", [registered, validating, loading, serving])
async def test_a_version_to_be_promoted_is_served(scene: Scene, state: Way, victim: Victim) -> None:
    async with state(scene):
        new = await scene.version("triage")
        await victim(scene)

    scene.versions["new"] = new

    async def serves() -> bool:
        result = await scene.alias() == new and await scene.server.state_of("triage") == "serving"
        return result and await _answers(scene, "new")

    await scene.server.until(serves)
    await _nothing_is_lost(scene)


@every_victim
async def test_a_loaded_version_is_kept_and_its_alias_unchanged(scene: Scene, victim: Victim) -> None:
    async with warm(scene):
        scene.versions["new"] = await scene.version("triage")
        await victim(scene)
    await scene.server.until(lambda: _answers(scene, "stable"))
    await scene.server.until_state("triage", "warm", "ready")  # a killed server does not know what else it held
    assert await scene.alias() == scene.versions["stable"]
    await scene.server.promote(ALIAS, scene.versions["new"])
    assert await _answers(scene, "new")
    await _nothing_is_lost(scene)


@every_victim
@pytest.mark.parametrize("state", [draining, retired])
async def test_a_version_to_be_retired_is_removed(scene: Scene, state: Way, victim: Victim) -> None:
    async with state(scene):
        await victim(scene)

    async def gone() -> bool:
        there = await scene.server.engine_holds()
        return await scene.server.state_of("triage") == "retired" and scene.versions["new"] not in there

    await scene.server.until(gone)
    assert await scene.server.answered_by(scene.versions["new"]) == ""
    await scene.server.until(lambda: _answers(scene, "stable"))
    assert await scene.alias() == scene.versions["stable"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await scene.server.promote(ALIAS, scene.versions["new"])
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await _nothing_is_lost(scene)


async def _answers(scene: Scene, which: str) -> bool:
    return await scene.server.answered_by(scene.versions[which]) == text_of(which)


async def _nothing_is_lost(scene: Scene) -> None:
    """Asserts that all versions exist, none has failed, and the engine answers with the right text for each version
    that it holds.
    """
    listed = await scene.server.listed()
    assert set(scene.versions.values()) <= {version.version for version in listed.versions}
    assert not [version for version in listed.versions if version.last_error]
    names = {version: which for which, version in scene.versions.items()}
    for held in await scene.server.engine_holds():
        which = names.get(held, "other")
        assert held.startswith("other@" if which == "other" else "triage@")
        assert await scene.server.answered_by(held) == text_of(which)
    assert await scene.server.evicted() == 0
