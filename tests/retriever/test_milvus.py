"""The whole service with Milvus Lite as its vector store."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.domain import CollectionInfo
from pointsman_retriever.index.vector_stores import VectorStoreOptions

from tests.retriever.client import Start

milvus = pytest.importorskip("pointsman_retriever.index.milvus", exc_type=ImportError)
NOTES = CollectionInfo("notes", "model", 4)
VECTOR = np.array([1, 0, 0, 0], np.float32)


@contextmanager
def filled(url: str, owner: str, prefix: str = "pointsman") -> Iterator[object]:
    """Yields a collection with one vector, of a retriever whose data folder has the id `owner`."""
    store = milvus.MilvusStore(VectorStoreOptions(url, prefix=prefix, owner=owner))
    yield store.empty_index(NOTES).with_changes(np.empty(0, np.int64), np.array([7]), VECTOR[None])
    store.close()


async def test_a_retriever_serves_from_milvus_and_fills_it_again_at_each_start(start: Start, tmp_path: Path) -> None:
    milvus = str(tmp_path / "lite.db")
    async with start(vector_store="milvus", vector_store_url=milvus) as client:
        await client.create()
        await client.upsert(
            pb.Document(id="cat", text="A cat sleeps on the windowsill.", metadata={"kind": "animal"}),
            pb.Document(id="rain", text="Tomorrow brings heavy showers."),
            pb.Document(id="car", text="The motor of the automobile needs spark plugs.", metadata={"kind": "thing"}),
        )
        assert (await client.found("vehicle engine"))[0] == "car"
        assert await client.found("vehicle engine", filter={"kind": "animal"}) == ["cat"]
        await client.delete("car")
        await client.upsert(pb.Document(id="rain", text="Tomorrow will be dry and sunny."))
        assert sorted(await client.found("vehicle engine", top_k=9)) == ["cat", "rain"]
        verified = await client.stub.Verify(pb.VerifyRequest(collection="notes"))
        assert list(verified.problems) == []
    async with start(vector_store="milvus", vector_store_url=milvus) as client:
        answer = await client.search("will it rain?", top_k=9)
        assert answer.passages[0].text == "Tomorrow will be dry and sunny."
        assert len(answer.passages) == 2
        await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))


@pytest.mark.parametrize("prefix", ["pointsman", "pointsman_dev"])
def test_a_retriever_that_starts_leaves_the_collections_of_others_alone(tmp_path: Path, prefix: str) -> None:
    url = str(tmp_path / "lite.db")
    with filled(url, "1f", prefix) as first, filled(url, "2e") as second, filled(url, "1f2e"):
        assert [index.nearest(VECTOR, 1, None).tolist() for index in (first, second)] == [[7], [7]]  # type: ignore[attr-defined]


def test_what_a_killed_retriever_has_left_in_milvus_is_dropped_at_its_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = str(tmp_path / "lite.db")
    with filled(url, "prod") as before, filled(url, "prod"):  # no index is closed, as if the process had been killed
        (left,) = milvus.MilvusClient(uri=url).list_collections()
        assert left.startswith("pointsman_prod_default_notes_")
        assert left != before.name  # type: ignore[attr-defined]
    with filled(url, "dev"):
        assert f"begin with pointsman_ and belong to other retrievers (such as {left})" in caplog.text


async def test_retrievers_with_data_folders_of_their_own_share_a_milvus(start: Start, tmp_path: Path) -> None:
    shared = {"vector_store": "milvus", "vector_store_url": str(tmp_path / "lite.db")}
    async with start(**shared) as one:
        await one.create()
        await one.upsert(pb.Document(id="cat", text="A cat sleeps on the windowsill."))
        async with start(**shared, data=tmp_path / "other") as other:
            await other.create()
            await other.upsert(pb.Document(id="car", text="The motor of the automobile needs spark plugs."))
            assert await one.found("animal") == ["cat"]
            assert await other.found("vehicle") == ["car"]
        assert await one.found("animal") == ["cat"]
