"""The gRPC servicer: converts messages, calls the services, and checks the order of streamed messages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.errors import InvalidArgument, PointsmanError
from pointsman_servicekit.service_tokens import method_roles

from pointsman_retriever.collections.ingest import IngestStream
from pointsman_retriever.collections.moving import Mover
from pointsman_retriever.collections.operations import Operations, SnapshotTrailer
from pointsman_retriever.collections.reranking import RerankService
from pointsman_retriever.collections.search import SearchService
from pointsman_retriever.collections.service import CollectionService
from pointsman_retriever.concurrency import CallLimit
from pointsman_retriever.domain import IngestEnd, RawDocument
from pointsman_retriever.grpc.messages import (
    from_answer,
    from_collection,
    from_ingest_event,
    from_result,
    from_search_settings,
    from_vector_sketch,
    to_collection_id,
    to_query,
    to_quota,
    to_raw_document,
    to_search_settings,
)
from pointsman_retriever.loaders.loader import Loader

SERVICE = "pointsman.v1.Retriever"

METHOD_ROLES = method_roles(
    SERVICE,
    read=["ListCollections", "Rerank", "Search", "SearchBatch", "Sketch", "VectorSketch"],
    write=["Upsert", "Delete", "Ingest", "Verify"],
    admin=[
        "CreateCollection",
        "DeleteCollection",
        "ConfigureCollection",
        "ConfigureSearch",
        "Snapshot",
        "Restore",
        "Reembed",
        "Move",
    ],
)
"""The role that a caller needs for each gRPC method, by the method's path ("/pointsman.v1.Retriever/Search").

Verify needs WRITE because it may rebuild indexes, and Snapshot ADMIN because it exports a whole collection.
"""

DISCARD_SECONDS = 10.0

Context = grpc.aio.ServicerContext[Any, Any]


class RetrieverServicer(retriever_pb2_grpc.RetrieverServicer):
    def __init__(
        self,
        service: CollectionService,
        search_service: SearchService,
        reranking: RerankService,
        loader: Loader,
        operations: Operations,
        *,
        mover: Mover,
        ingests: CallLimit,
    ) -> None:
        """Takes the services that the gRPC methods call; `ingests` limits the number of simultaneous ingest streams."""
        self._service = service
        self._search_service = search_service
        self._reranking = reranking
        self._loader = loader
        self._operations = operations
        self._mover = mover
        self._ingests = ingests

    async def CreateCollection(self, request: pb.CreateCollectionRequest, context: Context) -> pb.Collection:
        quota = to_quota(request.quota) if request.HasField("quota") else None
        collection_id = to_collection_id(request.tenant, request.name)
        created = await self._service.create(collection_id, request.if_missing, quota, request.store)
        return from_collection(created)

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        tenant = None if request.all_tenants else to_collection_id(request.tenant, "").tenant
        statuses = await self._service.list_collections(tenant)
        return pb.ListCollectionsResponse(
            collections=[from_collection(status.info, status.problem) for status in statuses]
        )

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        await self._service.drop(to_collection_id(request.tenant, request.name))
        return pb.DeleteCollectionResponse()

    async def ConfigureCollection(self, request: pb.ConfigureCollectionRequest, context: Context) -> pb.Collection:
        collection_id = to_collection_id(request.tenant, request.collection)
        return from_collection(await self._service.set_quota(collection_id, to_quota(request.quota)))

    async def Upsert(self, request: pb.UpsertRequest, context: Context) -> pb.UpsertResponse:
        documents = [await self._loader.load_one(to_raw_document(one)) for one in request.documents]
        result = await self._service.upsert(to_collection_id(request.tenant, request.collection), documents)
        return pb.UpsertResponse(
            documents=result.documents, chunks=result.chunks, version=result.version, unchanged=result.unchanged
        )

    async def Ingest(
        self, requests: AsyncIterator[pb.IngestRequest], context: Context
    ) -> AsyncIterator[pb.IngestResponse]:
        try:
            begin = await read_begin(requests, "an ingest")
            collection_id = to_collection_id(begin.tenant, begin.collection)
            stream = IngestStream(self._service, self._loader, collection_id, begin.source)
            async for event in stream.run(self._ingests, read_ingest_steps(requests)):
                for response in from_ingest_event(event, begin.together):
                    yield response
        except PointsmanError:
            await discard_requests(requests)
            raise

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        collection_id = to_collection_id(request.tenant, request.collection)
        deleted = await self._service.delete(collection_id, list(request.ids))
        return pb.DeleteResponse(deleted=deleted.documents, version=deleted.version)

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> pb.VerifyResponse:
        collection_id = to_collection_id(request.tenant, request.collection)
        verified = await self._operations.verify(collection_id, request.repair)
        info = verified.info
        return pb.VerifyResponse(
            problems=verified.problems,
            documents=info.documents,
            chunks=info.chunks,
            version=info.version,
            checksum=f"{info.checksum:016x}",
            seconds=verified.seconds,
            repaired=verified.repaired,
        )

    async def Sketch(self, request: pb.SketchRequest, context: Context) -> pb.SketchResponse:
        version, sketch = await self._operations.sketch(to_collection_id(request.tenant, request.collection))
        return pb.SketchResponse(version=version, documents=sketch.documents, smallest=sketch.smallest)

    async def VectorSketch(self, request: pb.VectorSketchRequest, context: Context) -> pb.VectorSketchResponse:
        collection_id = to_collection_id(request.tenant, request.collection)
        sketch = await self._operations.vector_sketch(collection_id, request.known_checksum)
        if sketch is None:
            return pb.VectorSketchResponse(checksum=request.known_checksum, unchanged=True)
        return from_vector_sketch(sketch)

    async def Snapshot(self, request: pb.SnapshotRequest, context: Context) -> AsyncIterator[pb.SnapshotPart]:
        async for part in self._operations.snapshot(to_collection_id(request.tenant, request.collection)):
            if isinstance(part, SnapshotTrailer):
                yield pb.SnapshotPart(sha256=part.sha256, collection=from_collection(part.info))
            else:
                yield pb.SnapshotPart(data=part)

    async def Restore(self, requests: AsyncIterator[pb.RestoreRequest], context: Context) -> pb.Collection:
        try:
            begin = await read_begin(requests, "a restore")
            collection_id = to_collection_id(begin.tenant, begin.collection)
            restored = await self._operations.restore(collection_id, begin.replace, read_restore_steps(requests))
        except PointsmanError:
            await discard_requests(requests)
            raise
        return from_collection(restored)

    async def Reembed(self, request: pb.ReembedRequest, context: Context) -> AsyncIterator[pb.ReembedProgress]:
        async for progress in self._operations.reembed(to_collection_id(request.tenant, request.collection)):
            yield pb.ReembedProgress(
                documents=progress.documents,
                total=progress.total,
                collection=from_collection(progress.info) if progress.info else None,
            )

    async def Move(self, request: pb.MoveRequest, context: Context) -> AsyncIterator[pb.MoveProgress]:
        async for progress in self._mover.move(to_collection_id(request.tenant, request.collection), request.store):
            yield pb.MoveProgress(
                documents=progress.documents,
                total=progress.total,
                collection=from_collection(progress.info) if progress.info else None,
            )

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        query = to_query(request)
        return from_answer(await self._search_service.search(query), query.options)

    async def SearchBatch(self, request: pb.SearchBatchRequest, context: Context) -> pb.SearchBatchResponse:
        queries = [to_query(search) for search in request.searches]
        results = await self._search_service.search_all(queries)
        return pb.SearchBatchResponse(
            searches=[from_result(result, query.options) for result, query in zip(results, queries, strict=True)]
        )

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        return pb.RerankResponse(scores=await self._reranking.rerank(request.query, request.documents))

    async def ConfigureSearch(self, request: pb.ConfigureSearchRequest, context: Context) -> pb.SearchSettings:
        collection_id = to_collection_id(request.tenant, request.collection)
        settings = await self._search_service.configure(collection_id, to_search_settings(request.settings))
        return from_search_settings(settings)


async def discard_requests(requests: AsyncIterator[Any]) -> None:
    """Reads and drops the messages that a client still sends after its call has failed, for at most `DISCARD_SECONDS`.

    If the call ended while the client is still sending, the client would not receive the error.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for _ in requests:
                pass


async def read_begin(requests: AsyncIterator[Any], what: str) -> Any:
    """Returns the message in the field `begin` of a stream's first message.

    Raises InvalidArgument ("steps_out_of_order") if the field is not set or the stream is empty; `what` is the subject
    of the error's sentence, such as "an ingest".
    """
    async for request in requests:
        if request.HasField("begin"):
            return request.begin
        break
    raise _out_of_order(f"{what} starts with `begin`")


async def read_ingest_steps(requests: AsyncIterator[pb.IngestRequest]) -> AsyncIterator[RawDocument | IngestEnd]:
    """Yields the documents of an ingest and then its IngestEnd, if the client sends one.

    Raises InvalidArgument ("steps_out_of_order") for any other message.
    """
    async for request in requests:
        if request.HasField("document"):
            yield to_raw_document(request.document)
        elif request.HasField("documents"):
            for document in request.documents.documents:
                yield to_raw_document(document)
        elif request.HasField("end"):
            yield IngestEnd(request.end.remove_missing)
            return
        else:
            raise _out_of_order("after `begin`, an ingest consists of `document`s, then `end`")


async def read_restore_steps(requests: AsyncIterator[pb.RestoreRequest]) -> AsyncIterator[bytes | str]:
    """Yields the parts of a snapshot file, then the SHA-256 (str) that the client sends for it.

    Raises InvalidArgument ("steps_out_of_order") for any other message.
    """
    async for request in requests:
        if request.HasField("data"):
            yield request.data
        elif request.HasField("sha256"):
            yield request.sha256
            return
        else:
            raise _out_of_order("after `begin`, a restore consists of `data`, then `sha256`")


def _out_of_order(what: str) -> InvalidArgument:
    return InvalidArgument(f"the stream's messages are out of order: {what}", code="steps_out_of_order", param="step")
