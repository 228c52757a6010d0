"""Fixtures: a real retriever on a free port with real gRPC, FAISS, SQLite and embedding model."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_embedding import MiniLM
from pointsman_embedding.prepare import prepare
from pointsman_retriever import bootstrap
from pointsman_retriever.settings import Settings
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Client:
    """A client with short methods for the calls that tests make most."""

    address: str
    metrics_port: int
    channel: grpc.aio.Channel

    @property
    def stub(self) -> retriever_pb2_grpc.RetrieverStub:
        return retriever_pb2_grpc.RetrieverStub(self.channel)

    async def create(self, name: str = "notes") -> pb.Collection:
        return await self.stub.CreateCollection(pb.CreateCollectionRequest(name=name))

    async def collection(self, name: str = "notes") -> pb.Collection:
        listed = await self.stub.ListCollections(pb.ListCollectionsRequest())
        return next(collection for collection in listed.collections if collection.name == name)

    async def upsert(self, *documents: pb.Document, collection: str = "notes") -> pb.UpsertResponse:
        return await self.stub.Upsert(pb.UpsertRequest(collection=collection, documents=documents))

    async def delete(self, *ids: str, collection: str = "notes") -> pb.DeleteResponse:
        return await self.stub.Delete(pb.DeleteRequest(collection=collection, ids=ids))

    async def search(
        self,
        query: str,
        *,
        collection: str = "notes",
        top_k: int = 0,
        vector: pb.Vector | None = None,
        filter: dict[str, str] | None = None,
        dense_weight: float | None = None,
    ) -> pb.SearchResponse:
        return await self.stub.Search(
            pb.SearchRequest(
                collection=collection,
                query=query,
                top_k=top_k,
                vector=vector,
                filter=filter,
                dense_weight=dense_weight,
            )
        )

    async def found(self, query: str, **how: object) -> list[str]:
        """The ids of the documents found, best first."""
        answer = await self.search(query, **how)  # type: ignore[arg-type]  # the keywords of `search`
        return list(dict.fromkeys(passage.document_id for passage in answer.passages))

    async def metric(self, sample: str) -> float | None:
        """Returns the value of a sample, named with its labels as in the exposition."""
        lines = (await self.exposition()).splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == sample]
        return float(values[0]) if values else None

    async def exposition(self) -> str:
        async with httpx.AsyncClient() as http:
            return (await http.get(f"http://127.0.0.1:{self.metrics_port}/metrics")).text


@pytest.fixture(scope="session")
def model_folder() -> Path:
    folder = PROJECT / ".pointsman" / "models" / "minilm"
    prepare(folder)
    return folder


@pytest.fixture(scope="session")
def minilm(model_folder: Path) -> MiniLM:
    return MiniLM.load(model_folder)


Start = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def start(tmp_path: Path, minilm: MiniLM, model_folder: Path) -> Start:
    """`async with start() as client` runs a retriever over this test's folder; call it again to restart."""

    @asynccontextmanager
    async def start(
        model: bootstrap.EmbeddingModel = minilm, search_threads: int = 2, **further: Any
    ) -> AsyncIterator[Client]:
        settings = Settings(
            listen="127.0.0.1:0",
            metrics_listen="127.0.0.1:0",
            data=tmp_path / "data",
            embedding_model=model_folder,
            search_threads=search_threads,
            **further,
        )
        async with bootstrap.run_service(settings, model) as running, open_channel(running.address) as channel:
            yield Client(running.address, running.metrics_port, channel)

    return start


@pytest.fixture
async def client(start: Start) -> AsyncIterator[Client]:
    """A retriever with one empty collection, "notes"."""
    async with start() as client:
        await client.create()
        yield client


@pytest.fixture
def open_client() -> Callable[[str], AbstractAsyncContextManager[Client]]:
    """Opens a client of a retriever in another process."""

    @asynccontextmanager
    async def open_client(address: str) -> AsyncIterator[Client]:
        async with open_channel(address) as channel:
            yield Client(address, 0, channel)

    return open_client


@pytest.fixture
def refusal() -> Callable[[Awaitable[object]], Awaitable[PointsmanError]]:
    """Awaits a call that must fail and returns its error."""

    async def refusal(call: Awaitable[object]) -> PointsmanError:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        return from_rpc_error(raised.value, "retriever")

    return refusal
