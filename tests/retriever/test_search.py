"""Searches by meaning, by word and by both, with any query text."""

import numpy as np
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import MiniLM

from tests.retriever.client import Client

DOCUMENTS = [
    pb.Document(id="cat", text="A cat sleeps on the warm windowsill."),
    pb.Document(id="car", text="The motor of the automobile needs new spark plugs."),
    pb.Document(id="code", text="Call the workshop and give the reference QX77-ZORBLE."),
    pb.Document(id="rain", text="Tomorrow brings heavy showers from the west."),
]


@pytest.fixture
async def filled(client: Client) -> Client:
    await client.upsert(*DOCUMENTS)
    return client


async def test_a_rare_word_unknown_to_the_model_is_found(filled: Client) -> None:
    assert (await filled.found("ZORBLE"))[0] == "code"
    assert await filled.found("zorbles", dense_weight=0.0) == ["code"]  # stemmed


async def test_synonyms_are_found_by_meaning(filled: Client) -> None:
    assert await filled.found("vehicle engine", dense_weight=0.0) == []
    assert (await filled.found("vehicle engine"))[0] == "car"
    assert (await filled.found("will it be wet outside"))[0] == "rain"


async def test_the_weight_shifts_between_words_and_meaning(filled: Client) -> None:
    query = "windowsill, and will it be wet outdoors"
    assert (await filled.found(query, dense_weight=0.0))[0] == "cat"
    assert (await filled.found(query, dense_weight=1.0))[0] == "rain"


async def test_passages_come_best_first_with_scores_from_0_to_1_and_at_most_top_k(filled: Client) -> None:
    for top_k, given in ((0, 4), (1, 1), (3, 3), (100, 4)):
        scores = [passage.score for passage in (await filled.search("cat in the rain", top_k=top_k)).passages]
        assert len(scores) == given
        assert scores == sorted(scores, reverse=True)
        assert all(0.0 <= score <= 1.0 for score in scores)


@pytest.mark.parametrize(
    "text",
    [
        '"',
        '"cat',
        "cat* OR NEAR(",
        "text:cat",
        "NOT cat",
        "(cat AND",
        "^cat -sleeps +warm",
        "cat'; DROP TABLE chunks; --",
        "{text}: cat",
        "___",
        "?!",
        "\x00cat\x00",
        "naïve 猫 🐈",
        "what is it",
    ],
)
@pytest.mark.parametrize("dense_weight", [0.0, 0.6])
async def test_no_query_is_interpreted_as_search_syntax(filled: Client, text: str, dense_weight: float) -> None:
    answer = await filled.search(text, dense_weight=dense_weight)
    if "cat" in text:
        assert "cat" in [passage.document_id for passage in answer.passages]
    assert (await filled.collection()).documents == len(DOCUMENTS)


async def test_question_words_are_ignored(client: Client) -> None:
    await client.upsert(
        pb.Document(id="what", text="What is what, and where is where? How so?"),
        pb.Document(id="fee", text="Fee: three dollars."),
        pb.Document(id="else", text="Something else entirely."),
    )
    assert await client.found("what is the fee, and where?", dense_weight=0.0) == ["fee"]


async def test_a_query_of_question_words_alone_searches_for_them(client: Client) -> None:
    await client.upsert(
        pb.Document(id="band", text="The Who"), *(pb.Document(id=str(n), text=f"Item {n}") for n in range(4))
    )
    assert await client.found("who", dense_weight=0.0) == ["band"]


async def test_the_callers_vector_is_used_instead_of_the_text(filled: Client, minilm: MiniLM) -> None:
    values = minilm.embed(["the sky will pour"])[0]
    vector = pb.Vector(fingerprint=minilm.fingerprint, values=values.tolist())
    assert (await filled.found("cat", vector=vector, dense_weight=1.0))[0] == "rain"


async def test_the_callers_vector_and_its_text_give_the_same_answer(filled: Client, minilm: MiniLM) -> None:
    text = "my engine coughs"
    values = minilm.embed([text])[0] * np.float32(3e20)  # neither its length nor the infinite square of it matters
    with_vector = await filled.search(text, vector=pb.Vector(fingerprint=minilm.fingerprint, values=values.tolist()))
    without = await filled.search(text)
    assert [p.document_id for p in with_vector.passages] == [p.document_id for p in without.passages]
    assert [p.score for p in with_vector.passages] == pytest.approx([p.score for p in without.passages], abs=1e-4)


async def test_a_passage_found_by_word_alone_still_has_its_cosine(client: Client, minilm: MiniLM) -> None:
    near = [pb.Document(id=f"n{i}", text=f"Heavy showers number {i}.") for i in range(120)]
    await client.upsert(*near, DOCUMENTS[2])
    answer = await client.search("heavy rain showers today ZORBLE", top_k=100, dense_weight=0.3)
    passage = next(passage for passage in answer.passages if passage.document_id == "code")
    query, text = minilm.embed(["heavy rain showers today ZORBLE", DOCUMENTS[2].text])
    assert passage.dense_score == pytest.approx(float(query @ text), abs=1e-5)


async def test_an_empty_collection_returns_no_passages(client: Client) -> None:
    answer = await client.search("anything")
    assert not answer.passages
    assert answer.version == 0


async def test_a_query_of_64_kib_is_answered(filled: Client) -> None:
    assert (await filled.found("cat " * 16_384))[0] == "cat"
