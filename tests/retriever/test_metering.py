"""What is counted, and that names cannot make labels without end."""

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.facts import (
    CollectionDropped,
    CollectionSize,
    DocumentsUpserted,
    SearchCompleted,
    SearchFailed,
)
from pointsman_retriever.metering.prometheus import MAX_LABELS, BoundedLabels, CollectionSizes, Metrics
from prometheus_client import CollectorRegistry, generate_latest


async def test_searches_upserts_and_sizes_are_counted(client):
    await client.search("too early")
    await client.upsert(pb.Document(id="a", text="One."), pb.Document(id="b", text="Two."))
    await client.search("one")
    await client.delete("b")
    for sample, value in {
        "search_seconds_count": 2.0,
        "passages_total": 2.0,
        "empty_searches_total": 1.0,
        "upserts_total": 1.0,
        "upserted_documents_total": 2.0,
        "documents": 1.0,
        "chunks": 1.0,
    }.items():
        assert await client.metric(f'pointsman_retriever_{sample}{{collection="notes"}}') == value, sample


async def test_each_part_of_a_search_is_timed_and_the_best_cosine_is_kept(client):
    await client.upsert(pb.Document(id="a", text="The ladder hangs in the shed."))
    await client.search("The ladder hangs in the shed.")
    for leg in ("embed", "wait", "rank", "passages"):
        assert await client.metric(f'pointsman_retriever_search_leg_seconds_count{{leg="{leg}"}}') == 1.0, leg
    assert await client.metric('pointsman_retriever_best_cosine_bucket{collection="notes",le="0.9"}') == 0.0
    assert await client.metric('pointsman_retriever_best_cosine_count{collection="notes"}') == 1.0


async def test_what_was_there_just_so_is_counted_apart_and_the_index_has_a_size_and_an_age(client):
    for _ in range(2):
        await client.upsert(pb.Document(id="a", text="One."))
    for sample, value in {"unchanged_documents_total": 1.0, "new_chunks_total": 1.0, "index_vectors": 1.0}.items():
        assert await client.metric(f'pointsman_retriever_{sample}{{collection="notes"}}') == value, sample
    assert await client.metric('pointsman_retriever_inconsistent{collection="notes"}') == 0.0
    assert 0.0 <= await client.metric('pointsman_retriever_index_age_seconds{collection="notes"}') < 60.0


async def test_a_deleted_collection_leaves_the_metrics(client):
    await client.upsert(pb.Document(id="a", text="One."))
    await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
    for sample in ("upserts_total", "documents"):
        assert await client.metric(f'pointsman_retriever_{sample}{{collection="notes"}}') is None


def test_ten_thousand_names_of_collections_make_no_series():
    registry = CollectorRegistry()
    metrics = Metrics(registry, BoundedLabels(), "a-model")

    def note(number: int) -> None:
        metrics.note(DocumentsUpserted(f"junk-{number}", 1))
        metrics.note(SearchCompleted(f"junk-{number}", 4, 0.01, {"embed": 0.001, "dense": 0.002}, best=0.5))
        metrics.note(SearchFailed("unknown_collection", 0.01))

    for number in range(MAX_LABELS + 1):
        note(number)
    before, size = _series(registry), len(generate_latest(registry))
    for number in range(MAX_LABELS + 1, 10_000):
        note(number)
    assert _series(registry) == before
    assert len(generate_latest(registry)) < 1.1 * size < 400_000


def _series(registry: CollectorRegistry) -> set[tuple[str, ...]]:
    return {(sample.name, *sample.labels.values()) for family in registry.collect() for sample in family.samples}


async def test_searches_are_told_of_as_opentelemetry_names_them(client):
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
        wanted = (f"gen_ai_{name}_duration_seconds_count{{", f'error_type="{error}"', f'operation_name="{operation}"')
        told = [line for line in lines if all(part in line for part in wanted)]
        assert [line.rpartition(" ")[2] for line in told] == ["1.0"], wanted


async def test_the_release_the_lag_of_the_loop_and_calls_in_flight_are_told(client):
    told = await client.exposition()
    assert 'pointsman_build_info{service="retriever",version="' in told
    assert "pointsman_event_loop_lag_seconds_bucket" in told
    await client.upsert(pb.Document(id="a", text="One."))
    assert await client.metric('pointsman_grpc_in_flight{method="pointsman.v1.Retriever/Upsert"}') == 0.0


def test_collections_beyond_the_cap_are_counted_as_other():
    registry, labels = CollectorRegistry(), BoundedLabels(places=2)
    metrics = Metrics(registry, labels, "a-model")
    sizes = [CollectionSize(name, 3, 5, 100, 5, 2.0 * place, False) for place, name in enumerate(("a", "b", "c", "d"))]
    registry.register(CollectionSizes(lambda: sizes, labels))

    def value(sample: str, label: str) -> float | None:
        return registry.get_sample_value(f"pointsman_retriever_{sample}", {"collection": label})

    for name in ("a", "b", "c", "d"):
        metrics.note(DocumentsUpserted(name, 1))
        metrics.note(SearchCompleted(name, 4, 0.01))
    assert (value("upserts_total", "a"), value("upserts_total", "other")) == (1.0, 2.0)
    assert (value("passages_total", "other"), value("documents", "other"), value("chunks", "other")) == (8.0, 6.0, 10.0)
    assert (value("bytes", "other"), value("index_age_seconds", "other")) == (200.0, 6.0)  # the oldest
    assert value("upserts_total", "c") is None

    metrics.note(CollectionDropped("a"))
    metrics.note(DocumentsUpserted("c", 1))
    assert value("upserts_total", "a") is None
    assert value("upserts_total", "c") == 1.0
