"""A sample of a collection's vectors, with which a gateway judges what the collection is about."""

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import MiniLM
from pointsman_retriever.store import vector_sketch

from tests.retriever.client import Client, Refusal, Start

NOTES = [
    pb.Document(id="ladder", text="The ladder is in the shed behind the house."),
    pb.Document(id="soup", text="Peel the pumpkin and boil it for twenty minutes."),
    pb.Document(id="tram", text="The last tram leaves at midnight."),
]


async def sketch(
    client: Client, known: str = "", collection: str = "notes", tenant: str = ""
) -> pb.VectorSketchResponse:
    request = pb.VectorSketchRequest(collection=collection, known_checksum=known, tenant=tenant)
    response: pb.VectorSketchResponse = await client.stub.VectorSketch(request)
    return response


def directions(response: pb.VectorSketchResponse) -> NDArray[np.float32]:
    rows = np.frombuffer(response.vectors, np.int8).reshape(-1, response.dimensions).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


async def test_a_sketch_of_a_small_collection_has_the_vector_of_each_chunk(client: Client, minilm: MiniLM) -> None:
    await client.upsert(*NOTES)
    response = await sketch(client)
    collection = await client.collection()
    assert (response.chunks, response.version, response.dimensions) == (3, collection.version, 384)
    assert (response.fingerprint, response.unchanged) == (collection.fingerprint, False)
    exact = minilm.embed([note.text for note in NOTES])
    assert (directions(response) * exact).sum(axis=1).min() > 0.999
    asked = minilm.embed(["When does the last tram go?"])[0]
    assert (directions(response) @ asked).argmax() == 2


async def test_an_unchanged_collection_is_not_sent_again(client: Client) -> None:
    await client.upsert(*NOTES)
    first = await sketch(client)
    again = await sketch(client, first.checksum)
    assert (again.unchanged, again.checksum, again.vectors) == (True, first.checksum, b"")
    await client.upsert(*NOTES)  # as they are
    assert (await sketch(client, first.checksum)).unchanged
    await client.delete("soup")
    changed = await sketch(client, first.checksum)
    assert not changed.unchanged
    assert changed.checksum != first.checksum
    assert len(directions(changed)) == 2


async def test_an_empty_collection_has_an_empty_sketch(client: Client) -> None:
    response = await sketch(client)
    assert (response.chunks, response.vectors, len(response.checksum)) == (0, b"", 16)
    assert (await sketch(client, response.checksum)).unchanged


async def test_equal_collections_have_equal_sketches_after_a_restart(start: Start) -> None:
    async with start() as client:
        await client.create()
        await client.upsert(*NOTES)
        before = await sketch(client)
    async with start() as client:
        after = await sketch(client)
    assert (after.checksum, after.vectors) == (before.checksum, before.vectors)


async def test_the_sketch_of_a_large_collection_is_bounded_and_changes_little_with_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_sketch, "MAX_VECTORS", 100)
    random, dimensions = np.random.default_rng(1), (await sketch(client)).dimensions
    fingerprint = (await client.collection()).fingerprint

    def documents(first: int, last: int) -> list[pb.Document]:
        vectors = random.normal(size=(last - first, dimensions))
        return [
            pb.Document(id=f"n{n}", text="A note.", vector=pb.Vector(fingerprint=fingerprint, values=vector))
            for n, vector in zip(range(first, last), vectors, strict=True)
        ]

    await client.upsert(*documents(0, 500))
    before = directions(await sketch(client))
    assert len(before) == 100
    await client.upsert(*documents(500, 550))
    after = directions(await sketch(client))
    assert len(after) == 100
    kept = {row.tobytes() for row in before} & {row.tobytes() for row in after}
    assert 80 <= len(kept) < 100


async def test_models_of_many_dimensions_get_fewer_vectors(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_sketch, "MAX_BYTES", 800)
    await client.upsert(*NOTES)
    assert len((await sketch(client)).vectors) == 2 * 384


async def test_a_sketch_is_of_its_tenants_collection_alone(start: Start, refusal: Refusal, minilm: MiniLM) -> None:
    async with start() as client:
        for tenant, note in (("acme", NOTES[0]), ("globex", NOTES[1])):
            await client.stub.CreateCollection(pb.CreateCollectionRequest(name="notes", tenant=tenant))
            await client.stub.Upsert(pb.UpsertRequest(tenant=tenant, collection="notes", documents=[note]))
        for tenant, note in (("acme", NOTES[0]), ("globex", NOTES[1])):
            rows = directions(await sketch(client, tenant=tenant))
            assert len(rows) == 1
            assert float(rows[0] @ minilm.embed([note.text])[0]) > 0.999
        error = await refusal(sketch(client))
        assert (error.grpc_status, error.code) == (grpc.StatusCode.NOT_FOUND, "unknown_collection")
