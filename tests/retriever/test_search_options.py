"""Search options: explanations, neighbours, limits per document, diversity, batches, relevance, settings."""

import math
from typing import Any

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import MiniLM

from tests.retriever.client import Client, Refusal, Start

SHEET = "\n\n".join(
    f"# Part {number}\n\n" + f"In part {number} the {what} is looked after with much care and patience. " * 12
    for number, what in enumerate(["engine", "whistle", "boiler", "carriage", "signal"])
)


def request(query: str, **further: object) -> pb.SearchRequest:
    return pb.SearchRequest(collection="notes", query=query, **further)  # type: ignore[arg-type]


@pytest.fixture
async def filled(client: Client) -> Client:
    await client.upsert(
        pb.Document(id="sheet", title="Work sheet", text=SHEET),
        pb.Document(id="cat", text="A cat sleeps on the warm windowsill."),
        pb.Document(id="cat again", text="A cat sleeps on the warm window sill."),
        pb.Document(id="dog", text="A dog sleeps below the table."),
        pb.Document(id="rain", text="Tomorrow brings heavy showers from the west."),
    )
    return client


async def test_each_score_is_explained_by_its_parts(filled: Client) -> None:
    answer = await filled.stub.Search(request("who looks after the whistle", explain=True, top_k=20))
    dense = sorted(answer.passages, key=lambda passage: -passage.dense_score)
    for passage in answer.passages:
        why = passage.explanation
        total = why.dense_part + why.sparse_part + why.support_part
        assert passage.score == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-5)
        assert dense[why.dense_rank - 1].dense_score == passage.dense_score
        assert (why.sparse_rank == 0) == (passage.sparse_score == 0.0)
        assert 0.0 < why.dense_weight < 1.0
    best = answer.passages[0]
    assert (best.document_id, best.explanation.sparse_rank) == ("sheet", 1)


async def test_nothing_is_explained_unless_requested(filled: Client) -> None:
    answer = await filled.stub.Search(request("whistle"))
    assert not any(passage.HasField("explanation") for passage in answer.passages)


async def test_neighbours_come_in_document_order(filled: Client) -> None:
    answer = await filled.stub.Search(request("the boiler in part 2", top_k=1, neighbours=1))
    (passage,) = answer.passages
    assert "boiler" in passage.text
    (before,), (after,) = passage.before, passage.after
    assert before.end <= passage.start < passage.end <= after.start
    assert SHEET[before.start : before.end] == before.text
    first = await filled.stub.Search(request("cat on the windowsill", top_k=1, neighbours=3))
    assert not first.passages[0].before  # its document has one chunk
    all_around = await filled.stub.Search(request("the engine in part 0", top_k=1, neighbours=10))
    starts = [one.start for one in all_around.passages[0].after]
    assert starts == sorted(starts)
    assert len(starts) >= 3


async def test_per_document_limits_the_passages_of_each_document(filled: Client) -> None:
    loose = await filled.stub.Search(request("much care and patience", top_k=6))
    assert [passage.document_id for passage in loose.passages].count("sheet") >= 4
    grouped = await filled.stub.Search(request("much care and patience", top_k=4, per_document=1))
    assert len({passage.document_id for passage in grouped.passages}) == len(grouped.passages) == 4
    assert grouped.passages[0].document_id == "sheet"


async def test_diversity_removes_near_duplicates(filled: Client) -> None:
    plain = await filled.stub.Search(request("a sleeping cat", top_k=2))
    assert {passage.document_id for passage in plain.passages} == {"cat", "cat again"}
    diverse = await filled.stub.Search(request("a sleeping cat", top_k=2, diversity=0.5))
    assert diverse.passages[0].document_id in {"cat", "cat again"}
    assert diverse.passages[1].document_id not in {"cat", "cat again"}


async def test_ranks_can_be_fused_instead_of_scores(filled: Client) -> None:
    answer = await filled.stub.Search(request("a cat on the windowsill", fusion=pb.RRF, top_k=5))
    assert answer.passages[0].document_id == "cat"
    assert answer.passages[0].score == pytest.approx(1.0)  # first on both sides
    assert all(0.0 <= passage.score <= 1.0 for passage in answer.passages)


async def test_a_passage_reports_its_token_count(filled: Client, minilm: MiniLM) -> None:
    answer = await filled.stub.Search(request("whistle", top_k=2))
    for passage in answer.passages:
        assert passage.tokens == len(minilm.tokenizer.encode(passage.text, add_special_tokens=False).ids) > 0


async def test_a_batch_is_answered_in_order_and_each_search_fails_alone(filled: Client) -> None:
    batch = pb.SearchBatchRequest(
        searches=[request("cat", top_k=1), request(""), request("heavy rain", top_k=1), pb.SearchRequest(query="x")]
    )
    answered = (await filled.stub.SearchBatch(batch)).searches
    assert [one.WhichOneof("result") for one in answered] == ["answer", "error", "answer", "error"]
    assert answered[0].answer.passages[0].document_id.startswith("cat")
    assert answered[1].error.code == "empty_query"
    assert answered[2].answer.passages[0].document_id == "rain"
    assert answered[3].error.code == "invalid_collection_name"
    alone = await filled.stub.Search(request("cat", top_k=1))
    assert [one.score for one in answered[0].answer.passages] == [one.score for one in alone.passages]


@pytest.mark.parametrize("count", [0, 101])
async def test_a_batch_of_none_or_too_many_is_refused(client: Client, refusal: Refusal, count: int) -> None:
    error = await refusal(client.stub.SearchBatch(pb.SearchBatchRequest(searches=[request("x")] * count)))
    assert (error.grpc_status, error.code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_batch")


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"diversity": 1.5}, "invalid_diversity"),
        ({"diversity": float("nan")}, "invalid_diversity"),
        ({"neighbours": 11}, "invalid_neighbours"),
        ({"dense_weight": -0.1}, "invalid_dense_weight"),
        ({"top_k": 101}, "invalid_top_k"),
        ({"rerank": True}, "no_reranker"),
    ],
)
async def test_invalid_options_are_refused(client: Client, refusal: Refusal, wish: dict[str, Any], code: str) -> None:
    assert (await refusal(client.stub.Search(request("x", **wish)))).code == code


async def test_relevant_results_are_distinguished_from_irrelevant_ones(filled: Client) -> None:
    fitting = await filled.stub.Search(request("where does the cat sleep?"))
    assert fitting.relevant
    assert fitting.best_dense > 0.5
    beside = await filled.stub.Search(request("quarterly revenue of semiconductor vendors"))
    assert not beside.relevant
    assert beside.best_coverage == 0.0
    assert beside.passages  # they exist nevertheless


async def test_a_rare_word_alone_makes_a_search_relevant(client: Client) -> None:
    await client.upsert(
        pb.Document(id="code", text="QX77-ZORBLE."), *(pb.Document(id=f"{n}", text=f"Rain, day {n}.") for n in range(9))
    )
    answer = await client.stub.Search(request("ZORBLE"))
    assert answer.relevant
    assert answer.best_coverage == pytest.approx(1.0)


async def test_an_empty_collection_has_nothing_relevant(client: Client) -> None:
    answer = await client.stub.Search(request("anything"))
    assert not answer.relevant
    assert not answer.passages


async def test_the_collections_settings_apply_if_a_query_leaves_them_open(start: Start) -> None:
    async with start() as client:
        await client.create()
        await client.upsert(
            pb.Document(id="cat", text="A cat on the windowsill."),
            pb.Document(id="rain", text="Heavy showers tomorrow."),
        )
        query = "windowsill, and will it be wet outdoors"
        words = pb.SearchSettings(dense_weight=0.0, least_dense=0.99, least_coverage=1.0)
        response = await client.stub.ConfigureSearch(pb.ConfigureSearchRequest(collection="notes", settings=words))
        assert response.dense_weight == 0.0
        assert [one.document_id for one in (await client.stub.Search(request(query))).passages] == ["cat"]
    async with start() as client:  # kept over a restart
        answer = await client.stub.Search(request(query))
        assert [one.document_id for one in answer.passages] == ["cat"]
        assert not answer.relevant
        assert len(await client.found(query, dense_weight=1.0)) == 2
        again = await client.stub.ConfigureSearch(pb.ConfigureSearchRequest(collection="notes"))
        assert not again.HasField("dense_weight")
        assert len((await client.stub.Search(request(query))).passages) == 2


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (pb.SearchSettings(dense_weight=1.1), "invalid_dense_weight"),
        (pb.SearchSettings(least_dense=2.0), "invalid_least_dense"),
        (pb.SearchSettings(least_coverage=-1.0), "invalid_least_coverage"),
    ],
)
async def test_invalid_search_settings_are_refused(
    client: Client, refusal: Refusal, settings: pb.SearchSettings, code: str
) -> None:
    call = client.stub.ConfigureSearch(pb.ConfigureSearchRequest(collection="notes", settings=settings))
    assert (await refusal(call)).code == code
