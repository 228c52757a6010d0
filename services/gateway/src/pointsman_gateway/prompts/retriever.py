"""The client of the retriever service, and a wrapper that stops searching for a while after failures."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import grpc
from pointsman.v1 import retriever_pb2, retriever_pb2_grpc
from pointsman_servicekit.document_sketch import Sketch
from pointsman_servicekit.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, Unavailable
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.logs import correlation_metadata

from pointsman_gateway.breaker import Breaker
from pointsman_gateway.config.engine_config import BreakerConfig
from pointsman_gateway.domain import Passage, Vector
from pointsman_gateway.domain.outcome import UNFORESEEN, Fault
from pointsman_gateway.domain.vector_sketch import VectorSketch
from pointsman_gateway.extensions import Found, Search

MAX_SEARCH_SECONDS = 5.0
"""Maximum timeout of a call of the retriever for a request; the request's deadline may shorten it."""

MAX_SKETCH_SECONDS = 30.0
"""Timeout of reading a sample of vectors from the retriever; no request waits for it."""

log = logging.getLogger(__name__)

SEARCH_TIMEOUT_SECONDS = 2.0
"""Seconds after which `ProtectedSearch` aborts a search, and its breaker counts a failure."""

BREAKER = BreakerConfig(consecutive_failures=3, open_duration_seconds=2.0, max_open_duration_seconds=15.0)

AWAY = "retriever_unavailable"
LATE = "deadline_exceeded"

MAX_CODES = 100
"""Maximum number of different error codes of the retriever that become outcomes of requests. It bounds the metrics'
series, since outcomes are label values."""
MAX_CODE_CHARACTERS = 64


URL_KEY = "url"
"""The key in a document's metadata under which the document's URL is stored."""


def _to_passage(found: retriever_pb2.Passage) -> Passage:
    url = found.metadata.get(URL_KEY, "")
    if not url and found.document_id.startswith(("https://", "http://")):
        url = found.document_id
    return Passage(
        found.document_id, found.title, found.text, found.score, found.start, found.tokens, found.end, found.heading,
        url,
    )  # fmt: skip


class RetrieverClient:
    """Calls the retriever service: searches collections, reads samples of them, and reranks documents.

    Implements `Search`, `Collections`, `SketchSource` and `DocumentScorer`. Queries are cut after 16,384 characters.
    """

    def __init__(self, channel: grpc.aio.Channel, fingerprint: Callable[[], str]) -> None:
        """Takes `fingerprint`, a function that returns the fingerprint of the model which computes the vectors of
        queries. The function is called only for queries with a vector.
        """
        self._stub = retriever_pb2_grpc.RetrieverStub(channel)
        self._fingerprint = fingerprint
        self._codes = {AWAY, LATE}

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        request = retriever_pb2.SearchRequest(collection=collection, query=query[:16384], top_k=top_k)
        if vector is not None:
            request.vector.fingerprint = self._fingerprint()
            request.vector.values.extend(vector.tolist())
        timeout = min(MAX_SEARCH_SECONDS, deadline - asyncio.get_running_loop().time())
        try:
            answer = await self._stub.Search(request, timeout=timeout, metadata=correlation_metadata())
        except grpc.aio.AioRpcError as error:
            cause = from_rpc_error(error, "retriever")
            # The client's request is not at fault: the collection does not exist, or has another embedding model.
            message = f"collection '{collection}' cannot be searched: {cause.message}"
            failure = Unavailable(message, code=self._bounded(cause.code), retry_after=2.0)
            failure.fault = Fault.RETRIEVER.value
            raise failure from error
        passages = tuple(map(_to_passage, answer.passages))
        relevant = answer.relevant if answer.HasField("relevant") else bool(passages)
        return Found(passages, relevant, answer.version)

    async def score(self, query: str, documents: Sequence[str], deadline: float) -> Sequence[float]:
        request = retriever_pb2.RerankRequest(query=query, documents=documents)
        timeout = max(0.0, deadline - asyncio.get_running_loop().time())
        try:
            answer = await self._stub.Rerank(request, timeout=timeout, metadata=correlation_metadata())
        except grpc.aio.AioRpcError as error:
            cause = from_rpc_error(error, "retriever")
            if isinstance(cause, InvalidArgument | ResourceExhausted):
                raise cause from error
            failure = Unavailable(
                f"the documents cannot be reranked: {cause.message}", code=self._bounded(cause.code), retry_after=2.0
            )
            failure.fault = Fault.RETRIEVER.value
            raise failure from error
        scores: Sequence[float] = answer.scores
        return scores

    def _bounded(self, code: str) -> str:
        """Returns an error code of the retriever, or "unforeseen" if it is too long or one too many, since codes label
        metrics.

        At most `MAX_CODES` different codes are returned.
        """
        if code not in self._codes:
            if len(self._codes) >= MAX_CODES or len(code) > MAX_CODE_CHARACTERS:
                return UNFORESEEN
            self._codes.add(code)
        return code

    async def sketch(self, collection: str) -> Sketch:
        """Returns a small sample of the hashes of a collection's documents, to estimate later how many have changed.

        Raises the retriever's error, such as NotFound, or DeadlineExceeded or Unavailable if it does not answer (see
        `from_rpc_error`).
        """
        try:
            answer = await self._stub.Sketch(
                retriever_pb2.SketchRequest(collection=collection), timeout=MAX_SEARCH_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "retriever") from error
        return Sketch(answer.documents, tuple(answer.smallest))

    async def vector_sketch(self, collection: str, known_checksum: str) -> VectorSketch | None:
        """Returns a sample of a collection's vectors, or None if the collection's vectors have not changed.

        `known_checksum` is the checksum in an earlier sample; empty if there is none. Raises the retriever's error,
        such as NotFound, or DeadlineExceeded or Unavailable if it does not answer.
        """
        request = retriever_pb2.VectorSketchRequest(collection=collection, known_checksum=known_checksum)
        try:
            answer = await self._stub.VectorSketch(request, timeout=MAX_SKETCH_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "retriever") from error
        if answer.unchanged:
            return None
        return VectorSketch(collection, answer.checksum, answer.fingerprint, answer.dimensions, answer.vectors)


class ProtectedSearch:
    """Wraps a search in a circuit breaker, so that requests do not wait for a retriever that has just failed.

    Implements `Search`.
    """

    def __init__(
        self, inner: Search, breaker: Breaker, terms: BreakerConfig = BREAKER, timeout: float = SEARCH_TIMEOUT_SECONDS
    ) -> None:
        self._inner = inner
        self._breaker = breaker
        self._terms = terms
        self._timeout = timeout

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        """Returns up to `top_k` passages for `query`, whose embedding is `vector` (None: not known).

        Raises Unavailable if the search fails or takes longer than the constructor's `timeout` in seconds, and at once
        while the breaker is open. Raises DeadlineExceeded if the request's `deadline`, in seconds on the event loop's
        clock, comes first.
        """
        if not self._breaker.may_enter():
            wait = max(1.0, self._breaker.cooldown_left)
            raise Unavailable("the retriever has failed and is not asked for a while", code=AWAY, retry_after=wait)
        limit = min(deadline, asyncio.get_running_loop().time() + self._timeout)
        entry = self._breaker.enter()
        try:
            found = await self._inner.search(collection, query, vector, top_k, limit)
        except Unavailable as error:
            self._failed(entry, error, own_time=limit < deadline)
            if error.code == LATE and limit == deadline:
                raise DeadlineExceeded("the request's time ran out", code="deadline_exceeded") from error
            raise
        except BaseException:
            self._breaker.undecided(entry)
            raise
        if self._breaker.succeeded(entry, self._terms):
            log.info("the retriever answers again")
        return found

    def _failed(self, entry: int, error: Unavailable, *, own_time: bool) -> None:
        if error.code == AWAY or (error.code == LATE and own_time):
            if self._breaker.failed(entry, self._terms):
                log.warning("the retriever is not asked for %.0f s: %s", self._breaker.cooldown_left, error)
        else:
            self._breaker.undecided(entry)  # it has answered: the collection or the request is at fault
