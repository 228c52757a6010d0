"""Readiness does not depend on single collections. At shutdown, health turns to NOT_SERVING first, and calls in
progress are completed."""

import re
import signal
import sys
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.processes import Process
from tests.grpc_stubs import health_stub

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def retriever(folder: Path, model_folder: Path) -> Process:
    settings = {
        "LISTEN": "127.0.0.1:0",
        "METRICS_LISTEN": "127.0.0.1:0",
        "DATA": str(folder / "data"),
        "EMBEDDING_MODEL": str(model_folder),
        "SHUTDOWN_DELAY": "2",
    }
    environment = {f"POINTSMAN_RETRIEVER_{name}": value for name, value in settings.items()}
    program = [sys.executable, "-m", "pointsman_retriever"]
    return Process(program, environment, folder / "retriever.log", r"serving at (\S+), metrics at port (\d+)")


async def test_a_terminating_retriever_reports_not_serving_and_still_serves(tmp_path: Path, model_folder: Path) -> None:
    leaving = retriever(tmp_path, model_folder)
    address, _ = await leaving.start()
    try:
        async with open_channel(address) as channel:
            stub, health = retriever_pb2_grpc.RetrieverStub(channel), health_stub(channel)
            await stub.CreateCollection(pb.CreateCollectionRequest(name="notes"))
            watch = health.Watch(health_pb2.HealthCheckRequest())
            leaving.signal(signal.SIGTERM)
            async for answer in watch:
                if answer.status == NOT_SERVING:
                    break
            note = pb.Document(id="a", title="Ladder", text="The ladder is in the shed.")
            await stub.Upsert(pb.UpsertRequest(collection="notes", documents=[note]))
        assert await leaving.ended(within=30) == 0
        assert re.search("leaving: not ready any more, serving on for 2 s", leaving.words)
    finally:
        await leaving.kill()
    address, _ = await leaving.start()
    try:
        async with open_channel(address) as channel:
            stub = retriever_pb2_grpc.RetrieverStub(channel)
            (notes,) = (await stub.ListCollections(pb.ListCollectionsRequest())).collections
            assert notes.documents == 1
    finally:
        await leaving.kill()


async def test_a_damaged_collection_does_not_make_the_retriever_unready(tmp_path: Path, model_folder: Path) -> None:
    process = retriever(tmp_path, model_folder)
    address, _ = await process.start()
    try:
        async with open_channel(address) as channel:
            stub = retriever_pb2_grpc.RetrieverStub(channel)
            for name in ("damaged", "intact"):
                await stub.CreateCollection(pb.CreateCollectionRequest(name=name))
                note = pb.Document(id="a", title="Ladder", text="The ladder is in the shed.")
                await stub.Upsert(pb.UpsertRequest(collection=name, documents=[note]))
    finally:
        await process.kill()
    (tmp_path / "data" / "default" / "damaged" / "store.sqlite3").write_bytes(b"not a database")
    address, metrics_port = await process.start()
    try:
        async with open_channel(address) as channel, httpx.AsyncClient() as http:
            stub = retriever_pb2_grpc.RetrieverStub(channel)
            assert (await http.get(f"http://127.0.0.1:{metrics_port}/readyz")).status_code == 200
            health = await health_stub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            found = await stub.Search(pb.SearchRequest(collection="intact", query="ladder", top_k=1))
            assert found.passages[0].document_id == "a"
            with pytest.raises(grpc.aio.AioRpcError, match="damaged"):
                await stub.Search(pb.SearchRequest(collection="damaged", query="ladder", top_k=1))
            metrics = (await http.get(f"http://127.0.0.1:{metrics_port}/metrics")).text
            assert 'pointsman_retriever_inconsistent{collection="damaged"} 1.0' in metrics
    finally:
        await process.kill()
