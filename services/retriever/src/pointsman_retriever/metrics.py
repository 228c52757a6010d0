"""The Prometheus metrics of searches, changes and collections.

The label `collection` has a value of its own for each of the first MAX_LABELS collections; all further collections
share the value "other".
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from threading import Lock

from pointsman_servicekit.logs import sampled_trace_id
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pointsman_retriever.events import (
    CollectionDropped,
    CollectionSize,
    DocumentsUpserted,
    Event,
    SearchCompleted,
    SearchFailed,
)

MAX_LABELS = 50
OTHER_LABEL = "other"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_PHASE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
# The buckets of OpenTelemetry's conventions for generative AI (semantic-conventions v1.41.0), in seconds.
_GEN_AI_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_COSINES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class BoundedLabels:
    """Limits the number of values of a metric's label, such as the names of collections.

    The first `max_labels` names become values of the label; for every further name, `label` returns OTHER_LABEL. Any
    thread may use it.
    """

    def __init__(self, max_labels: int = MAX_LABELS) -> None:
        self._max_labels = max_labels
        self._names: set[str] = set()
        self._lock = Lock()

    def label(self, name: str) -> str:
        with self._lock:
            if name not in self._names and len(self._names) < self._max_labels:
                self._names.add(name)
            return name if name in self._names else OTHER_LABEL

    def drop(self, name: str) -> bool:
        """Forgets a name, so that another name can become a value of the label; returns whether `name` was a value."""
        with self._lock:
            had = name in self._names
            self._names.discard(name)
            return had


class GenAiMetrics:
    """Metrics of the durations of searches and of embedding their queries, by OpenTelemetry's conventions for
    generative AI.

    The conventions give these two metrics no attribute for the collection, so the collection is not a label here.
    """

    def __init__(self, registry: CollectorRegistry, embedding_model: str) -> None:
        labels = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"]
        served = Histogram(
            "gen_ai_server_request_duration_seconds", "A search.", labels, buckets=_GEN_AI_SECONDS, registry=registry
        )
        called = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "Embedding a query.",
            labels,
            buckets=_GEN_AI_SECONDS,
            registry=registry,
        )
        self._served, self._model = served, embedding_model
        self._retrievals = served.labels("retrieval", "pointsman", embedding_model, "")
        self._embeddings = called.labels("embeddings", "pointsman", embedding_model, "")

    def record_search(self, event: SearchCompleted, exemplar: dict[str, str] | None) -> None:
        self._retrievals.observe(event.seconds, exemplar)
        if "embed" in event.timings:
            self._embeddings.observe(event.timings["embed"], exemplar)

    def record_failure(self, code: str, seconds: float) -> None:
        """Records a failed search that took `seconds`; its label `error_type` is `code`, the code of the error."""
        self._served.labels("retrieval", "pointsman", self._model, code).observe(seconds, _exemplar())


class Metrics:
    """An observer that counts the events of collections (searches, changes, failures) in Prometheus metrics."""

    def __init__(self, registry: CollectorRegistry, labels: BoundedLabels, embedding_model: str) -> None:
        """Creates the metrics; `embedding_model` is the model's fingerprint."""
        self._labels = labels
        self._gen_ai = GenAiMetrics(registry, embedding_model)
        info = Gauge(
            "pointsman_retriever_info", "Always 1; the embedding model in use.", ["embedding_model"], registry=registry
        )
        info.labels(embedding_model).set(1)
        self._seconds = Histogram(
            "pointsman_retriever_search_duration_seconds",
            "Duration of a search",
            ["collection"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._phases = Histogram(
            "pointsman_retriever_search_phase_duration_seconds",
            "Duration of each phase of a search, over all collections",
            ["phase"],
            buckets=_PHASE_SECONDS,
            registry=registry,
        )
        self._best = Histogram(
            "pointsman_retriever_best_cosine",
            "Greatest cosine between the query and a candidate",
            ["collection"],
            buckets=_COSINES,
            registry=registry,
        )
        self._passages = Counter("pointsman_retriever_passages", "Passages returned", ["collection"], registry=registry)
        self._empty = Counter(
            "pointsman_retriever_empty_searches", "Searches that found nothing", ["collection"], registry=registry
        )
        self._upserts = Counter(
            "pointsman_retriever_upserts", "Upsert calls and ingested documents", ["collection"], registry=registry
        )
        self._documents = Counter(
            "pointsman_retriever_upserted_documents", "Documents acknowledged", ["collection"], registry=registry
        )
        self._unchanged = Counter(
            "pointsman_retriever_unchanged_documents",
            "Documents acknowledged without a write because they were stored already",
            ["collection"],
            registry=registry,
        )
        self._chunks = Counter("pointsman_retriever_new_chunks", "Chunks written", ["collection"], registry=registry)
        self._index_searches = Counter(
            "pointsman_retriever_index_searches",
            'Searches of an index on a GPU, by what answered: "gpu", or "cpu" if too few results passed the filter',
            ["device"],
            registry=registry,
        )

    def count_index_search(self, device: str) -> None:
        """Counts one search of a vector index, by the `device` that answered it: "gpu" or "cpu". Safe for threads."""
        self._index_searches.labels(device).inc()

    def record(self, event: Event) -> None:
        match event:
            case SearchCompleted():
                self._record_search(event)
            case SearchFailed(code, seconds):
                self._gen_ai.record_failure(code, seconds)
            case DocumentsUpserted(collection, documents, unchanged, chunks, calls):
                label = self._labels.label(collection)
                self._upserts.labels(label).inc(calls)
                self._documents.labels(label).inc(documents)
                self._unchanged.labels(label).inc(unchanged)
                self._chunks.labels(label).inc(chunks)
            case CollectionDropped(collection):
                if self._labels.drop(collection):
                    self._remove_label(collection)

    def _record_search(self, event: SearchCompleted) -> None:
        label, exemplar = self._labels.label(event.collection), _exemplar()
        self._seconds.labels(label).observe(event.seconds, exemplar)
        self._gen_ai.record_search(event, exemplar)
        self._passages.labels(label).inc(event.passages)
        self._empty.labels(label).inc(0 if event.passages else 1)
        for phase, seconds in event.timings.items():
            self._phases.labels(phase).observe(seconds)
        if event.best_cosine is not None:
            self._best.labels(label).observe(event.best_cosine)

    def _remove_label(self, label: str) -> None:
        for metric in (
            self._seconds,
            self._best,
            self._passages,
            self._empty,
            self._upserts,
            self._documents,
            self._unchanged,
            self._chunks,
        ):
            with suppress(KeyError):  # this metric never counted anything for the collection
                metric.remove(label)


class CollectionSizes(Collector):
    """A Prometheus collector that calls `sizes` for the collections' sizes each time the metrics are collected.

    Collections that share the label "other" are exported together: the sum of their values, and the largest of their
    index ages.
    """

    def __init__(self, sizes: Callable[[], list[CollectionSize]], labels: BoundedLabels) -> None:
        self._sizes = sizes
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        sizes = [(self._labels.label(size.name), size) for size in self._sizes()]
        for name, documentation, value in (
            ("documents", "Documents in the collection", lambda size: size.documents),
            ("chunks", "Chunks in the collection", lambda size: size.chunks),
            ("bytes", "Bytes of the collection's texts and vectors", lambda size: size.bytes),
            ("index_vectors", "Vectors in the index in memory", lambda size: size.index_vectors),
            ("inconsistent", "1 if the collection cannot be searched", lambda size: float(size.is_inconsistent)),
        ):
            summed: dict[str, float] = {}
            for label, size in sizes:
                summed[label] = summed.get(label, 0.0) + value(size)
            yield _gauge(f"pointsman_retriever_{name}", documentation, summed)
        oldest: dict[str, float] = {}
        for label, size in sizes:
            oldest[label] = max(oldest.get(label, 0.0), size.index_age)
        yield _gauge("pointsman_retriever_index_age_seconds", "Time since the index was built or last changed", oldest)


def _exemplar() -> dict[str, str] | None:
    trace_id = sampled_trace_id()
    return {"trace_id": trace_id} if trace_id else None


def _gauge(name: str, documentation: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=["collection"])
    for label, value in sorted(values.items()):
        family.add_metric([label], value)
    return family
