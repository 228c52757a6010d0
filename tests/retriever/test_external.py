"""Collections in the user's own stores: Qdrant's local mode, Milvus Lite, and the search APIs of two others."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import grpc
import numpy as np
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.collections.external import ExternalCollection
from pointsman_retriever.domain import CollectionId
from pointsman_retriever.external.elasticsearch import ElasticsearchIndex, OpensearchIndex
from pointsman_retriever.external.milvus import MilvusCollection
from pointsman_retriever.external.qdrant import QdrantCollection
from pointsman_retriever.external.stores import ExternalOptions, Hit, Layout, read_external
from pointsman_servicekit.errors import FailedPrecondition
from pymilvus import DataType, MilvusClient
from qdrant_client import QdrantClient, models

from tests.gateway.doubles.certificates import Authority
from tests.retriever.client import Start
from tests.retriever.external_conformance import DIMENSIONS, FIELDS, Conformance, asked, payloads, rows, toward
from tests.retriever.search_api import ELASTICSEARCH_KEYS, OPENSEARCH_KEYS, search_server


class TestQdrant(Conformance):
    implementation = QdrantCollection

    @pytest.fixture
    def options(self, tmp_path: Path) -> ExternalOptions:
        client = QdrantClient(path=str(tmp_path / "qdrant"))
        client.create_collection(
            "docs", vectors_config=models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
        )
        client.upsert(
            "docs",
            [
                models.PointStruct(id=row.number, vector=row.vector.tolist(), payload=payload)
                for row, payload in zip(rows(), payloads(), strict=True)
            ],
        )
        client.close()
        return ExternalOptions(str(tmp_path / "qdrant"), "docs", "", 5.0, FIELDS)


class TestMilvus(Conformance):
    implementation = MilvusCollection

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExternalOptions]:
        file = str(tmp_path_factory.mktemp("milvus") / "shared.db")
        client = MilvusClient(uri=file)
        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSIONS)
        for name in ("source", "title", "body", "topic"):
            schema.add_field(name, DataType.VARCHAR, max_length=200)
        indexes = MilvusClient.prepare_index_params()
        indexes.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
        client.create_collection("docs", schema=schema, index_params=indexes, consistency_level="Strong")
        data = [
            {"id": row.number, "vector": row.vector.tolist(), **payload}
            for row, payload in zip(rows(), payloads(), strict=True)
        ]
        client.insert("docs", data)
        client.flush("docs")
        yield ExternalOptions(file, "docs", "", 5.0, FIELDS)
        client.close()


TEXT_FIELDS = {name: {"type": "text"} for name in ("source", "title", "body", "topic")}


class TestElasticsearch(Conformance):
    implementation: type[Any] = ElasticsearchIndex
    has_words = True
    vector_mapping: ClassVar[dict[str, Any]] = {"type": "dense_vector", "dims": DIMENSIONS, "similarity": "cosine"}
    keys: ClassVar[set[str]] = ELASTICSEARCH_KEYS

    @pytest.fixture
    def options(self) -> Iterator[ExternalOptions]:
        mapping = {"properties": {**TEXT_FIELDS, "vector": self.vector_mapping}}
        documents = {
            str(row.number): {**payload, "vector": row.vector.tolist()}
            for row, payload in zip(rows(), payloads(), strict=True)
        }
        with search_server("docs", mapping, documents, self.keys) as url:
            yield ExternalOptions(url, "docs", "", 5.0, FIELDS)


class TestOpensearch(TestElasticsearch):
    implementation = OpensearchIndex
    vector_mapping: ClassVar[dict[str, Any]] = {
        "type": "knn_vector",
        "dimension": DIMENSIONS,
        "method": {"space_type": "cosinesimil"},
    }
    keys: ClassVar[set[str]] = OPENSEARCH_KEYS


@pytest.mark.parametrize("index", [ElasticsearchIndex, OpensearchIndex])
def test_openssls_variable_names_the_authority_of_a_stores_certificate(
    index: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, "company")
    server = authority.sign("store")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(server.certificate, server.key)
    with search_server("docs", {"properties": TEXT_FIELDS}, {}, ELASTICSEARCH_KEYS, tls) as url:
        options = ExternalOptions(url, "docs", "a:b", 5.0, FIELDS)
        with pytest.raises(Exception, match=r"certificate verify failed|TLS error"):
            index(options).read_layout()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        assert index(options).read_layout().documents == 0


async def test_the_service_searches_a_configured_collection_and_refuses_to_write_to_it(
    start: Start, tmp_path: Path
) -> None:
    client = QdrantClient(path=str(tmp_path / "qdrant"))
    client.create_collection("docs", vectors_config=models.VectorParams(size=384, distance=models.Distance.COSINE))
    vector = np.ones(384) / 384**0.5
    client.upsert("docs", [models.PointStruct(id=1, vector=vector.tolist(), payload={"body": "Dogs", "file": "d.md"})])
    client.close()
    file = tmp_path / "pointsman.yaml"
    file.write_text(
        "collections:\n  local: handbook\n  handbook:\n    store: qdrant\n"
        f"    url: {tmp_path / 'qdrant'}\n    name: docs\n    fields: {{text: body, source: file}}\n"
    )
    async with start(collections=file) as service:
        assert await service.found("do dogs travel?", collection="handbook") == ["d.md"]
        listed = await service.collection("handbook")
        assert (listed.documents, listed.dimensions, listed.problem) == (1, 384, "")
        with pytest.raises(grpc.aio.AioRpcError, match="does not write to it"):
            await service.delete("d.md", collection="handbook")
        with pytest.raises(grpc.aio.AioRpcError, match="does not write to it"):
            await service.stub.DeleteCollection(pb.DeleteCollectionRequest(name="handbook"))


async def test_other_collections_are_searched_while_a_store_hangs(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "pointsman.yaml"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"http://127.0.0.1:{silent.getsockname()[1]}"
        file.write_text(
            f"collections: {{slow: {{store: qdrant, url: '{where}', timeout_seconds: 30, fields: {{text: body}}}}}}"
        )
        async with start(collections=file, search_threads=1) as service:
            await service.create()
            await service.upsert(pb.Document(id="dogs", text="Dogs need a ticket"))
            hanging = asyncio.ensure_future(service.found("dogs", collection="slow"))
            connection, _ = await asyncio.to_thread(silent.accept)

            assert await service.found("dogs") == ["dogs"]

            assert not hanging.done()
            connection.close()
            with pytest.raises(grpc.aio.AioRpcError, match="the store of collection 'slow' failed"):
                await hanging


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "collections: {a: {store: qdrant, url: u, fields: {txt: b}}}",
            "unknown key 'fields.txt'; known: text, source",
        ),
        ("collections: {a: {store: qdrant, fields: {text: b}}}", "'url': Field required"),
        ("collections: [", "cannot be read as YAML"),
        ("models: {}", "has no `collections`"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "pointsman.yaml"
    file.write_text(text)
    with pytest.raises(FailedPrecondition) as refused:
        read_external(file)
    assert message in str(refused.value)


class OddStore:
    """An external store whose rows are given by a test; implements ExternalStore."""

    def __init__(self, hits: list[Hit]) -> None:
        self._hits = hits

    def read_layout(self) -> Layout:
        return Layout(DIMENSIONS, has_words=True)

    def by_meaning(self, vector: Any, count: int) -> list[Hit]:
        return self._hits

    def by_words(self, text: str, count: int) -> list[Hit]:
        return self._hits

    def close(self) -> None:
        """Does nothing, because the store has no resources."""


GOOD = Hit("1", {"body": "Dogs ride free.", "title": None, "topic": None}, 0.9)
ODD_HITS: list[Any] = [
    Hit("2", {"body": None}, 0.5),
    Hit("2", {"body": ""}, 0.5),
    Hit("2", {}, 0.5),
    Hit("2", {"body": "x"}, float("nan")),
    Hit("2", {"body": "x"}, float("inf")),
    Hit("2", {"body": "x"}, None),  # type: ignore[arg-type]  # as Elasticsearch's score of a sorted search
    Hit("2", {"body": "x"}, "0.5"),  # type: ignore[arg-type]
    Hit("", {"body": "x"}, 0.5),
    Hit(None, {"body": "x"}, 0.5),  # type: ignore[arg-type]
    Hit("2", None, 0.5),  # type: ignore[arg-type]
    Hit("2", ["body"], 0.5),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("odd", ODD_HITS, ids=range(len(ODD_HITS)))
def test_rows_without_id_score_or_text_are_left_out(odd: Hit, caplog: pytest.LogCaptureFixture) -> None:
    store = OddStore([odd, GOOD])
    opened = ExternalCollection(CollectionId("default", "docs"), FIELDS, lambda: store, "model")
    found = opened.search(asked("dogs", toward(1)))
    assert [passage.text for passage in found.passages] == ["Dogs ride free."]
    assert "1 of 2 hits" in caplog.text


def test_texts_that_are_none_are_shown_as_texts_that_can_be_sent() -> None:
    store = OddStore([Hit("\ud800", {"body": "a\ud800b", "title": 5, "topic": {"a": [1]}}, 0.9)])
    opened = ExternalCollection(CollectionId("default", "docs"), FIELDS, lambda: store, "model")
    (passage,) = opened.search(asked("dogs", toward(1))).passages
    assert (passage.text, passage.title, passage.document_id) == ("a?b", "5", "?")
    assert passage.metadata == {"topic": "{'a': [1]}"}
