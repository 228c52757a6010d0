"""The only file that knows concrete classes: settings to a running retriever."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Protocol

import faiss
from pointsman.v1 import retriever_pb2_grpc
from pointsman_embedding import MiniLM
from pointsman_servicekit.build_info import tell_build
from pointsman_servicekit.errors import FailedPrecondition
from pointsman_servicekit.event_loop_lag import watching_event_loop
from pointsman_servicekit.grpc_in_flight import InFlight
from pointsman_servicekit.grpc_server import GrpcServer, serving
from pointsman_servicekit.metrics_endpoint import serving_metrics
from pointsman_servicekit.tls import server_tls
from pointsman_servicekit.tracing.exporting import around_servers
from prometheus_client import CollectorRegistry
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer

from pointsman_retriever.allowance import Allowance
from pointsman_retriever.chunking.kinds import ChunkersByKind
from pointsman_retriever.domain import Collection, Quota
from pointsman_retriever.doors.grpc import SERVICE, RetrieverDoor
from pointsman_retriever.encoding import Embedder, Encoder
from pointsman_retriever.facts import Observer
from pointsman_retriever.index import bm25, columns, dense
from pointsman_retriever.index.contents import Contents, Index
from pointsman_retriever.index.sealed import gpu_mirror
from pointsman_retriever.index.terms import Terms
from pointsman_retriever.library import Library
from pointsman_retriever.loaders.apart import ReaderApart
from pointsman_retriever.loaders.loading import Loader
from pointsman_retriever.metering.prometheus import CollectionSizes, Labels, Metrics
from pointsman_retriever.operating import Operations
from pointsman_retriever.rerank.http import Endpoint, HttpReranker
from pointsman_retriever.searching import Searching
from pointsman_retriever.settings import Settings
from pointsman_retriever.shelf import MakeContents
from pointsman_retriever.shelves import Shelves
from pointsman_retriever.store.folders import claimed
from pointsman_retriever.tending import Tender
from pointsman_retriever.workers import Crew, make_crew

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans

log = logging.getLogger(__name__)

SPARE_READERS = 2  # beside one for each thread that searches or ingests
HEALTH_SECONDS = 0.5


class EmbeddingModel(Embedder, Protocol):
    """An embedder, and the tokenizer that measures texts for it."""

    @property
    def tokenizer(self) -> Tokenizer: ...


@dataclass(frozen=True, slots=True)
class Running:
    address: str
    metrics_port: int
    take_leave: Callable[[], Awaitable[None]]
    """From now on gRPC health and /readyz say that requests are not welcome; they are served still."""


def load_model(settings: Settings) -> EmbeddingModel:
    """Raises ModelMissing."""
    return MiniLM.load(settings.embedding_model)


@asynccontextmanager
async def running(settings: Settings, model: EmbeddingModel, spans: "Spans | None" = None) -> AsyncIterator[Running]:
    """The service, for the block's length; it listens once everything is loaded. `spans`: where calls are traced.

    Raises FailedPrecondition for a data folder that is in use, of another release or not writable, OSError for a port
    that is taken, TlsError for files of TLS that cannot be used.
    """
    tls = server_tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    registry, labels = CollectorRegistry(), Labels()
    tell_build(registry, "retriever")
    async with AsyncExitStack() as stack:
        folders = stack.enter_context(claimed(settings.data))
        crew = make_crew(settings.search_threads, settings.ingest_threads)
        readers = settings.search_threads + settings.ingest_threads + SPARE_READERS
        stack.enter_context(threadpool_limits(1))  # a search has its own thread, and takes no other core
        faiss.omp_set_num_threads(1)
        make_vectors = _in_milvus(stack, settings) if settings.milvus else _in_memory()
        shelves = Shelves(folders, readers, contents_maker(make_vectors), crew.writing)
        stack.callback(shelves.close)
        stack.callback(crew.close)
        await asyncio.to_thread(shelves.load)
        opened, leaving = Event(), Event()

        def is_ready() -> bool:
            return opened.is_set() and shelves.is_consistent and not leaving.is_set()

        metrics_port = stack.enter_context(serving_metrics(settings.metrics_listen, registry, is_ready))
        registry.register(CollectionSizes(shelves.sizes, labels))
        observer = _observer(Metrics(registry, labels, model.fingerprint), spans)
        door = await _door(stack, settings, model, shelves, crew, observer)
        server = await stack.enter_async_context(
            serving(
                settings.listen,
                [SERVICE],
                lambda grpc_server: retriever_pb2_grpc.add_RetrieverServicer_to_server(door, grpc_server),
                grace=settings.drain_grace,
                ready=shelves.is_consistent,
                tls=tls,
                interceptors=[*around_servers(spans), InFlight(registry)],
            )
        )
        opened.set()
        await stack.enter_async_context(watching_event_loop(registry))
        await stack.enter_async_context(_telling_health(server, is_ready))

        async def take_leave() -> None:
            leaving.set()
            await server.start_shutdown()

        log.info("serving at %s, metrics at port %d", server.address, metrics_port)
        yield Running(server.address, metrics_port, take_leave)


async def _door(
    stack: AsyncExitStack, settings: Settings, model: EmbeddingModel, shelves: Shelves, crew: Crew, observer: Observer
) -> RetrieverDoor:
    encoder = Encoder(model, ChunkersByKind(model.tokenizer), crew)
    tender, reader = Tender(crew), ReaderApart()
    stack.push_async_callback(tender.close)
    stack.push_async_callback(reader.close)
    quota = Quota(settings.quota_documents, settings.quota_chunks, settings.quota_bytes)
    library = Library(shelves, encoder, observer, crew, tender, Allowance(settings.tenant_collections, quota))
    searching = Searching(shelves, encoder, model.tokenizer, observer, crew, _reranker(stack, settings))
    return RetrieverDoor(library, searching, Loader(reader), Operations(shelves, library, encoder, crew), crew.ingests)


def _observer(metrics: Metrics, spans: "Spans | None") -> Observer:
    if spans is None:
        return metrics
    from pointsman_retriever.metering.traced import TracedObserver  # imports OpenTelemetry

    return TracedObserver(metrics)


MakeVectors = Callable[[Collection], Index]


def contents_maker(make_vectors: MakeVectors | None = None) -> MakeContents:
    terms, make_vectors = Terms(), make_vectors or _in_memory()

    def empty_contents(collection: Collection) -> Contents:
        return Contents(make_vectors(collection), bm25.empty(terms), columns.empty())

    return empty_contents


def _in_memory() -> MakeVectors:
    mirror = gpu_mirror()
    return lambda collection: dense.empty(collection.dimensions, mirror=mirror)


def _in_milvus(stack: AsyncExitStack, settings: Settings) -> MakeVectors:
    """Raises FailedPrecondition where its client is not installed."""
    try:
        from pointsman_retriever.index.milvus import Milvus  # an extra of this distribution
    except ImportError as error:
        raise FailedPrecondition(
            f"POINTSMAN_RETRIEVER_MILVUS is {settings.milvus!r}, and Milvus's client is not installed: "
            "pip install 'pointsman-retriever[milvus]'",
            code="milvus_missing",
        ) from error
    milvus = Milvus(settings.milvus, settings.milvus_token, settings.milvus_prefix)
    stack.callback(milvus.close)
    return milvus.empty


def _reranker(stack: AsyncExitStack, settings: Settings) -> HttpReranker | None:
    if not settings.reranker:
        return None
    reranker = HttpReranker(
        Endpoint(
            settings.reranker,
            settings.reranker_shape,
            settings.reranker_model,
            settings.reranker_key,
            settings.reranker_seconds,
        )
    )
    stack.push_async_callback(reranker.close)
    return reranker


@asynccontextmanager
async def _telling_health(server: GrpcServer, is_consistent: Callable[[], bool]) -> AsyncIterator[None]:
    """Keeps gRPC health at the truth: SERVING means that all collections are loaded and agree with the disk."""

    async def tell() -> None:
        said = is_consistent()
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            if said != is_consistent():
                said = not said
                await server.set_serving(said)

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling
