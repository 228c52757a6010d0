"""Vector stores by name: the built-in ones, and a user's own by module:attribute."""

import sys
from typing import ClassVar

import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.domain import CollectionInfo
from pointsman_retriever.index.faiss_index import FaissIndex, FaissStore, empty_faiss_index
from pointsman_retriever.index.vector_stores import VectorStoreOptions
from pointsman_servicekit.errors import FailedPrecondition

from tests.retriever.client import Start


class CountingStore:
    """A user's vector store: FAISS, which records the calls."""

    calls: ClassVar[list[str]] = []

    def __init__(self, options: VectorStoreOptions) -> None:
        CountingStore.calls = [f"opened {options.url} {options.token} {options.prefix}"]

    def empty_index(self, collection: CollectionInfo) -> FaissIndex:
        CountingStore.calls.append(f"index of {collection.id}")
        return empty_faiss_index(collection.dimensions)

    def close(self) -> None:
        CountingStore.calls.append("closed")


async def test_a_users_vector_store_is_used_and_closed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "users_store", sys.modules[__name__])
    settings = {"vector_store_url": "http://vectors", "vector_store_token": "secret", "vector_store_prefix": "ours"}
    async with start(vector_store="users_store:CountingStore", **settings) as client:
        await client.create()
        await client.upsert(pb.Document(id="cat", text="The cat."))
        assert await client.found("cat") == ["cat"]
    first, *indexes, last = CountingStore.calls
    assert (first, set(indexes), last) == ("opened http://vectors secret ours", {"index of notes"}, "closed")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("fais", "use one of faiss, milvus"), ("users:Store", "ModuleNotFoundError"), ("sys:Store", "no attribute")],
)
async def test_a_vector_store_that_cannot_be_found_prevents_the_start(start: Start, name: str, reason: str) -> None:
    with pytest.raises(FailedPrecondition, match=f"POINTSMAN_RETRIEVER_VECTOR_STORE is '{name}'.*{reason}"):
        async with start(vector_store=name):
            pass


def test_faiss_is_the_default() -> None:
    assert isinstance(FaissStore().empty_index(CollectionInfo("notes", "model", 4)), FaissIndex)
