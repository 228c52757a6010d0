"""Invalid calls are refused with their status and code."""

import math
from typing import Any

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import MiniLM

from tests.retriever.client import Client, Refusal, Start

MIB = 1024 * 1024
NOTE = pb.Document(id="note", text="A note.")
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["", "Upper", "with space", "../x", "a" * 65, "ü", "a\n"])
async def test_a_bad_collection_name(client: Client, refusal: Refusal, name: str) -> None:
    for call in (
        client.create(name),
        client.upsert(NOTE, collection=name),
        client.delete("x", collection=name),
        client.search("x", collection=name),
        client.stub.DeleteCollection(pb.DeleteCollectionRequest(name=name)),
    ):
        error = await refusal(call)
        assert (error.grpc_status, error.code) == (INVALID, "invalid_collection_name")


async def test_an_unknown_collection(client: Client, refusal: Refusal) -> None:
    for call in (
        client.upsert(NOTE, collection="nowhere"),
        client.delete("x", collection="nowhere"),
        client.search("x", collection="nowhere"),
        client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="nowhere")),
    ):
        error = await refusal(call)
        assert (error.grpc_status, error.code) == (grpc.StatusCode.NOT_FOUND, "unknown_collection")
        assert "nowhere" in error.message


async def test_a_name_that_is_taken(client: Client, refusal: Refusal) -> None:
    error = await refusal(client.create())
    assert (error.grpc_status, error.code) == (grpc.StatusCode.ALREADY_EXISTS, "collection_exists")


@pytest.mark.parametrize("name", ["documents", "chunks", "bytes"])
async def test_a_quota_that_no_database_can_store(client: Client, refusal: Refusal, name: str) -> None:
    for limit, is_allowed in ((2**63 - 1, True), (2**63, False), (2**64 - 1, False)):
        quota = pb.Quota(**{name: limit})
        configure = client.stub.ConfigureCollection(pb.ConfigureCollectionRequest(collection="notes", quota=quota))
        create = client.stub.CreateCollection(
            pb.CreateCollectionRequest(name=f"new-{name}", quota=quota, if_missing=True)
        )
        for call in (configure, create):
            if is_allowed:
                assert getattr((await call).quota, name) == limit
                continue
            error = await refusal(call)
            assert (error.grpc_status, error.code, error.param) == (INVALID, "invalid_quota", f"quota.{name}")


@pytest.mark.parametrize(
    ("documents", "code"),
    [
        pytest.param([pb.Document(id="", text="x")], "invalid_document_id", id="no id"),
        pytest.param([pb.Document(id="é" * 129, text="x")], "invalid_document_id", id="258 bytes of id"),
        pytest.param([pb.Document(id="a", text="")], "empty_document", id="no text"),
        pytest.param([pb.Document(id="a", text="\n\t ")], "empty_document", id="blank text"),
        pytest.param([NOTE, NOTE], "duplicate_document_id", id="an id twice"),
        pytest.param(
            [pb.Document(id="a", text="x", metadata={str(n): "" for n in range(17)})],
            "too_many_metadata_entries",
            id="17 entries",
        ),
        pytest.param([pb.Document(id="a", text="x", metadata={"": "v"})], "empty_metadata_key", id="an empty key"),
        pytest.param([pb.Document(id="a", text="x" * (4 * MIB))], "document_too_large", id="4 MiB and a byte"),
        pytest.param([pb.Document(id=str(n), text="x") for n in range(1001)], "too_many_documents", id="1,001"),
        pytest.param(
            [pb.Document(id=str(n), text="x" * (4 * MIB - 2)) for n in range(9)], "call_too_large", id="36 MiB"
        ),
    ],
)
async def test_a_bad_document(client: Client, refusal: Refusal, documents: list[pb.Document], code: str) -> None:
    error = await refusal(client.upsert(*documents))
    assert (error.grpc_status, error.code) == (INVALID, code)
    assert (await client.collection()).version == 0


async def test_a_bad_id_to_delete(client: Client, refusal: Refusal) -> None:
    error = await refusal(client.delete("fine", ""))
    assert (error.grpc_status, error.code) == (INVALID, "invalid_document_id")


@pytest.mark.parametrize(
    ("query", "how", "code"),
    [
        pytest.param("", {}, "empty_query", id="no query"),
        pytest.param(" \n", {}, "empty_query", id="blank query"),
        pytest.param("x" * (64 * 1024 + 1), {}, "query_too_large", id="64 KiB and a byte"),
        pytest.param("x", {"top_k": 101}, "invalid_top_k", id="101 passages"),
        pytest.param("x", {"dense_weight": 1.5}, "invalid_dense_weight", id="weight above 1"),
        pytest.param("x", {"dense_weight": -0.1}, "invalid_dense_weight", id="weight below 0"),
        pytest.param("x", {"dense_weight": math.nan}, "invalid_dense_weight", id="weight not a number"),
        pytest.param(
            "x", {"filter": {str(n): "" for n in range(17)}}, "too_many_metadata_entries", id="17 entries to filter by"
        ),
    ],
)
async def test_a_bad_query(client: Client, refusal: Refusal, query: str, how: dict[str, Any], code: str) -> None:
    error = await refusal(client.search(query, **how))
    assert (error.grpc_status, error.code) == (INVALID, code)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="none"),
        pytest.param([1.0] * 383, id="383"),
        pytest.param([0.0] * 384, id="zeros"),
        pytest.param([math.nan] + [1.0] * 383, id="not a number"),
        pytest.param([math.inf] + [1.0] * 383, id="infinite"),
    ],
)
async def test_a_bad_vector(client: Client, refusal: Refusal, minilm: MiniLM, values: list[float]) -> None:
    error = await refusal(client.search("x", vector=pb.Vector(fingerprint=minilm.fingerprint, values=values)))
    assert (error.grpc_status, error.code, error.param) == (INVALID, "invalid_vector", "vector")


@pytest.mark.parametrize("fingerprint", ["", "another-model"])
async def test_a_vector_of_another_model(client: Client, refusal: Refusal, fingerprint: str) -> None:
    error = await refusal(client.search("x", vector=pb.Vector(fingerprint=fingerprint, values=[1.0] * 384)))
    assert (error.grpc_status, error.code) == (grpc.StatusCode.FAILED_PRECONDITION, "fingerprint_mismatch")


class RenamedModel:
    """The real model under another name, so that the retriever takes it for another model."""

    fingerprint = "another-model"

    def __init__(self, model: MiniLM) -> None:
        self.dimensions = model.dimensions
        self.tokenizer = model.tokenizer
        self.embed = model.embed
        self.query_prefix, self.passage_prefix = model.query_prefix, model.passage_prefix
        self.max_tokens = model.max_tokens


async def test_a_collection_of_another_model(start: Start, refusal: Refusal, minilm: MiniLM) -> None:
    async with start() as before:
        await before.create()
        await before.upsert(NOTE)
    async with start(RenamedModel(minilm)) as after:
        for call in (after.search("note"), after.upsert(NOTE)):
            error = await refusal(call)
            assert (error.grpc_status, error.code) == (grpc.StatusCode.FAILED_PRECONDITION, "fingerprint_mismatch")
            assert minilm.fingerprint in error.message
            assert "another-model" in error.message
        assert (await after.collection()).fingerprint == minilm.fingerprint
        await after.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
        assert (await after.create()).fingerprint == "another-model"
