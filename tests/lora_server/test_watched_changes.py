"""Watching changes instead of complete states: a gateway that follows them knows the same as one that does not."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc
from pointsman_gateway.engines.engine_state import Engine
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.lora_server import watch_engine
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_lora_server.domain import Alias, EngineStatus
from pointsman_lora_server.engine_state import EngineStateStore
from pointsman_lora_server.grpc.messages import EngineIdentity, StateMessages
from pointsman_servicekit.grpc_server import serving
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.waiting import until

VERSIONS = [f"triage@{number:012x}" for number in range(12)]
ALIASES = ("triage@prod", "triage@next")
SERVICE = "pointsman.v1.LoraServer"


class WatchedEngine(lora_server_pb2_grpc.LoraServerServicer):
    """The part of a lora-server that gateways watch. `ready` and `aliases` replace the registry."""

    def __init__(self) -> None:
        self.state = EngineStateStore(heartbeat=0.05)
        self.ready: dict[str, float | None] = {}
        self.aliases: dict[str, Alias] = {}
        self.sent: list[pb.EngineState] = []
        self._messages = StateMessages(EngineIdentity("local", "tiny", "http://engine:1", 1024))

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.EngineState]:
        async for state, changed in self.state.watch_changes():
            message = self._messages.get(state, changed if request.changes else None)
            self.sent.append(message)
            yield message

    async def EnsureLoaded(self, request: pb.EnsureLoadedRequest, context: Any) -> pb.EngineState:
        self.state.mark_resident(request.version)
        return self._messages.get(self.state.state, frozenset({request.version}) if request.changes else None)

    def publish(self, *changed: str) -> None:
        self.state.set_desired(tuple(self.aliases.values()), self.ready, frozenset(changed))

    def change_something(self, dice: random.Random) -> None:
        version, alias = dice.choice(VERSIONS), dice.choice(ALIASES)
        match dice.randrange(7):
            case 0 | 1:
                self.ready[version] = dice.choice((None, 600.0, 700.0))
                self.publish(version)
            case 2:
                self.ready.pop(version, None)
                self.publish(version)
            case 3:
                known = self.aliases.get(alias, Alias(alias, version, 0))
                self.aliases[alias] = replace(known, version=version, revision=known.revision + 1)
                self.publish(alias)
            case 4:
                self.state.mark_resident(version)
            case 5:
                self.state.mark_draining(version)
            case _:
                status = dice.choice((EngineStatus.READY, EngineStatus.READY, EngineStatus.DOWN))
                self.state.update(status=status, life=self.state.state.life + 1)


@pytest.fixture
async def watched() -> AsyncIterator[WatchedEngine]:
    engine = WatchedEngine()
    engine.state.update(status=EngineStatus.READY, life=1)
    yield engine
    engine.state.close()


@asynccontextmanager
async def following(watched: WatchedEngine) -> AsyncIterator[Engines]:
    """Yields the engines of a gateway that has received the first state."""
    engines = Engines([Engine("local", "tiny")])
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving("127.0.0.1:0", [SERVICE], lambda s: add(watched, s), grace=0.1)
        )
        watch = watch_engine(
            engines, "local", address=f"127.0.0.1:{server.port}", metrics=EngineMetrics(CollectorRegistry())
        )
        task = asyncio.create_task(watch)
        await until_known(engines, watched)
        yield engines
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        watched.state.close()


def add(watched: WatchedEngine, server: grpc.aio.Server) -> None:
    lora_server_pb2_grpc.add_LoraServerServicer_to_server(watched, server)


async def until_known(engines: Engines, watched: WatchedEngine) -> None:
    """Waits until the gateway's engine state has the same sequence number as the lora-server's."""
    await until(lambda: engines.get("local").sequence == watched.state.state.sequence)


@pytest.mark.parametrize("seed", range(5))
async def test_changes_add_up_to_the_complete_state(watched: WatchedEngine, seed: int) -> None:
    dice = random.Random(seed)
    async with following(watched) as engines:
        for _ in range(60):
            for _ in range(dice.choice((1, 1, 5, 100))):  # a hundred are more than the log remembers
                watched.change_something(dice)
            await until_known(engines, watched)
            known, state = engines.get("local"), watched.state.state
            assert (known.ready, known.resident, known.catalog.versions - known.resident) == (
                state.status is EngineStatus.READY,
                state.resident,
                state.loadable,
            )
            assert {name: alias.version for name, alias in known.catalog.aliases.items()} == {
                name: alias.version for name, alias in watched.aliases.items()
            }
            usable = state.resident | state.loadable
            assert {name: known.catalog.training_seconds.get(name) for name in usable} == {
                name: watched.ready.get(name) for name in usable
            }
    assert sum(message.is_change for message in watched.sent) > len(watched.sent) / 3


async def test_a_change_contains_only_what_has_changed(watched: WatchedEngine) -> None:
    watched.ready = dict.fromkeys(VERSIONS)
    watched.publish(*VERSIONS)
    async with following(watched) as engines:
        watched.aliases[ALIASES[0]] = Alias(ALIASES[0], VERSIONS[0], 1)
        watched.publish(ALIASES[0])
        await until_known(engines, watched)

    first, *later = watched.sent
    assert (first.is_change, len(first.loadable)) == (False, len(VERSIONS))
    assert all(message.is_change and not message.loadable for message in later)
    assert any([alias.alias for alias in message.aliases] == [ALIASES[0]] for message in later)


async def test_an_adapter_that_an_engine_denied_is_resident_again_with_the_next_heartbeat(
    watched: WatchedEngine,
) -> None:
    watched.state.mark_resident(VERSIONS[0])
    async with following(watched) as engines:
        state = engines.state("local")
        state.mark_evicted(VERSIONS[0], state.engine)
        assert VERSIONS[0] not in engines.get("local").resident

        await until(lambda: VERSIONS[0] in engines.get("local").resident)


async def test_a_loaded_adapter_is_usable_before_the_stream_reports_it(watched: WatchedEngine) -> None:
    watched.ready = dict.fromkeys(VERSIONS)
    watched.publish(*VERSIONS)
    async with following(watched) as engines:
        server = engines.state("local").lora_server
        assert server is not None
        for version in VERSIONS:
            await server.ensure(version, 5.0)
            assert version in engines.get("local").resident
        await until_known(engines, watched)
        assert engines.get("local").resident == set(VERSIONS)
