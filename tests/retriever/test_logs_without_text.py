"""Logs contain neither document text nor queries."""

import io
import json
import logging
from collections.abc import Iterator

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_servicekit import logs

from tests.retriever.client import Client

SAID = "xyzzy my mother's maiden name is Plugh"
IDS = [("x-request-id", "r-1"), ("x-pointsman-decision-id", "d-1")]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[io.StringIO]:
    """Captures the log lines from INFO upwards."""
    written, root = io.StringIO(), logging.getLogger()
    handler = logs.make_handler(written, "retriever", "INFO", "json")
    with caplog.at_level(logging.INFO), caplog.at_level(logging.WARNING, "httpx"):  # the tests' own client
        root.addHandler(handler)
        yield written
        root.removeHandler(handler)


async def test_neither_documents_nor_queries_are_logged(client: Client, log: io.StringIO) -> None:
    stub = client.stub
    await stub.Upsert(
        pb.UpsertRequest(collection="notes", documents=[pb.Document(id="a", title=SAID, text=SAID)]), metadata=IDS
    )
    await stub.Search(pb.SearchRequest(collection="notes", query=SAID), metadata=IDS)
    vector = pb.Vector(fingerprint=SAID, values=[1.0])
    for refused in (
        pb.SearchRequest(collection="nowhere", query=SAID),
        pb.SearchRequest(collection=SAID, query=SAID),
        pb.SearchRequest(collection="notes", query=SAID, vector=vector),
    ):
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Search(refused, metadata=IDS)
    await stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"), metadata=IDS)
    logging.getLogger("pointsman_retriever").info("still here")
    text = log.getvalue()
    assert "still here" in text
    assert not [hidden for hidden in ("xyzzy", "Plugh", "maiden") if hidden in text]
    assert all(json.loads(line)["service"] == "retriever" for line in text.splitlines())
