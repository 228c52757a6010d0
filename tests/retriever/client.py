"""The client of the retriever's tests, and the types of the fixtures that open one."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import grpc
import httpx
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.metrics_page import MAX_AGE_SECONDS


@dataclass(frozen=True)
class Client:
    """A client with short methods for the most frequent calls."""

    address: str
    metrics_port: int
    channel: grpc.aio.Channel

    @property
    def stub(self) -> retriever_pb2_grpc.RetrieverStub:
        return retriever_pb2_grpc.RetrieverStub(self.channel)

    async def create(self, name: str = "notes") -> pb.Collection:
        created: pb.Collection = await self.stub.CreateCollection(pb.CreateCollectionRequest(name=name))
        return created

    async def collection(self, name: str = "notes") -> pb.Collection:
        listed: pb.ListCollectionsResponse = await self.stub.ListCollections(pb.ListCollectionsRequest())
        return next(collection for collection in listed.collections if collection.name == name)

    async def upsert(self, *documents: pb.Document, collection: str = "notes") -> pb.UpsertResponse:
        request = pb.UpsertRequest(collection=collection, documents=documents)
        response: pb.UpsertResponse = await self.stub.Upsert(request)
        return response

    async def delete(self, *ids: str, collection: str = "notes") -> pb.DeleteResponse:
        response: pb.DeleteResponse = await self.stub.Delete(pb.DeleteRequest(collection=collection, ids=ids))
        return response

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
        request = pb.SearchRequest(
            collection=collection,
            query=query,
            top_k=top_k,
            vector=vector,
            filter=filter,
            dense_weight=dense_weight,
        )
        response: pb.SearchResponse = await self.stub.Search(request)
        return response

    async def found(self, query: str, **how: object) -> list[str]:
        """Searches, and returns the ids of the documents found, best first."""
        answer = await self.search(query, **how)  # type: ignore[arg-type]  # the keywords of `search`
        return list(dict.fromkeys(passage.document_id for passage in answer.passages))

    async def present_metric(self, sample: str) -> float | None:
        """Returns the same as `metric`, but from a page that is built after this call."""
        await asyncio.sleep(MAX_AGE_SECONDS)
        return await self.metric(sample)

    async def metric(self, sample: str) -> float | None:
        """Returns the value of a sample, named with its labels as in the exposition, which is up to a second old."""
        lines = (await self.exposition()).splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == sample]
        return float(values[0]) if values else None

    async def exposition(self) -> str:
        async with httpx.AsyncClient() as http:
            return (await http.get(f"http://127.0.0.1:{self.metrics_port}/metrics")).text


Start = Callable[..., AbstractAsyncContextManager[Client]]
"""Runs a retriever, and yields a client; the keywords are settings."""

OpenClient = Callable[[str], AbstractAsyncContextManager[Client]]
"""Opens a client of the retriever at an address."""

Refusal = Callable[[Awaitable[object]], Awaitable[PointsmanError]]
"""Awaits a call that must fail and returns its error."""
