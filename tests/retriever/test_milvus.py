"""The whole service with Milvus Lite as its vector store."""

from pathlib import Path

import pytest
from pointsman.v1 import retriever_pb2 as pb

from tests.retriever.client import Start

pytest.importorskip("pymilvus")


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
