"""What is counted, and that names cannot make labels without end."""

from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.domain import Collection
from pointsman_retriever.facts import Dropped, Searched, Upserted
from pointsman_retriever.metering.prometheus import CollectionSizes, Labels, Metrics
from prometheus_client import CollectorRegistry


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


async def test_a_deleted_collection_leaves_the_metrics(client):
    await client.upsert(pb.Document(id="a", text="One."))
    await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
    for sample in ("upserts_total", "documents"):
        assert await client.metric(f'pointsman_retriever_{sample}{{collection="notes"}}') is None


def test_collections_beyond_the_cap_are_counted_as_other():
    registry, labels = CollectorRegistry(), Labels(places=2)
    metrics = Metrics(registry, labels)
    sizes = [Collection(name, "model", 384, documents=3, chunks=5) for name in ("a", "b", "c", "d")]
    registry.register(CollectionSizes(lambda: sizes, labels))

    def value(sample: str, label: str) -> float | None:
        return registry.get_sample_value(f"pointsman_retriever_{sample}", {"collection": label})

    for name in ("a", "b", "c", "d"):
        metrics.note(Upserted(name, 1))
        metrics.note(Searched(name, 4, 0.01))
    assert (value("upserts_total", "a"), value("upserts_total", "other")) == (1.0, 2.0)
    assert (value("passages_total", "other"), value("documents", "other"), value("chunks", "other")) == (8.0, 6.0, 10.0)
    assert value("upserts_total", "c") is None

    metrics.note(Dropped("a"))
    metrics.note(Upserted("c", 1))
    assert value("upserts_total", "a") is None
    assert value("upserts_total", "c") == 1.0
