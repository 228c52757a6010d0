"""The retriever as the strategies see it, over gRPC."""

import asyncio

import grpc
from pointsman.v1 import retriever_pb2, retriever_pb2_grpc
from pointsman_servicekit.document_sketches import Sketch
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.logs import correlation_metadata

from pointsman_gateway.domain import Passage, Vector
from pointsman_gateway.prompts.strategies import Found

LONGEST = 5.0
"""Seconds a search may take at most, also for a request without a deadline."""


class RetrieverClient:
    """Implements `Search`, and freshness's `Collections`."""

    def __init__(self, channel: grpc.aio.Channel, fingerprint: str) -> None:
        """`fingerprint` names the embedding model that makes the gateway's vectors."""
        self._stub = retriever_pb2_grpc.RetrieverStub(channel)
        self._fingerprint = fingerprint

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        request = retriever_pb2.SearchRequest(collection=collection, query=query[:16384], top_k=top_k)
        if vector is not None:
            request.vector.fingerprint = self._fingerprint
            request.vector.values.extend(vector.tolist())
        timeout = min(LONGEST, deadline - asyncio.get_running_loop().time())
        try:
            answer = await self._stub.Search(request, timeout=timeout, metadata=correlation_metadata())
        except grpc.aio.AioRpcError as error:
            told = from_rpc_error(error, "retriever")
            # Whatever is wrong there (no such collection, another embedding model), it is not the client's request.
            failure = Unavailable(
                f"collection '{collection}' cannot be searched: {told.message}", code=told.code, retry_after=2.0
            )
            failure.fault = "retriever"
            raise failure from error
        passages = tuple(Passage(p.document_id, p.title, p.text, p.score, p.start, p.tokens) for p in answer.passages)
        relevant = answer.relevant if answer.HasField("relevant") else bool(passages)
        return Found(passages, relevant, answer.version)

    async def sketch(self, collection: str) -> Sketch:
        """Raises PointsmanError."""
        try:
            told = await self._stub.Sketch(retriever_pb2.SketchRequest(collection=collection), timeout=LONGEST)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "retriever") from error
        return Sketch(told.documents, tuple(told.smallest))
