"""The gRPC door: converts, delegates, and nothing else."""

from typing import Any

import grpc
import numpy as np
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc

from pointsman_retriever.domain import Collection, Document, NamedVector, Passage, Query
from pointsman_retriever.library import Library

SERVICE = "pointsman.v1.Retriever"

Context = grpc.aio.ServicerContext[Any, Any]


class RetrieverDoor(retriever_pb2_grpc.RetrieverServicer):
    def __init__(self, library: Library) -> None:
        self._library = library

    async def CreateCollection(self, request: pb.CreateCollectionRequest, context: Context) -> pb.Collection:
        return _from_collection(await self._library.create(request.name, request.if_missing))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        return pb.ListCollectionsResponse(collections=map(_from_collection, self._library.collections()))

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        await self._library.drop(request.name)
        return pb.DeleteCollectionResponse()

    async def Upsert(self, request: pb.UpsertRequest, context: Context) -> pb.UpsertResponse:
        written = await self._library.upsert(request.collection, [_to_document(one) for one in request.documents])
        return pb.UpsertResponse(documents=written.documents, chunks=written.chunks, version=written.version)

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        deleted = await self._library.delete(request.collection, list(request.ids))
        return pb.DeleteResponse(deleted=deleted.documents, version=deleted.version)

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        answer = await self._library.search(_to_query(request))
        return pb.SearchResponse(
            passages=map(_from_passage, answer.passages), version=answer.version, seconds=answer.seconds
        )


def _to_document(message: pb.Document) -> Document:
    return Document(message.id, message.title, message.text, dict(message.metadata))


def _to_query(request: pb.SearchRequest) -> Query:
    return Query(
        collection=request.collection,
        text=request.query,
        top_k=request.top_k,
        vector=_to_vector(request.vector) if request.HasField("vector") else None,
        filter=dict(request.filter),
        dense_weight=request.dense_weight if request.HasField("dense_weight") else None,
    )


def _to_vector(message: pb.Vector) -> NamedVector:
    return NamedVector(message.fingerprint, np.array(message.values, np.float32))


def _from_collection(collection: Collection) -> pb.Collection:
    return pb.Collection(
        name=collection.name,
        fingerprint=collection.fingerprint,
        dimensions=collection.dimensions,
        documents=collection.documents,
        chunks=collection.chunks,
        version=collection.version,
    )


def _from_passage(passage: Passage) -> pb.Passage:
    return pb.Passage(
        document_id=passage.document_id,
        title=passage.title,
        text=passage.text,
        score=passage.score,
        dense_score=passage.dense_score,
        sparse_score=passage.sparse_score,
        start=passage.start,
        end=passage.end,
        metadata=passage.metadata,
    )
