"""The gRPC door: converts, delegates, and nothing else."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.errors import PointsmanError

from pointsman_retriever.doors import streams
from pointsman_retriever.doors.messages import (
    from_collection,
    from_ingest_event,
    from_status,
    to_collection_id,
    to_quota,
    to_raw_document,
)
from pointsman_retriever.doors.searching import (
    from_answer,
    from_result,
    from_search_settings,
    to_query,
    to_search_settings,
)
from pointsman_retriever.ingesting import IngestStream
from pointsman_retriever.library import CollectionService
from pointsman_retriever.loaders.loading import Loader
from pointsman_retriever.operating import Operations, SnapshotTrailer
from pointsman_retriever.searching import SearchService
from pointsman_retriever.workers import CallLimit

SERVICE = "pointsman.v1.Retriever"

Context = grpc.aio.ServicerContext[Any, Any]


class RetrieverServicer(retriever_pb2_grpc.RetrieverServicer):
    def __init__(
        self,
        library: CollectionService,
        searching: SearchService,
        loader: Loader,
        operations: Operations,
        ingests: CallLimit,
    ) -> None:
        """`ingests` is how many streams of documents may be open at once."""
        self._library = library
        self._searching = searching
        self._loader = loader
        self._operations = operations
        self._ingests = ingests

    async def CreateCollection(self, request: pb.CreateCollectionRequest, context: Context) -> pb.Collection:
        quota = to_quota(request.quota) if request.HasField("quota") else None
        created = await self._library.create(to_collection_id(request.tenant, request.name), request.if_missing, quota)
        return from_collection(created)

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Context) -> pb.ListCollectionsResponse:
        shown = self._library.collections(to_collection_id(request.tenant, "").tenant)
        return pb.ListCollectionsResponse(collections=map(from_status, shown))

    async def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: Context
    ) -> pb.DeleteCollectionResponse:
        await self._library.drop(to_collection_id(request.tenant, request.name))
        return pb.DeleteCollectionResponse()

    async def ConfigureCollection(self, request: pb.ConfigureCollectionRequest, context: Context) -> pb.Collection:
        collection = to_collection_id(request.tenant, request.collection)
        return from_collection(await self._library.configure(collection, to_quota(request.quota)))

    async def Upsert(self, request: pb.UpsertRequest, context: Context) -> pb.UpsertResponse:
        documents = [await self._loader.load_one(to_raw_document(one)) for one in request.documents]
        written = await self._library.upsert(to_collection_id(request.tenant, request.collection), documents)
        return pb.UpsertResponse(
            documents=written.documents, chunks=written.chunks, version=written.version, unchanged=written.unchanged
        )

    async def IngestStream(
        self, requests: AsyncIterator[pb.IngestRequest], context: Context
    ) -> AsyncIterator[pb.IngestResponse]:
        try:
            begin = await streams.read_ingest_begin(requests)
            ingest = IngestStream(
                self._library, self._loader, to_collection_id(begin.tenant, begin.collection), begin.source
            )
            async for event in ingest.run(self._ingests, streams.read_ingest_steps(requests)):
                for response in from_ingest_event(event, begin.together):
                    yield response
        except PointsmanError:
            await streams.discard_requests(requests)
            raise

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        deleted = await self._library.delete(to_collection_id(request.tenant, request.collection), list(request.ids))
        return pb.DeleteResponse(deleted=deleted.documents, version=deleted.version)

    async def Verify(self, request: pb.VerifyRequest, context: Context) -> pb.VerifyResponse:
        verified = await self._operations.verify(to_collection_id(request.tenant, request.collection), request.repair)
        held = verified.collection
        return pb.VerifyResponse(
            problems=verified.problems,
            documents=held.documents,
            chunks=held.chunks,
            version=held.version,
            checksum=f"{held.checksum:016x}",
            seconds=verified.seconds,
            repaired=verified.repaired,
        )

    async def Sketch(self, request: pb.SketchRequest, context: Context) -> pb.SketchResponse:
        version, sketch = await self._operations.sketch(to_collection_id(request.tenant, request.collection))
        return pb.SketchResponse(version=version, documents=sketch.documents, smallest=sketch.smallest)

    async def Snapshot(self, request: pb.SnapshotRequest, context: Context) -> AsyncIterator[pb.SnapshotPart]:
        async for part in self._operations.snapshot(to_collection_id(request.tenant, request.collection)):
            if isinstance(part, SnapshotTrailer):
                yield pb.SnapshotPart(sha256=part.sha256, collection=from_collection(part.collection))
            else:
                yield pb.SnapshotPart(data=part)

    async def Restore(self, requests: AsyncIterator[pb.RestoreRequest], context: Context) -> pb.Collection:
        try:
            begin = await streams.read_restore_begin(requests)
            collection = to_collection_id(begin.tenant, begin.collection)
            restored = await self._operations.restore(collection, begin.replace, streams.read_restore_steps(requests))
        except PointsmanError:
            await streams.discard_requests(requests)
            raise
        return from_collection(restored)

    async def Reembed(self, request: pb.ReembedRequest, context: Context) -> AsyncIterator[pb.ReembedProgress]:
        async for progress in self._operations.reembed(to_collection_id(request.tenant, request.collection)):
            yield pb.ReembedProgress(
                documents=progress.documents,
                total=progress.total,
                collection=from_collection(progress.collection) if progress.collection else None,
            )

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        query = to_query(request)
        return from_answer(await self._searching.search(query), query.wishes)

    async def SearchBatch(self, request: pb.SearchBatchRequest, context: Context) -> pb.SearchBatchResponse:
        queries = [to_query(search) for search in request.searches]
        results = await self._searching.search_all(queries)
        return pb.SearchBatchResponse(
            searches=[from_result(result, query.wishes) for result, query in zip(results, queries, strict=True)]
        )

    async def ConfigureSearch(self, request: pb.ConfigureSearchRequest, context: Context) -> pb.SearchSettings:
        collection = to_collection_id(request.tenant, request.collection)
        return from_search_settings(await self._searching.configure(collection, to_search_settings(request.settings)))
