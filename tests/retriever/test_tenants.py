"""Tenants are isolated, names cannot escape the data folder, and quotas hold."""

import asyncio
from pathlib import Path
from typing import TypedDict, Unpack

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb

from tests.retriever.client import Client, Refusal, Start
from tests.retriever.ingests import FAILED, WRITTEN, ingest

NOTE = pb.Document(id="note", text="A note on the ladder.")
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


class Quota(TypedDict, total=False):
    documents: int
    chunks: int
    bytes: int


async def create(client: Client, name: str = "notes", tenant: str = "", **quota: Unpack[Quota]) -> pb.Collection:
    request = pb.CreateCollectionRequest(name=name, tenant=tenant, quota=pb.Quota(**quota) if quota else None)
    created: pb.Collection = await client.stub.CreateCollection(request)
    return created


async def test_a_collection_is_visible_to_its_tenant_only(start: Start, refusal: Refusal) -> None:
    async with start() as client:
        await create(client, tenant="acme")
        await client.stub.Upsert(pb.UpsertRequest(tenant="acme", collection="notes", documents=[NOTE]))
        for tenant in ("", "default", "globex"):
            listed = await client.stub.ListCollections(pb.ListCollectionsRequest(tenant=tenant))
            assert not listed.collections
            for call in (
                client.stub.Search(pb.SearchRequest(tenant=tenant, collection="notes", query="ladder")),
                client.stub.Upsert(pb.UpsertRequest(tenant=tenant, collection="notes", documents=[NOTE])),
                client.stub.Delete(pb.DeleteRequest(tenant=tenant, collection="notes", ids=["note"])),
                client.stub.DeleteCollection(pb.DeleteCollectionRequest(tenant=tenant, name="notes")),
                client.stub.Verify(pb.VerifyRequest(tenant=tenant, collection="notes")),
                client.stub.ConfigureCollection(pb.ConfigureCollectionRequest(tenant=tenant, collection="notes")),
                ingest(client, NOTE, tenant=tenant),
            ):
                assert (await refusal(call)).code == "unknown_collection"
        listed = await client.stub.ListCollections(pb.ListCollectionsRequest(tenant="acme"))
        assert [(one.tenant, one.name, one.documents) for one in listed.collections] == [("acme", "notes", 1)]


async def test_two_tenants_can_use_the_same_collection_name(start: Start, tmp_path: Path) -> None:
    async with start() as client:
        for tenant in ("acme", "globex"):
            await create(client, tenant=tenant)
            document = pb.Document(id="a", text=f"The secret of {tenant}.")
            await client.stub.Upsert(pb.UpsertRequest(tenant=tenant, collection="notes", documents=[document]))
        await client.stub.DeleteCollection(pb.DeleteCollectionRequest(tenant="globex", name="notes"))
    assert sorted(str(file.relative_to(tmp_path / "data")) for file in (tmp_path / "data").glob("*/*/*")) == [
        "acme/notes/store.sqlite3"
    ]
    async with start() as client:
        answer = await client.stub.Search(pb.SearchRequest(tenant="acme", collection="notes", query="secret", top_k=10))
        assert [passage.text for passage in answer.passages] == ["The secret of acme."]


@pytest.mark.parametrize("tenant", ["..", "a/b", "../default", ".scratch", "UP", "a" * 65, "a\x00"])
async def test_a_tenant_name_that_could_escape_the_folder_is_refused(
    client: Client, refusal: Refusal, tenant: str
) -> None:
    for call in (
        client.stub.CreateCollection(pb.CreateCollectionRequest(name="notes", tenant=tenant)),
        client.stub.ListCollections(pb.ListCollectionsRequest(tenant=tenant)),
        client.stub.Search(pb.SearchRequest(tenant=tenant, collection="notes", query="x")),
        ingest(client, NOTE, tenant=tenant),
    ):
        error = await refusal(call)
        assert (error.grpc_status, error.code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_tenant")


@pytest.mark.parametrize(
    ("quota", "fits", "too_much"),
    [
        ({"documents": 2}, ["a", "b"], "c"),
        ({"chunks": 2}, ["a", "b"], "c"),
        ({"bytes": 2 * (1 + len(NOTE.text) + 4 * 384)}, ["a", "b"], "c"),
    ],
    ids=["documents", "chunks", "bytes"],
)
async def test_a_quota_refuses_only_what_exceeds_it(
    start: Start, refusal: Refusal, quota: Quota, fits: list[str], too_much: str
) -> None:
    async with start() as client:
        await create(client, **quota)
        for identifier in fits:
            await client.upsert(pb.Document(id=identifier, text=NOTE.text))
        before = await client.collection()
        error = await refusal(client.upsert(pb.Document(id=too_much, text=NOTE.text)))
        assert (error.grpc_status, error.code, error.param) == (EXHAUSTED, "quota_exceeded", next(iter(quota)))
        assert "quota is" in error.message
        assert await client.collection() == before
        await client.upsert(pb.Document(id="a", text=NOTE.text[::-1]))  # replaces an existing one
        await client.delete("b")
        await client.upsert(pb.Document(id=too_much, text=NOTE.text))
        assert set(await client.found("ladder", top_k=10)) == {"a", too_much}


async def test_reaching_the_quota_does_not_end_an_ingest(start: Start) -> None:
    async with start() as client:
        await create(client, documents=1)
        done = await ingest(client, pb.Document(id="a", text="One."), pb.Document(id="b", text="Two."))
        assert done.states == {"a": WRITTEN, "b": FAILED}
        assert [outcome.code for outcome in done.outcomes] == ["", "quota_exceeded"]


async def test_one_callers_quota_error_does_not_affect_another_caller(start: Start, refusal: Refusal) -> None:
    # Concurrent calls are committed together; if one exceeds the quota, only that one is rolled back.
    async with start() as client:
        await create(client, documents=10)
        many = client.upsert(*(pb.Document(id=f"m{n}", text=f"Many {n}.") for n in range(11)))
        singles = (client.upsert(pb.Document(id=f"s{n}", text=f"Single {n}.")) for n in range(10))
        refused = asyncio.ensure_future(refusal(many))
        await asyncio.gather(*singles)
        assert (await refused).code == "quota_exceeded"
        assert (await client.collection()).documents == 10


async def test_a_quota_can_be_raised_and_lowered_without_losing_documents(start: Start, refusal: Refusal) -> None:
    async with start() as client:
        await create(client, documents=1)
        await client.upsert(NOTE)
        configure = pb.ConfigureCollectionRequest(collection="notes", quota=pb.Quota(documents=3))
        assert (await client.stub.ConfigureCollection(configure)).quota.documents == 3
        await client.upsert(pb.Document(id="b", text="B."), pb.Document(id="c", text="C."))
        configure.quota.documents = 1
        await client.stub.ConfigureCollection(configure)
        await client.delete("c")  # still over the quota, but less
        assert (await refusal(client.upsert(pb.Document(id="d", text="D.")))).code == "quota_exceeded"
    async with start() as client:
        assert (await client.collection()).quota.documents == 1
        assert (await client.collection()).documents == 2


async def test_bytes_count_texts_and_vectors(client: Client) -> None:
    document = pb.Document(id="ab", title="Tür", text="Ein Text.", metadata={"k": "v"})
    await client.upsert(document)
    assert (await client.collection()).bytes == 2 + 4 + 9 + 2 + 4 * 384
    await client.delete("ab")
    assert (await client.collection()).bytes == 0


async def test_the_number_of_a_tenants_collections_is_limited(start: Start, refusal: Refusal) -> None:
    async with start(tenant_collections=2, quota_documents=7) as client:
        assert (await create(client, "one")).quota.documents == 7
        await create(client, "two")
        error = await refusal(create(client, "three"))
        assert (error.grpc_status, error.code) == (EXHAUSTED, "quota_exceeded")
        await create(client, "three", tenant="acme")
        await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="one"))
        await create(client, "three")
