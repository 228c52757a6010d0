"""All metrics of the retriever. A collection's name is a label for the first names seen; further ones are "other"."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman_retriever.domain import Collection
from pointsman_retriever.facts import Dropped, Fact, Searched, Upserted

MAX_LABELS = 50
OTHER = "other"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Labels:
    """Names for the first that come; a name that is dropped leaves its place to another."""

    def __init__(self, places: int = MAX_LABELS) -> None:
        self._places = places
        self._names: set[str] = set()
        self._lock = Lock()

    def label(self, name: str) -> str:
        with self._lock:
            if name not in self._names and len(self._names) < self._places:
                self._names.add(name)
            return name if name in self._names else OTHER

    def drop(self, name: str) -> bool:
        """Whether it had a place."""
        with self._lock:
            had = name in self._names
            self._names.discard(name)
            return had


class Metrics:
    """The observer of the library."""

    def __init__(self, registry: CollectorRegistry, labels: Labels) -> None:
        self._labels = labels
        self._seconds = Histogram(
            "pointsman_retriever_search_seconds",
            "Time of a search",
            ["collection"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._passages = Counter("pointsman_retriever_passages", "Passages given", ["collection"], registry=registry)
        self._empty = Counter(
            "pointsman_retriever_empty_searches", "Searches that found nothing", ["collection"], registry=registry
        )
        self._upserts = Counter("pointsman_retriever_upserts", "Upsert calls", ["collection"], registry=registry)
        self._documents = Counter(
            "pointsman_retriever_upserted_documents", "Documents written", ["collection"], registry=registry
        )

    def note(self, fact: Fact) -> None:
        match fact:
            case Searched(collection, passages, seconds):
                label = self._labels.label(collection)
                self._seconds.labels(label).observe(seconds)
                self._passages.labels(label).inc(passages)
                self._empty.labels(label).inc(0 if passages else 1)
            case Upserted(collection, documents):
                label = self._labels.label(collection)
                self._upserts.labels(label).inc()
                self._documents.labels(label).inc(documents)
            case Dropped(collection):
                if self._labels.drop(collection):
                    self._forget(collection)

    def _forget(self, label: str) -> None:
        for metric in (self._seconds, self._passages, self._empty, self._upserts, self._documents):
            with suppress(KeyError):  # of this one there was nothing to count yet
                metric.remove(label)


class CollectionSizes(Collector):
    """Documents and chunks in each collection, read when they are asked for."""

    def __init__(self, collections: Callable[[], list[Collection]], labels: Labels) -> None:
        self._collections = collections
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        documents: Tally[str] = Tally()
        chunks: Tally[str] = Tally()
        for collection in self._collections():
            label = self._labels.label(collection.name)
            documents[label] += collection.documents
            chunks[label] += collection.chunks
        yield _gauge("pointsman_retriever_documents", "Documents in the collection", documents)
        yield _gauge("pointsman_retriever_chunks", "Chunks in the collection", chunks)


def _gauge(name: str, documentation: str, values: Tally[str]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=["collection"])
    for label, value in sorted(values.items()):
        family.add_metric([label], value)
    return family
