"""A retriever with an embedding model of the user's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import Encoder
from pointsman_retriever import bootstrap
from pointsman_retriever.settings import Settings
from pointsman_servicekit.errors import FailedPrecondition, Unavailable

from tests.embedding.second_encoder import make_second_encoder
from tests.retriever.client import Refusal, Start

LONG = "\n\n".join(f"Rule {n}. A folding ladder of {n} steps may be taken along in the last coach." for n in range(80))


@pytest.fixture
def config(tmp_path: Path, model_folder: Path) -> Path:
    make_second_encoder(tmp_path / "second", model_folder, max_tokens=96, prompts={"document": "passage: "})
    file = tmp_path / "pointsman.yaml"
    file.write_text("embedding: {folder: second}\n")
    return file


async def test_a_collection_has_its_fingerprint_and_chunks_that_it_reads_whole(
    start: Start, config: Path, model_folder: Path
) -> None:
    model = bootstrap.load_model(Settings(embedding_model=model_folder, embedding_config=config))
    assert bootstrap.to_window(model) == 96 - len(model.tokenizer.encode("passage: ", add_special_tokens=False).ids)
    async with start(model=model) as client:
        created = await client.create()
        assert (created.fingerprint, created.dimensions) == (model.fingerprint, 128)
        await client.upsert(
            pb.Document(id="rules", title="Luggage", text=LONG), pb.Document(id="tea", text="Tea is served at five.")
        )
        found = await client.search("When can I drink tea?", top_k=1, dense_weight=1.0)
        assert [passage.document_id for passage in found.passages] == ["tea"]
        rules = await client.search("A ladder of 42 steps", top_k=20)
        texts = [f"passage: {p.title}\n\n{p.text}" for p in rules.passages]
        assert max(len(model.tokenizer.encode(text).ids) for text in texts) <= 96


async def test_collections_of_the_former_model_are_refused_until_they_are_migrated(
    start: Start, config: Path, model_folder: Path, refusal: Refusal
) -> None:
    async with start() as client:
        await client.create()
        await client.upsert(pb.Document(id="tea", text="Tea is served at five."))
    model = bootstrap.load_model(Settings(embedding_model=model_folder, embedding_config=config))
    async with start(model=model) as client:
        assert (await refusal(client.search("tea"))).code == "fingerprint_mismatch"
        async for _ in client.stub.Reembed(pb.ReembedRequest(collection="notes")):
            pass
        assert (await client.search("tea", dense_weight=1.0)).passages[0].document_id == "tea"
        assert (await client.collection()).fingerprint == model.fingerprint


class UnreachableEncoder:
    """An embedding model behind an endpoint that does not answer."""

    def __init__(self, model: Encoder) -> None:
        self._model = model

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise Unavailable("the endpoint does not answer", code="embedding_unavailable")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


async def test_documents_that_the_model_cannot_embed_now_are_refused_with_its_error(
    start: Start, model_folder: Path, refusal: Refusal
) -> None:
    model: Any = UnreachableEncoder(bootstrap.load_model(Settings(embedding_model=model_folder)))
    async with start(model=model) as client:
        await client.create()
        refused = await refusal(client.upsert(pb.Document(id="tea", text="Tea is served at five.")))
        assert refused.code == "embedding_unavailable"


def test_a_model_that_cannot_be_used_is_named(tmp_path: Path, model_folder: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("embedding: {folder: nowhere}\n")
    with pytest.raises(FailedPrecondition, match=f"there is no folder {tmp_path}/nowhere"):
        bootstrap.load_model(Settings(embedding_model=model_folder, embedding_config=file))
