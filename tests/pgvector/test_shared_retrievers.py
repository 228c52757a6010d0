"""Two retrievers that share collections in a real PostgreSQL, over gRPC, and moves between them and the data folder."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import retriever_pb2 as pb

from tests.pgvector.conftest import Run
from tests.retriever.client import Client, Refusal, Start
from tests.retriever.ingests import ingest

PREFIX = "pointsman_served"
DOCUMENTS = [
    pb.Document(
        id="bicycles", title="Bicycles", text="A bicycle travels free outside the rush hour.", metadata={"n": "1"}
    ),
    pb.Document(id="dogs", title="Dogs", text="A dog needs a ticket and a muzzle.", metadata={"n": "2"}),
    pb.Document(id="refunds", title="Refunds", text="Delays of an hour are refunded in part.", metadata={"n": "3"}),
]


@pytest.fixture
def shared(url: str, run: Run) -> dict[str, Any]:
    """Returns the settings of a retriever with an empty shared store."""
    run(f"DROP SCHEMA IF EXISTS {PREFIX} CASCADE")
    return {"shared_store": "pgvector", "shared_store_url": url, "shared_store_prefix": PREFIX}


Pair = tuple[Client, Client]


@pytest.fixture
async def pair(start: Start, shared: dict[str, Any], tmp_path: Path) -> AsyncIterator[Pair]:
    """Yields clients of two retrievers with one shared store and a data folder each."""
    async with start(data=tmp_path / "a", **shared) as first, start(data=tmp_path / "b", **shared) as second:
        yield first, second


async def move(client: Client, store: str) -> list[pb.MoveProgress]:
    return [one async for one in client.stub.Move(pb.MoveRequest(collection="notes", store=store))]


async def search_everything(client: Client) -> list[pb.SearchResponse]:
    searches = [
        pb.SearchRequest(collection="notes", query="may I take my dog", top_k=3, explain=True),
        pb.SearchRequest(collection="notes", query="muzzle", dense_weight=0.0),
        pb.SearchRequest(collection="notes", query="cycling", dense_weight=1.0, diversity=0.3),
        pb.SearchRequest(collection="notes", query="a late train", fusion=pb.RRF, per_document=1, neighbours=1),
        pb.SearchRequest(collection="notes", query="dog", where=pb.Filter(exists="n"), filter={"n": "1"}),
    ]
    return [await client.stub.Search(one) for one in searches]


async def test_what_one_retriever_writes_the_other_finds_changes_and_deletes(pair: Pair, refusal: Refusal) -> None:
    first, second = pair
    created = await first.create()
    assert (created.store, created.documents) == ("shared", 0)
    await first.upsert(*DOCUMENTS)
    assert await second.found("my dog") == await first.found("my dog")
    assert (await second.collection()).documents == 3
    await second.delete("dogs")
    assert "dogs" not in await first.found("my dog")
    unchanged = await second.upsert(DOCUMENTS[0])
    assert (unchanged.unchanged, unchanged.chunks) == (1, 0)
    await second.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
    assert (await refusal(first.search("dog"))).code == "unknown_collection"


async def test_ingests_of_two_retrievers_lose_and_double_nothing(pair: Pair) -> None:
    first, second = pair
    await first.create()
    sent = [
        [pb.Document(id=f"{name}-{number}", text=f"Note {number} of {name}") for number in range(40)] for name in "ab"
    ]
    both = pb.Document(id="both", text="The same note from both")
    await asyncio.gather(ingest(first, *sent[0], both), ingest(second, *sent[1], both))
    info = await first.collection()
    assert (info.documents, info.chunks) == (81, 81)
    verified = await second.stub.Verify(pb.VerifyRequest(collection="notes"))
    assert (list(verified.problems), verified.documents) == ([], 81)


async def test_a_shared_collection_answers_as_a_local_one(pair: Pair) -> None:
    client, _ = pair
    answers = []
    for store in ("local", "shared"):
        await client.stub.CreateCollection(pb.CreateCollectionRequest(name="notes", store=store))
        await client.upsert(*DOCUMENTS)
        answers.append(await search_everything(client))
        await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
    for ours, theirs in zip(*answers, strict=True):
        assert [one.document_id for one in ours.passages] == [one.document_id for one in theirs.passages]
        assert [one.metadata for one in ours.passages] == [one.metadata for one in theirs.passages]
        for one in ("score", "dense_score", "sparse_score"):
            expected = pytest.approx([getattr(passage, one) for passage in ours.passages], abs=1e-5)
            assert [getattr(passage, one) for passage in theirs.passages] == expected
        assert (ours.relevant, ours.best_coverage) == (theirs.relevant, pytest.approx(theirs.best_coverage))


async def test_a_restarted_retriever_serves_at_once_and_without_its_data_folder(
    start: Start,
    shared: dict[str, Any],
    tmp_path: Path,
) -> None:
    async with start(data=tmp_path / "a", **shared) as client:
        await client.create()
        await client.upsert(*DOCUMENTS)
        expected = await client.found("my dog")
    async with start(data=tmp_path / "empty", **shared) as client:
        assert await client.found("my dog") == expected
        assert [file.name for file in (tmp_path / "empty").glob("*/*")] == []


@pytest.mark.parametrize(("first_store", "second_store"), [("local", "shared"), ("shared", "local")])
async def test_a_move_keeps_documents_vectors_quota_and_settings(
    pair: Pair,
    refusal: Refusal,
    first_store: str,
    second_store: str,
) -> None:
    client, other = pair
    request = pb.CreateCollectionRequest(name="notes", store=first_store, quota=pb.Quota(documents=9))
    await client.stub.CreateCollection(request)
    await client.upsert(*DOCUMENTS)
    settings = pb.SearchSettings(dense_weight=0.25)
    await client.stub.ConfigureSearch(pb.ConfigureSearchRequest(collection="notes", settings=settings))
    before, answers = await client.collection(), await search_everything(client)

    last = (await move(client, second_store))[-1]

    after = await client.collection()
    assert last.collection == after
    assert (after.store, after.quota.documents, after.bytes) == (second_store, 9, before.bytes)
    assert after.version > before.version
    moved = await search_everything(client)
    assert [[one.text for one in answer.passages] for answer in moved] == [
        [one.text for one in answer.passages] for answer in answers
    ]
    assert not (await client.stub.Verify(pb.VerifyRequest(collection="notes"))).problems
    assert (await client.upsert(*DOCUMENTS)).unchanged == 3
    if second_store == "shared":
        assert (await other.collection()).documents == 3
    else:
        assert (await refusal(other.search("dog"))).code == "unknown_collection"


async def test_searches_and_writes_go_on_during_a_move(pair: Pair) -> None:
    client, other = pair
    await client.stub.CreateCollection(pb.CreateCollectionRequest(name="notes", store="local"))
    await client.upsert(*(pb.Document(id=f"d{number}", text=f"Note {number}") for number in range(600)))
    moving = asyncio.create_task(move(client, "shared"))
    written = 0
    while not moving.done():
        await client.upsert(pb.Document(id=f"new{written}", text=f"A ladder {written}"))
        written += 1
        assert await client.found("ladder")
    await client.delete("d0")
    assert moving.result()[-1].collection.store == "shared"
    info = await other.collection()
    assert written > 0
    assert info.documents == 600 + written - 1
    assert not (await other.stub.Verify(pb.VerifyRequest(collection="notes"))).problems


async def test_what_is_not_possible_is_refused_with_the_remedy(pair: Pair, start: Start, refusal: Refusal) -> None:
    first, second = pair
    await first.stub.CreateCollection(pb.CreateCollectionRequest(name="notes", store="local"))
    await second.create()
    assert (await refusal(move(first, "shared"))).code == "collection_exists"
    assert (await refusal(move(first, "elsewhere"))).code == "unknown_store"
    nul = await refusal(second.upsert(pb.Document(id="nul", text="a \0 b")))
    assert (nul.code, "NUL" in nul.message) == ("nul_character", True)


async def test_concurrent_calls_create_no_more_collections_than_a_tenant_may_have(
    start: Start, shared: dict[str, Any], refusal: Refusal
) -> None:
    async with start(tenant_collections=1, **shared) as client:
        created = await asyncio.gather(
            *(client.create(f"notes{number}") for number in range(8)), return_exceptions=True
        )
        assert sum(isinstance(one, pb.Collection) for one in created) == 1
        listed = await client.stub.ListCollections(pb.ListCollectionsRequest())
        assert len(listed.collections) == 1
        assert (await refusal(client.create("more"))).code == "quota_exceeded"


async def test_a_nul_character_fails_only_the_documents_that_have_it(pair: Pair, refusal: Refusal) -> None:
    client, _ = pair
    await client.create()
    nul = [
        pb.Document(id="text", text="a \0 b"),
        pb.Document(id="title", title="a \0 b", text="b"),
        pb.Document(id="i\0d", text="b"),
        pb.Document(id="metadata", text="b", metadata={"a": "\0"}),
    ]
    outcomes = (await ingest(client, DOCUMENTS[0], *nul, DOCUMENTS[1])).outcomes
    assert [one.code for one in outcomes] == ["", *["nul_character"] * 4, ""]
    first, failed, deleted = await asyncio.gather(
        client.upsert(DOCUMENTS[2]),
        asyncio.gather(*(refusal(client.upsert(one)) for one in nul)),
        client.delete("a\0b", "dogs"),
    )
    assert first.documents == 1
    assert {one.code for one in failed} == {"nul_character"}
    assert deleted.deleted == 1
    assert (await client.collection()).documents == 2


@pytest.mark.parametrize(
    ("method", "remedy"),
    [("Snapshot", "pg_dump"), ("Restore", "pg_restore"), ("Reembed", "pointsman retriever move --to local")],
)
async def test_an_operation_of_local_collections_names_what_works_instead(
    pair: Pair,
    refusal: Refusal,
    method: str,
    remedy: str,
) -> None:
    client, _ = pair
    await client.create()
    begin = pb.RestoreRequest(begin=pb.RestoreBegin(collection="notes", replace=True))
    calls = {
        "Snapshot": lambda: anext(aiter(client.stub.Snapshot(pb.SnapshotRequest(collection="notes")))),
        "Restore": lambda: client.stub.Restore(iter([begin])),
        "Reembed": lambda: anext(aiter(client.stub.Reembed(pb.ReembedRequest(collection="notes")))),
    }
    refused = await refusal(calls[method]())
    assert (refused.code, remedy in refused.message) == ("shared_collection", True)


async def test_without_a_shared_store_collections_are_local(start: Start, refusal: Refusal) -> None:
    async with start() as client:
        assert (await client.create()).store == "local"
        assert (await refusal(move(client, "shared"))).code == "no_shared_store"


async def test_a_store_that_is_away_at_the_start_is_used_when_it_is_back(
    start: Start,
    refusal: Refusal,
    shared: dict[str, Any],
) -> None:
    shared["shared_store_url"] = "postgresql://postgres@127.0.0.1:9/postgres"
    async with start(**shared) as client:
        assert (await refusal(client.search("dog"))).code == "store_unavailable"
        await client.stub.CreateCollection(pb.CreateCollectionRequest(name="notes", store="local"))
        await client.upsert(DOCUMENTS[1])
        assert await client.found("dog") == ["dogs"]
