"""Metrics: what is counted, and that collection names cannot create unbounded labels."""

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.events import (
    CollectionDropped,
    CollectionSize,
    DocumentsUpserted,
    SearchCompleted,
    SearchFailed,
)
from pointsman_retriever.metrics import MAX_LABELS, BoundedLabels, CollectionSizes, Metrics
from prometheus_client import CollectorRegistry, generate_latest

from tests.retriever.client import Client


async def test_searches_upserts_and_sizes_are_counted(client: Client) -> None:
    await client.search("too early")
    await client.upsert(pb.Document(id="a", text="One."), pb.Document(id="b", text="Two."))
    await client.search("one")
    await client.delete("b")
    for sample, value in {
        "search_duration_seconds_count": 2.0,
        "passages_total": 2.0,
        "empty_searches_total": 1.0,
        "upserts_total": 1.0,
        "upserted_documents_total": 2.0,
        "documents": 1.0,
        "chunks": 1.0,
    }.items():
        assert await client.metric(f'pointsman_retriever_{sample}{{collection="notes"}}') == value, sample


async def test_each_phase_of_a_search_is_timed_and_the_best_cosine_is_recorded(client: Client) -> None:
    await client.upsert(pb.Document(id="a", text="The ladder hangs in the shed."))
    await client.search("The ladder hangs in the shed.")
    for phase in ("embed", "wait", "rank", "passages"):
        assert (
            await client.metric(f'pointsman_retriever_search_phase_duration_seconds_count{{phase="{phase}"}}') == 1.0
        ), phase
    assert await client.metric('pointsman_retriever_best_cosine_bucket{collection="notes",le="0.9"}') == 0.0
    assert await client.metric('pointsman_retriever_best_cosine_count{collection="notes"}') == 1.0


async def test_unchanged_documents_and_the_size_and_age_of_the_index_are_reported(client: Client) -> None:
    for _ in range(2):
        await client.upsert(pb.Document(id="a", text="One."))
    for sample, value in {"unchanged_documents_total": 1.0, "new_chunks_total": 1.0, "index_vectors": 1.0}.items():
        assert await client.metric(f'pointsman_retriever_{sample}{{collection="notes"}}') == value, sample
    assert await client.metric('pointsman_retriever_inconsistent{collection="notes"}') == 0.0
    age = await client.metric('pointsman_retriever_index_age_seconds{collection="notes"}')
    assert age is not None
    assert 0.0 <= age < 60.0


async def test_a_deleted_collection_disappears_from_the_metrics(client: Client) -> None:
    await client.upsert(pb.Document(id="a", text="One."))
    await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
    for sample in ("upserts_total", "documents"):
        assert await client.metric(f'pointsman_retriever_{sample}{{collection="notes"}}') is None


def test_ten_thousand_collection_names_create_no_new_series() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, BoundedLabels(), "a-model")

    def record(number: int) -> None:
        metrics.record(DocumentsUpserted(f"junk-{number}", 1))
        metrics.record(SearchCompleted(f"junk-{number}", 4, 0.01, {"embed": 0.001, "dense": 0.002}, best_cosine=0.5))
        metrics.record(SearchFailed("unknown_collection", 0.01))

    for number in range(MAX_LABELS + 1):
        record(number)
    before, size = _series(registry), len(generate_latest(registry))
    for number in range(MAX_LABELS + 1, 10_000):
        record(number)
    assert _series(registry) == before
    assert len(generate_latest(registry)) < 1.1 * size < 400_000


def _series(registry: CollectorRegistry) -> set[tuple[str, ...]]:
    return {(sample.name, *sample.labels.values()) for family in registry.collect() for sample in family.samples}


async def test_searches_are_reported_under_opentelemetrys_names(client: Client) -> None:
    await client.upsert(pb.Document(id="a", text="One."))
    await client.stub.Search(pb.SearchRequest(collection="notes", query="one"))
    with pytest.raises(grpc.aio.AioRpcError):
        await client.stub.Search(pb.SearchRequest(collection="nowhere", query="one"))
    lines = (await client.exposition()).splitlines()
    for name, operation, error in (
        ("server_request", "retrieval", ""),
        ("server_request", "retrieval", "unknown_collection"),
        ("client_operation", "embeddings", ""),
    ):
        parts = (f"gen_ai_{name}_duration_seconds_count{{", f'error_type="{error}"', f'operation_name="{operation}"')
        matching = [line for line in lines if all(part in line for part in parts)]
        assert [line.rpartition(" ")[2] for line in matching] == ["1.0"], parts


async def test_release_event_loop_lag_and_calls_in_flight_are_reported(client: Client) -> None:
    matching = await client.exposition()
    assert 'pointsman_build_info{service="retriever",version="' in matching
    assert "pointsman_event_loop_lag_seconds_bucket" in matching
    await client.upsert(pb.Document(id="a", text="One."))
    assert await client.present_metric('pointsman_grpc_in_flight{method="pointsman.v1.Retriever/Upsert"}') == 0.0


def test_collections_beyond_the_cap_are_counted_as_other() -> None:
    registry, labels = CollectorRegistry(), BoundedLabels(max_labels=2)
    metrics = Metrics(registry, labels, "a-model")
    sizes = [CollectionSize(name, 3, 5, 100, 5, 2.0 * place, False) for place, name in enumerate(("a", "b", "c", "d"))]
    registry.register(CollectionSizes(lambda: sizes, labels))

    def value(sample: str, label: str) -> float | None:
        return registry.get_sample_value(f"pointsman_retriever_{sample}", {"collection": label})

    for name in ("a", "b", "c", "d"):
        metrics.record(DocumentsUpserted(name, 1))
        metrics.record(SearchCompleted(name, 4, 0.01))
    assert (value("upserts_total", "a"), value("upserts_total", "other")) == (1.0, 2.0)
    assert (value("passages_total", "other"), value("documents", "other"), value("chunks", "other")) == (8.0, 6.0, 10.0)
    assert (value("bytes", "other"), value("index_age_seconds", "other")) == (200.0, 6.0)  # the oldest
    assert value("upserts_total", "c") is None

    metrics.record(CollectionDropped("a"))
    metrics.record(DocumentsUpserted("c", 1))
    assert value("upserts_total", "a") is None
    assert value("upserts_total", "c") == 1.0
