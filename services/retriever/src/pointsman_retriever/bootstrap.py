"""Builds a running retriever from its settings; chooses the implementation of each interface."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

from pointsman.v1 import retriever_pb2_grpc
from pointsman_embedding import Encoder, Prefixed, open_encoder, read_encoder_config
from pointsman_servicekit.calls_in_flight import CallsInFlight
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.event_loop_lag import measuring_event_loop_lag
from pointsman_servicekit.extensions import load_extension
from pointsman_servicekit.grpc_server import serving
from pointsman_servicekit.metrics import export_build_info, serving_metrics
from pointsman_servicekit.service_tokens import open_token_gate
from pointsman_servicekit.tls import server_tls
from pointsman_servicekit.tracing.exporting import tracing_server_interceptors
from prometheus_client import CollectorRegistry
from threadpoolctl import threadpool_limits

from pointsman_retriever.chunking.prose import WINDOW_TOKENS
from pointsman_retriever.chunking.sandboxed import SandboxedChunker, chunking_setup
from pointsman_retriever.collections.collection import SnapshotFactory
from pointsman_retriever.collections.external import ExternalCollection, ExternalCollections
from pointsman_retriever.collections.moving import Mover
from pointsman_retriever.collections.operations import Operations
from pointsman_retriever.collections.registry import CollectionRegistry
from pointsman_retriever.collections.reranking import RerankService
from pointsman_retriever.collections.search import SearchService
from pointsman_retriever.collections.service import CollectionService
from pointsman_retriever.collections.shared import SharedCollections
from pointsman_retriever.collections.writer import Compactor
from pointsman_retriever.concurrency import ThreadPools, make_thread_pools
from pointsman_retriever.domain import CollectionInfo, Quota
from pointsman_retriever.encoder import DocumentEncoder
from pointsman_retriever.events import Observer, TracedObserver
from pointsman_retriever.external import stores
from pointsman_retriever.grpc.servicer import METHOD_ROLES, SERVICE, RetrieverServicer
from pointsman_retriever.index import vector_stores
from pointsman_retriever.index.bm25 import empty_word_index
from pointsman_retriever.index.metadata_index import empty_metadata_index
from pointsman_retriever.index.snapshot import IndexSnapshot
from pointsman_retriever.index.term_analyzer import TermAnalyzer
from pointsman_retriever.index.vector_stores import VectorStore, VectorStoreOptions
from pointsman_retriever.limits import TenantLimits
from pointsman_retriever.loaders.loader import Loader
from pointsman_retriever.metrics import BoundedLabels, CollectionSizes, Metrics
from pointsman_retriever.rerank import rerankers
from pointsman_retriever.rerank.rerankers import Reranker, RerankerOptions
from pointsman_retriever.sandbox import Sandbox
from pointsman_retriever.settings import Settings
from pointsman_retriever.shared import stores as shared_stores
from pointsman_retriever.shared.stores import SharedStoreOptions
from pointsman_retriever.store.data_folder import claim_data_folder

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans

log = logging.getLogger(__name__)

EXTRA_READERS = 2  # SQLite connections of a collection, in addition to one for each search and ingest thread


@dataclass(frozen=True, slots=True)
class RunningService:
    address: str
    metrics_port: int
    announce_shutdown: Callable[[], Awaitable[None]]
    """Makes the gRPC health service report NOT_SERVING, and /readyz return 503. Calls are still answered."""


def load_model(settings: Settings) -> Encoder:
    """Loads the embedding model that the YAML file `settings.embedding_config` names.

    Loads MiniLM, the default model, if no file is set or the file names no model. Raises FailedPrecondition if the file
    cannot be read or the model that it names cannot be used, Unavailable if the endpoint of a remote model fails, and
    ModelMissing if MiniLM's folder is needed (`open_encoder`) and incomplete or damaged.
    """
    config = read_encoder_config(settings.embedding_config) if settings.embedding_config else None
    return open_encoder(config, settings.embedding_model)


@asynccontextmanager
async def run_service(
    settings: Settings, model: Encoder, spans: "Spans | None" = None
) -> AsyncIterator[RunningService]:
    """Runs the service for the length of the block; it listens when all collections are loaded.

    The service becomes ready even if a collection is damaged: searches and writes of the damaged collection fail, and
    the metric `pointsman_retriever_inconsistent` shows it. `spans` enables tracing. Raises what `claim_data_folder`
    raises; FailedPrecondition if an extension or an external collection is not valid; OSError if a port is taken;
    TlsError and TokenFileError for files of TLS and tokens; and what a vector store's client raises if the store cannot
    be reached.
    """
    tls = server_tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    gate = open_token_gate(settings.tokens, METHOD_ROLES, settings.listen, "POINTSMAN_RETRIEVER_TOKENS")
    metrics, labels = CollectorRegistry(), BoundedLabels()
    export_build_info(metrics, "retriever")
    async with AsyncExitStack() as stack:
        data_folder = stack.enter_context(claim_data_folder(settings.data))
        pools = make_thread_pools(settings.search_threads, settings.ingest_threads)
        readers = settings.search_threads + settings.ingest_threads + EXTRA_READERS
        stack.enter_context(threadpool_limits(1))  # a search runs in its own thread and uses no other core
        external = _load_external(stack, settings, model.fingerprint)
        counted = Metrics(metrics, labels, model.fingerprint)
        vector_store = _load_vector_store(stack, settings, data_folder.id(), counted.count_index_search)
        shared = _load_shared(stack, settings)
        registry = CollectionRegistry(
            data_folder,
            readers,
            snapshot_factory(vector_store),
            pools.write,
            external=external,
            shared=shared,
            shared_pool=pools.shared,
        )
        stack.callback(registry.close)
        stack.callback(pools.close)
        await asyncio.to_thread(registry.load)
        await _find_shared(shared)
        await registry.settle_moves()
        opened, closing = Event(), Event()

        def is_ready() -> bool:
            return opened.is_set() and not closing.is_set()

        metrics_port = stack.enter_context(serving_metrics(settings.metrics_listen, metrics, is_ready))
        metrics.register(CollectionSizes(registry.sizes, labels))
        observer = _make_observer(counted, spans)
        servicer = await _build_servicer(stack, settings, model, registry, pools, observer)
        server = await stack.enter_async_context(
            serving(
                settings.listen,
                [SERVICE],
                lambda grpc_server: retriever_pb2_grpc.add_RetrieverServicer_to_server(servicer, grpc_server),
                grace=settings.shutdown_timeout,
                tls=tls,
                interceptors=[*tracing_server_interceptors(spans), CallsInFlight(metrics)],
                gate=gate,
            )
        )
        opened.set()
        await stack.enter_async_context(measuring_event_loop_lag(metrics))

        async def announce_shutdown() -> None:
            closing.set()
            await server.start_shutdown()

        log.info("serving at %s, metrics at port %d", server.address, metrics_port)
        yield RunningService(server.address, metrics_port, announce_shutdown)


async def _build_servicer(
    stack: AsyncExitStack,
    settings: Settings,
    model: Encoder,
    registry: CollectionRegistry,
    pools: ThreadPools,
    observer: Observer,
) -> RetrieverServicer:
    # Two processes, so that a file that takes long to read does not keep texts from being chunked.
    window = to_window(model)
    reader, splitter = Sandbox(), Sandbox(setup=chunking_setup(model.tokenizer, window))
    passages, queries = Prefixed(model, model.passage_prefix), Prefixed(model, model.query_prefix)
    encoder = DocumentEncoder(passages, queries, SandboxedChunker(splitter, window), pools)
    compactor = Compactor(pools)
    for resource in (splitter, reader, compactor):
        stack.push_async_callback(resource.close)
    quota = Quota(settings.quota_documents, settings.quota_chunks, settings.quota_bytes)
    tenant_limits = TenantLimits(settings.tenant_collections, quota)
    service = CollectionService(registry, encoder, observer, pools, compactor, tenant_limits)
    reranking = RerankService(_load_reranker(stack, settings), pools.reranks)
    search_service = SearchService(registry, encoder, model.tokenizer, observer, pools, reranking)
    operations = Operations(registry, service, encoder, pools)
    mover = Mover(registry, service, pools)
    loader = Loader(reader, settings.max_bad_lines)
    return RetrieverServicer(service, search_service, reranking, loader, operations, mover=mover, ingests=pools.ingests)


def to_window(model: Encoder) -> int:
    """Returns the maximum number of tokens that a chunk may have, including its titles and the model's special tokens.

    The maximum is the number of tokens that the model reads, less the tokens of the model's prefix for passages, but
    never more than `WINDOW_TOKENS`.
    """
    prefix = model.tokenizer.encode(model.passage_prefix, add_special_tokens=False)
    return min(WINDOW_TOKENS, model.max_tokens - len(prefix.ids))


def _make_observer(metrics: Metrics, spans: "Spans | None") -> Observer:
    if spans is None:
        return metrics
    from pointsman_servicekit.tracing.spans import current_span  # imports OpenTelemetry

    return TracedObserver(metrics, lambda attributes: current_span().set_attributes(attributes))


def snapshot_factory(vector_store: VectorStore) -> SnapshotFactory:
    """Returns a function that makes, for a collection, empty indexes of vectors (in `vector_store`), words and
    metadata.
    """
    analyzer = TermAnalyzer()

    def make_snapshot(collection: CollectionInfo) -> IndexSnapshot:
        return IndexSnapshot(vector_store.empty_index(collection), empty_word_index(analyzer), empty_metadata_index())

    return make_snapshot


def _load_vector_store(
    stack: AsyncExitStack, settings: Settings, owner: str, count_search: Callable[[str], None]
) -> VectorStore:
    """Opens the configured vector store, and closes it with `stack`.

    `owner` is the id of the retriever's data folder, and `count_search` is called with "gpu" or "cpu" for each search
    of a store on a GPU. Raises FailedPrecondition if the store is unknown or cannot be imported, and what its factory
    raises.
    """
    factory: vector_stores.VectorStoreFactory = load_extension(
        settings.vector_store,
        setting="POINTSMAN_RETRIEVER_VECTOR_STORE",
        group=vector_stores.GROUP,
        builtins=vector_stores.VECTOR_STORES,
    )
    url, token, prefix = settings.vector_store_url, settings.vector_store_token, settings.vector_store_prefix
    store = factory(VectorStoreOptions(url, token, prefix, owner, count_search, settings.data))
    stack.callback(store.close)
    return store


def _load_shared(stack: AsyncExitStack, settings: Settings) -> SharedCollections | None:
    """Returns the collections of the shared store, without connecting to it; None if none is configured.

    `stack` closes the store. Raises FailedPrecondition if the store is unknown or cannot be imported.
    """
    if not settings.shared_store:
        return None
    factory: shared_stores.SharedStoreFactory = load_extension(
        settings.shared_store,
        setting="POINTSMAN_RETRIEVER_SHARED_STORE",
        group=shared_stores.GROUP,
        builtins=shared_stores.SHARED_STORES,
    )
    url, token, prefix = settings.shared_store_url, settings.shared_store_token, settings.shared_store_prefix
    options = SharedStoreOptions(url, token, prefix, settings.shared_store_owner, settings.shared_store_timeout)
    shared = SharedCollections(partial(factory, options))
    stack.callback(shared.close)
    return shared


async def _find_shared(shared: SharedCollections | None) -> None:
    """Reads from the shared store which collections it has. If the store does not answer, the next call reads them.

    Raises FailedPrecondition if the store refuses this retriever.
    """
    if shared is None:
        return
    try:
        await asyncio.to_thread(shared.refresh)
    except Unavailable as error:
        log.warning("the shared store cannot be reached yet: %s", error.message)


def _load_external(stack: AsyncExitStack, settings: Settings, fingerprint: str) -> ExternalCollections:
    """Returns the collections in external stores, without connecting to the stores; `stack` closes them.

    `fingerprint` is that of the model that embeds queries. Raises FailedPrecondition if the configuration is invalid,
    or a store is unknown or cannot be imported.
    """
    external = {}
    for collection_id, config in stores.read_external(settings.collections).items():
        factory: Callable[[stores.ExternalOptions], stores.ExternalStore] = load_extension(
            config.store,
            setting=f"the store of collection '{collection_id}'",
            group=stores.GROUP,
            builtins=stores.EXTERNAL_STORES,
        )
        connect = partial(factory, stores.to_options(collection_id, config))
        external[collection_id] = ExternalCollection(collection_id, config.fields, connect, fingerprint)
        stack.callback(external[collection_id].close)
    return external


def _load_reranker(stack: AsyncExitStack, settings: Settings) -> Reranker | None:
    """Returns the configured reranker, which `stack` closes; None if neither its URL nor its API is set.

    Raises FailedPrecondition if the API is unknown or cannot be imported.
    """
    if not settings.reranker_url and not settings.reranker_api:
        return None
    factory: rerankers.RerankerFactory = load_extension(
        settings.reranker_api or rerankers.DEFAULT_API,
        setting="POINTSMAN_RETRIEVER_RERANKER_API",
        group=rerankers.GROUP,
        builtins=rerankers.RERANKERS,
    )
    reranker = factory(
        RerankerOptions(
            settings.reranker_url, settings.reranker_model, settings.reranker_key, settings.reranker_timeout
        )
    )
    stack.push_async_callback(reranker.close)
    return reranker
