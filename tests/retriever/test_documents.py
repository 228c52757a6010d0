"""Documents are added, replaced, filtered and deleted."""

import math

import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import MiniLM
from pointsman_retriever.search.fusion import SUPPORT_WEIGHT

from tests.retriever.client import Client, Refusal

LADDER = pb.Document(id="ladder", title="Ladder", text="The ladder hangs in the shed.", metadata={"room": "shed"})
KETTLE = pb.Document(id="kettle", title="Kettle", text="The kettle stands on the stove.", metadata={"room": "kitchen"})


async def test_a_document_is_found_as_a_passage_with_its_id_and_title(client: Client) -> None:
    await client.upsert(LADDER, KETTLE)
    passage = (await client.search("Where is the ladder?")).passages[0]
    assert (passage.document_id, passage.title, passage.text) == ("ladder", "Ladder", LADDER.text)
    assert LADDER.text[passage.start : passage.end] == passage.text
    assert dict(passage.metadata) == {"room": "shed"}
    # The best of two in both rankings: each standardised score is 1, and all candidates that could support it have -1.
    assert passage.score == pytest.approx(1 / (1 + math.exp(-(1 - 2 * SUPPORT_WEIGHT))))
    assert 0.5 < passage.dense_score <= 1.0
    assert passage.sparse_score > 0.0


async def test_a_new_collection_reports_its_embedding_model(client: Client, minilm: MiniLM) -> None:
    collection = await client.collection()
    assert (collection.fingerprint, collection.dimensions) == (minilm.fingerprint, 384)
    assert (collection.documents, collection.chunks, collection.version) == (0, 0, 0)


async def test_counts_and_version_change_with_each_write(client: Client) -> None:
    written = await client.upsert(LADDER, KETTLE)
    assert (written.documents, written.chunks, written.version) == (2, 2, 1)
    deleted = await client.delete("kettle", "never-there")
    assert (deleted.deleted, deleted.version) == (1, 2)
    collection = await client.collection()
    assert (collection.documents, collection.chunks, collection.version) == (1, 1, 2)


async def test_a_write_without_effect_keeps_the_version(client: Client) -> None:
    await client.upsert(LADDER)
    assert (await client.upsert()).version == 1
    assert (await client.delete("never-there")).version == 1
    assert (await client.search("ladder")).version == 1


async def test_a_replaced_document_is_found_by_its_new_text_only(client: Client) -> None:
    await client.upsert(LADDER)
    await client.upsert(pb.Document(id="ladder", title="Ladder", text="The ladder was lent to the neighbour."))
    answer = await client.search("ladder", top_k=10)
    assert [passage.text for passage in answer.passages] == ["The ladder was lent to the neighbour."]
    assert not (await client.search("shed", dense_weight=0.0)).passages
    assert (await client.collection()).documents == 1


async def test_a_deleted_document_is_not_found_by_word_or_meaning(client: Client) -> None:
    await client.upsert(LADDER, KETTLE)
    await client.delete("ladder")
    assert await client.found("ladder", dense_weight=0.0) == []
    assert await client.found("ladder", dense_weight=1.0) == ["kettle"]


async def test_a_filter_returns_only_documents_with_all_its_entries(client: Client) -> None:
    await client.upsert(
        pb.Document(id="a", text="A tall ladder.", metadata={"room": "shed", "state": "good"}),
        pb.Document(id="b", text="A short ladder.", metadata={"room": "shed", "state": "broken"}),
        pb.Document(id="c", text="A rope ladder.", metadata={"room": "attic", "state": "good"}),
    )
    for dense_weight in (0.0, None, 1.0):
        how = {"top_k": 10, "dense_weight": dense_weight}
        assert set(await client.found("ladder", filter={"room": "shed"}, **how)) == {"a", "b"}
        assert await client.found("ladder", filter={"room": "shed", "state": "good"}, **how) == ["a"]
        assert await client.found("ladder", filter={"room": "cellar"}, **how) == []


async def test_a_filter_finds_its_documents_however_many_others_are_nearer(client: Client) -> None:
    crowd = [pb.Document(id=f"n{i}", text=f"The ladder {i} hangs in the shed.") for i in range(150)]
    await client.upsert(*crowd, pb.Document(id="odd", text="Boil eggs for six minutes.", metadata={"kind": "recipe"}))
    assert await client.found("ladder in the shed", filter={"kind": "recipe"}) == ["odd"]


async def test_collections_are_isolated_from_each_other(client: Client) -> None:
    await client.create("other")
    await client.upsert(LADDER)
    await client.upsert(KETTLE, collection="other")
    assert await client.found("ladder", top_k=10) == ["ladder"]
    assert await client.found("ladder", top_k=10, collection="other") == ["kettle"]


async def test_a_deleted_collection_can_be_created_again_and_is_empty(client: Client) -> None:
    await client.upsert(LADDER)
    await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
    assert not (await client.stub.ListCollections(pb.ListCollectionsRequest())).collections
    await client.create()
    assert await client.found("ladder") == []


async def test_if_missing_returns_the_existing_collection(client: Client) -> None:
    await client.upsert(LADDER)
    there = await client.stub.CreateCollection(pb.CreateCollectionRequest(name="notes", if_missing=True))
    assert (there.documents, there.version) == (1, 1)


async def test_one_bad_document_refuses_the_whole_call(client: Client, refusal: Refusal) -> None:
    error = await refusal(client.upsert(LADDER, pb.Document(id="blank", text=" \n")))
    assert error.code == "empty_document"
    assert (await client.collection()).documents == 0
