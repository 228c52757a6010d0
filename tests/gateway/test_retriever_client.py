"""The gateway's client of the retriever."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_gateway.domain import Passage
from pointsman_gateway.prompts.retriever import RetrieverClient
from pointsman_servicekit.errors import FailedPrecondition, Unavailable
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.retriever import ScriptedRetriever


@pytest.fixture
async def client(retriever: ScriptedRetriever) -> AsyncIterator[RetrieverClient]:
    async with open_channel(retriever.address) as channel:
        yield RetrieverClient(channel, lambda: "minilm-abc")


def in_(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_the_vector_is_sent_with_its_models_fingerprint(
    client: RetrieverClient, retriever: ScriptedRetriever
) -> None:
    found = await client.search("handbook", "bikes?", np.array([0.5, 0.25], np.float32), 3, in_(5))
    (asked,) = retriever.asked
    assert (asked.collection, asked.query, asked.top_k) == ("handbook", "bikes?", 3)
    assert (asked.vector.fingerprint, list(asked.vector.values)) == ("minilm-abc", [0.5, 0.25])
    assert found.passages == (Passage("bicycles.md", "Bicycles", "Bicycles ride free.", pytest.approx(0.9)),)  # type: ignore[arg-type]  # equal to a float
    assert found.relevant


async def test_a_passage_has_all_that_shows_where_it_is_from(
    client: RetrieverClient, retriever: ScriptedRetriever
) -> None:
    for document, metadata, url in (
        ("fares.md", {}, ""),
        ("fares.md", {"url": "https://example.com/fares"}, "https://example.com/fares"),
        ("https://example.com/f", {}, "https://example.com/f"),
    ):
        retriever.passages = [
            pb.Passage(
                document_id=document, title="Fares", text="Free.", heading="Fares > Bicycles", start=40, end=45,
                metadata=metadata,
            )
        ]  # fmt: skip
        (passage,) = (await client.search("handbook", "bikes?", None, 3, in_(5))).passages
        assert (passage.heading, passage.start, passage.end, passage.url) == ("Fares > Bicycles", 40, 45, url)


async def test_without_a_vector_the_retriever_embeds(client: RetrieverClient, retriever: ScriptedRetriever) -> None:
    await client.search("handbook", "bikes?", None, 3, in_(5))
    assert not retriever.asked[0].HasField("vector")


async def test_a_very_long_text_is_truncated_for_search(client: RetrieverClient, retriever: ScriptedRetriever) -> None:
    await client.search("handbook", "é" * 100_000, None, 3, in_(5))
    assert 0 < len(retriever.asked[0].query.encode()) <= 64 * 1024


async def test_an_error_of_the_retriever_is_never_a_client_error(
    client: RetrieverClient, retriever: ScriptedRetriever
) -> None:
    retriever.error = FailedPrecondition("made by minilm-xyz", code="fingerprint_mismatch")
    with pytest.raises(Unavailable, match="collection 'handbook' cannot be searched: made by minilm-xyz") as raised:
        await client.search("handbook", "bikes?", None, 3, in_(5))
    assert (raised.value.code, raised.value.retry_after) == ("fingerprint_mismatch", 2.0)


async def test_a_search_ends_with_the_requests_deadline(client: RetrieverClient) -> None:
    with pytest.raises(Unavailable, match="did not answer in time"):
        await client.search("handbook", "bikes?", None, 3, in_(-1))


async def test_an_unreachable_retriever_is_unavailable() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(Unavailable) as raised:
            await RetrieverClient(channel, lambda: "m").search("handbook", "bikes?", None, 3, in_(5))
    assert raised.value.code == "retriever_unavailable"


async def test_relevance_and_counts_are_returned(client: RetrieverClient, retriever: ScriptedRetriever) -> None:
    retriever.passages[0].start, retriever.passages[0].tokens, retriever.relevant = 120, 7, False
    found = await client.search("handbook", "bikes?", None, 3, in_(5))
    assert [(passage.start, passage.tokens) for passage in found.passages] == [(120, 7)]
    assert not found.relevant
