"""The reranker and the two kinds of stores of docs/extending.md, by entry point and as `module:attribute`."""

from pathlib import Path

import pytest
from pointsman.v1 import retriever_pb2 as pb

from tests.extension_examples import install, names
from tests.retriever.client import Start


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", names("pointsman.rerankers"))
async def test_a_reranker(start: Start, name: str) -> None:
    async with start(reranker_api=name) as client:
        await client.create()
        await client.upsert(pb.Document(id="far", text="a cat"), pb.Document(id="near", text="the black cat sleeps"))
        request = pb.SearchRequest(collection="notes", query="the black cat", rerank=True, explain=True)
        passages = (await client.stub.Search(request)).passages
        assert [passage.document_id for passage in passages] == ["near", "far"]
        assert [passage.explanation.rerank_score for passage in passages] == [3, 1]


@pytest.mark.parametrize("name", names("pointsman.vector_stores"))
async def test_a_vector_store(start: Start, name: str) -> None:
    async with start(vector_store=name) as client:
        await client.create()
        await client.upsert(pb.Document(id="cat", text="The cat."), pb.Document(id="train", text="The train."))
        await client.delete("train")
        assert await client.found("kitten", dense_weight=1.0) == ["cat"]


@pytest.mark.parametrize("name", names("pointsman.external_stores"))
async def test_an_external_store(start: Start, tmp_path: Path, name: str) -> None:
    rows, config = tmp_path / "rows.jsonl", tmp_path / "pointsman.yaml"
    rows.write_text('{"body": "the cat"}\n{"body": "the train"}\n')
    config.write_text(f"collections: {{pages: {{store: '{name}', url: {rows}, fields: {{text: body}}}}}}")
    async with start(collections=config) as client:
        assert await client.found("the train", collection="pages") == ["2", "1"]
