"""A retriever with scripted results."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.document_sketch import Sketch
from pointsman_servicekit.errors import NotFound, PointsmanError
from pointsman_servicekit.grpc_server import serving
from pointsman_servicekit.logs import decision_id, request_id

SERVICE = pb.DESCRIPTOR.services_by_name["Retriever"].full_name


class ScriptedRetriever(retriever_pb2_grpc.RetrieverServicer):
    def __init__(self) -> None:
        self.address = ""
        self.passages = [pb.Passage(document_id="bicycles.md", title="Bicycles", text="Bicycles ride free.", score=0.9)]
        self.relevant = True
        self.version = 1
        self.error: PointsmanError | None = None
        self.asked: list[pb.SearchRequest] = []
        self.reranked: list[pb.RerankRequest] = []
        self.may_score = asyncio.Event()
        self.may_score.set()
        self.ids: list[tuple[str, str]] = []
        """The request id and decision id of each search, as a log line has them."""
        self.documents = Sketch(0, ())
        self.looks = 0
        """How often the sketch of its documents was requested."""
        self.vector_sketch: pb.VectorSketchResponse | None = None

    async def Search(self, request: pb.SearchRequest, context: Any) -> pb.SearchResponse:
        self.asked.append(request)
        self.ids.append((request_id.get(), decision_id.get()))
        if self.error:
            raise self.error
        return pb.SearchResponse(passages=self.passages[: request.top_k], version=self.version, relevant=self.relevant)

    async def Rerank(self, request: pb.RerankRequest, context: Any) -> pb.RerankResponse:
        """Scores documents by how many of the query's words they have."""
        self.reranked.append(request)
        await self.may_score.wait()
        if self.error:
            raise self.error
        words = set(request.query.split())
        return pb.RerankResponse(scores=[len(words.intersection(text.split())) for text in request.documents])

    async def Sketch(self, request: pb.SketchRequest, context: Any) -> pb.SketchResponse:
        self.looks += 1
        if self.error:
            raise self.error
        return pb.SketchResponse(documents=self.documents.documents, smallest=self.documents.smallest)

    async def VectorSketch(self, request: pb.VectorSketchRequest, context: Any) -> pb.VectorSketchResponse:
        if self.error:
            raise self.error
        if self.vector_sketch is None:
            raise NotFound(f"there is no collection '{request.collection}'", code="unknown_collection")
        if request.known_checksum == self.vector_sketch.checksum:
            return pb.VectorSketchResponse(checksum=request.known_checksum, unchanged=True)
        return self.vector_sketch


@asynccontextmanager
async def running_retriever() -> AsyncIterator[ScriptedRetriever]:
    scripted = ScriptedRetriever()

    def register(server: Any) -> None:
        retriever_pb2_grpc.add_RetrieverServicer_to_server(scripted, server)

    async with serving("127.0.0.1:0", [SERVICE], register, grace=0) as server:
        scripted.address = server.address
        yield scripted
