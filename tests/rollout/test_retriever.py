"""The retriever is restarted under load without losing a stream or an acknowledged write."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sized
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.config_folder import IN_POLICY, ConfigFolder
from tests.gateway.doubles.load import Outcome, under_load
from tests.gateway.doubles.process_engine import process_engine
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.gateway.doubles.process_retriever import ProcessRetriever, process_retriever
from tests.gateway.doubles.waiting import until
from tests.grpc_stubs import health_stub

STREAMS = 50
RESTARTS = 2


@dataclass
class Fleet:
    gateway: ProcessGateway
    retriever: ProcessRetriever


@pytest.fixture
async def fleet(tmp_path: Path, config_folder: ConfigFolder, model_folder: Path) -> AsyncIterator[Fleet]:
    """The path `handbook` requires passages; its fallback `safe_start` answers without them."""
    config_folder.tasks["policy"]["fallback"] = ["safe_start"]
    async with (
        process_engine(tmp_path, "a", pieces=10, first=0.05, gap=0.05) as engine,
        process_retriever(tmp_path, model_folder) as retriever,
    ):
        config_folder.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
        settings = {"config": config_folder.write(), "embedding_model": model_folder, "retriever": retriever.address}
        async with process_gateway(tmp_path, **settings) as gateway:
            yield Fleet(gateway, retriever)


@dataclass
class Writer:
    """Writes documents one after another, and records which were acknowledged."""

    address: str
    acknowledged: list[str] = field(default_factory=list)
    stopped: bool = False

    async def keep_writing(self) -> None:
        number = 0
        async with open_channel(self.address) as channel:
            stub = retriever_pb2_grpc.RetrieverStub(channel)
            while not self.stopped:
                number += 1
                document = pb.Document(id=f"note-{number}", title=f"Note {number}", text=f"Note number {number}.")
                try:
                    await stub.Upsert(pb.UpsertRequest(collection="handbook", documents=[document]), timeout=30)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)
                else:
                    self.acknowledged.append(document.id)


def has_more_than(rows: Sized, count: int) -> bool:
    return len(rows) > count


async def health(address: str) -> int:
    async with open_channel(address) as channel:
        answer = await health_stub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        return int(answer.status)


async def held(address: str, ids: list[str]) -> int:
    """Returns how many of the documents exist."""
    async with open_channel(address) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        return int((await stub.Delete(pb.DeleteRequest(collection="handbook", ids=ids), timeout=30)).deleted)


def with_passages(outcome: Outcome) -> bool:
    return outcome.path == "handbook"


async def test_a_restart_of_the_retriever_loses_no_stream_and_no_acknowledged_write(fleet: Fleet) -> None:
    writer = Writer(fleet.retriever.address)
    async with under_load(fleet.gateway.url, IN_POLICY, clients=STREAMS, deadline=60) as load:
        writing = asyncio.create_task(writer.keep_writing())
        await until(lambda: load.streaming >= STREAMS * 0.8, within=60)
        for _ in range(RESTARTS):
            await load.more(STREAMS, with_passages)
            fleet.retriever.signal(signal.SIGTERM)
            notice = await health(fleet.retriever.address)
            assert notice == health_pb2.HealthCheckResponse.NOT_SERVING
            written = len(writer.acknowledged)
            await until(partial(has_more_than, writer.acknowledged, written))  # it keeps serving meanwhile
            assert await fleet.retriever.ended(within=60) == 0
            await fleet.retriever.start()
        await load.more(STREAMS, with_passages)
        writer.stopped = True
        await writing
    assert [outcome for outcome in load.outcomes if not outcome.ok] == []
    assert await held(fleet.retriever.address, writer.acknowledged) == len(writer.acknowledged)
    print(f"{len(load.outcomes)} streams and {len(writer.acknowledged)} acknowledged writes, none lost")
