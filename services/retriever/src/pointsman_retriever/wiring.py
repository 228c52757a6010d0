"""The only file that knows concrete classes: settings to a running retriever."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from pointsman.v1 import retriever_pb2_grpc
from pointsman_embedding import MiniLM
from pointsman_servicekit.grpc_server import serving
from pointsman_servicekit.metrics_endpoint import serving_metrics
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer

from pointsman_retriever.chunking.markdown import MarkdownChunker
from pointsman_retriever.doors.grpc import SERVICE, RetrieverDoor
from pointsman_retriever.encoding import Embedder, Encoder
from pointsman_retriever.index.dense import FaissIndex, gpu_mirror
from pointsman_retriever.library import Library
from pointsman_retriever.metering.prometheus import CollectionSizes, Labels, Metrics
from pointsman_retriever.settings import Settings
from pointsman_retriever.store.connections import opened
from pointsman_retriever.store.sqlite import Store
from pointsman_retriever.workers import make_crew

log = logging.getLogger(__name__)

SPARE_READERS = 1  # beside one for each searching thread


class EmbeddingModel(Embedder, Protocol):
    """An embedder, and the tokenizer that measures texts for it."""

    @property
    def tokenizer(self) -> Tokenizer: ...


@dataclass(frozen=True, slots=True)
class Running:
    address: str
    metrics_port: int


def load_model(settings: Settings) -> EmbeddingModel:
    """Raises ModelMissing."""
    return MiniLM.load(settings.embedding_model)


@asynccontextmanager
async def running(settings: Settings, model: EmbeddingModel) -> AsyncIterator[Running]:
    """The service, for the block's length; it listens once everything is loaded.

    Raises FailedPrecondition for a data folder that is in use or of another release, OSError for a port that is taken.
    """
    registry, labels = CollectorRegistry(), Labels()
    async with AsyncExitStack() as stack:
        connections = stack.enter_context(opened(settings.data, settings.search_threads + SPARE_READERS))
        crew = make_crew(settings.search_threads, settings.ingest_threads)
        stack.callback(crew.close)
        mirror = gpu_mirror()
        library = Library(
            Store(connections),
            Encoder(model, MarkdownChunker(model.tokenizer), crew),
            lambda dimensions: FaissIndex(dimensions, mirror),
            Metrics(registry, labels),
            crew,
        )
        await asyncio.to_thread(library.load)
        registry.register(CollectionSizes(library.collections, labels))
        metrics_port = stack.enter_context(serving_metrics(settings.metrics_listen, registry))
        door = RetrieverDoor(library)
        server = await stack.enter_async_context(
            serving(
                settings.listen,
                [SERVICE],
                lambda grpc_server: retriever_pb2_grpc.add_RetrieverServicer_to_server(door, grpc_server),
            )
        )
        log.info("serving at %s, metrics at port %d", server.address, metrics_port)
        yield Running(server.address, metrics_port)
