"""`pointsman retriever tune` chooses search settings with labelled queries."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_cli.errors import UsageError
from pointsman_cli.grpc_clients import retriever_stub
from pointsman_cli.retriever.tune import (
    BestScores,
    LabelledQuery,
    choose_settings,
    ndcg,
    read_labelled,
    search_candidates,
    thresholds,
)
from pointsman_servicekit.grpc_client import open_channel

from tests.cli.real_retriever import running

Cli = Callable[..., Any]


def test_ndcg_is_1_if_relevant_documents_come_first_and_lower_otherwise() -> None:
    assert ndcg(["a", "b", "c"], frozenset("ab")) == pytest.approx(1.0)
    assert ndcg(["c", "a"], frozenset("a")) == pytest.approx(0.6309, abs=1e-4)
    assert ndcg(["c"], frozenset("a")) == 0.0


def test_settings_change_only_for_a_significant_gain() -> None:
    standard = [0.5, 0.6, 0.4, 0.7, 0.5, 0.6]
    assert choose_settings({"standard": standard, "better": [one + 0.2 for one in standard]}) == "better"
    one_lucky = [*standard[:-1], 1.0]
    assert choose_settings({"standard": standard, "lucky": one_lucky}) == "standard"
    assert choose_settings({"standard": [0.5], "better": [0.9]}) == "standard"  # one query is not significant
    assert choose_settings({"standard": standard, "worse": [0.1] * 6}) == "standard"


def runs_that_choose_another(queries: int, ahead: float, runs: int) -> float:
    """Returns the share of simulated runs that do not choose the default, if one setting is better than the others by
    `ahead`, and those are equal.
    """
    chance = random.Random(7)
    chosen = []
    for _ in range(runs):
        hard = [chance.random() for _ in range(queries)]
        scores = {way: [one + chance.gauss(0, 0.15) for one in hard] for way in search_candidates()}
        scores["dense_weight 0.7"] = [one + ahead for one in scores["dense_weight 0.7"]]
        chosen.append(choose_settings(scores))
    return sum(way != "by agreement" for way in chosen) / len(chosen)


@pytest.mark.parametrize("queries", [6, 20])
def test_among_equal_settings_another_is_chosen_in_at_most_5_percent_of_runs(queries: int) -> None:
    by_chance = (0.05 * 0.95 / 200) ** 0.5  # the standard deviation of such a share of 200
    assert runs_that_choose_another(queries, 0.0, runs=200) <= 0.05 + 2 * by_chance


@pytest.mark.parametrize(("queries", "ahead"), [(10, 0.4), (20, 0.3)])
def test_clearly_better_settings_are_found(queries: int, ahead: float) -> None:
    assert runs_that_choose_another(queries, ahead, runs=100) > 0.9


def test_the_first_candidate_is_the_collections_default() -> None:
    assert next(iter(search_candidates().values())) == pb.SearchSettings()


def test_thresholds_accept_the_queries_with_an_answer() -> None:
    answered = [BestScores(0.40 + step / 100, 0.0) for step in range(40)]
    dense, _ = thresholds(answered, [])
    assert sum(seen.dense >= dense for seen in answered) >= 38
    assert dense >= 0.40


def test_thresholds_separate_queries_with_and_without_an_answer() -> None:
    answered = [BestScores(0.52, 0.1), BestScores(0.48, 0.2), BestScores(0.2, 0.95)]
    unanswered = [BestScores(0.41, 0.3), BestScores(0.33, 0.5), BestScores(0.1, 0.0)]
    dense, coverage = thresholds(answered, unanswered)
    assert all(seen.dense >= dense or seen.coverage >= coverage for seen in answered)
    assert not any(seen.dense >= dense or seen.coverage >= coverage for seen in unanswered)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no query with a document"),
        ('{"query": "x", "documents": []}', "no query with a document"),
        ('{"query": "x"}', "labels.jsonl:1"),
        ('\n{"query": "x", "documents": ["a"]}\n[1]', "labels.jsonl:3"),
        ('{"query": "x", "documents": "faq"}', 'labels.jsonl:1 has no "documents" that are a list'),
        ('{"query": "x", "documents": [["a"]]}', 'labels.jsonl:1 has no "documents" that are a list'),
        ('{"query": 3, "documents": ["a"]}', 'labels.jsonl:1 has no "query" that is a text'),
        (r'{"query": "\ud83d", "documents": ["a"]}', "labels.jsonl:1 .* half of a surrogate pair"),
        ("[" * 100_000, "labels.jsonl:1 .* not JSON"),
    ],
)
def test_invalid_labels_are_reported_with_their_line(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_labelled(file)


def test_labels_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text('{"query": "x", "documents": ["a", 7]}\n\n{"query": "y", "documents": []}\n')
    assert read_labelled(file) == [LabelledQuery("x", frozenset({"a", "7"})), LabelledQuery("y", frozenset())]


def test_labels_may_contain_any_character_and_their_file_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text('{"query": "x\u2028y", "documents": ["a"]}\n', "utf-8-sig")
    assert read_labelled(file) == [LabelledQuery("x\u2028y", frozenset("a"))]


@pytest.mark.parametrize(("content", "message"), [(None, "cannot read"), (b"\xff", "is not UTF-8")])
def test_an_unreadable_file_of_labels_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "labels"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_labelled(file)


@pytest.fixture
def retriever(tmp_path: Path) -> Iterator[str]:
    """Yields the address of a real retriever with a collection in which only semantic search finds the answer."""
    with running(tmp_path / "data") as address:
        asyncio.run(fill(address))
        yield address


TOPICS = {
    "vehicle": "The automobile's motor runs on petrol.",
    "weather": "Heavy showers are expected tomorrow.",
    "pet": "Kittens and puppies need food twice a day.",
    "money": "The bank charges interest on every loan.",
    "ship": "The vessel left the harbour at dawn.",
    "music": "The orchestra played a symphony.",
    "garden": "Roses bloom in June.",
    "school": "The teacher marked every exam.",
    "bread": "The bakery sells fresh loaves.",
    "doctor": "The surgeon operated on the patient.",
    "sport": "The striker scored twice in the match.",
    "cold": "The pond froze over in December.",
}
QUESTIONS = {
    "vehicle": "on page: car engine fuel",
    "weather": "on page: rain forecast",
    "pet": "on page: feeding cats and dogs",
    "money": "on page: borrowing cash cost",
    "ship": "on page: boat sailing early",
    "music": "on page: concert of classical tunes",
    "garden": "on page: flowers in summer",
    "school": "on page: pupils' test grades",
    "bread": "on page: buying baked goods",
    "doctor": "on page: hospital medicine",
    "sport": "on page: football goals",
    "cold": "on page: ice on a lake in winter",
}


async def fill(address: str) -> None:
    traps = [
        pb.Document(id=f"trap {n}", text=f"The appendix is printed on page {n}, and the index on page {n + 1}.")
        for n in range(6)
    ]
    async with open_channel(address) as channel:
        stub = retriever_stub(channel)
        await stub.CreateCollection(pb.CreateCollectionRequest(name="notes"))
        documents = [*(pb.Document(id=name, text=text) for name, text in TOPICS.items()), *traps]
        await stub.Upsert(pb.UpsertRequest(collection="notes", documents=documents))


async def first(address: str, query: str) -> tuple[str, bool]:
    async with open_channel(address) as channel:
        answer = await retriever_stub(channel).Search(pb.SearchRequest(collection="notes", query=query))
    return answer.passages[0].document_id, answer.relevant


def test_a_collection_is_tuned_with_the_command(cli: Cli, tmp_path: Path, retriever: str) -> None:
    labels = tmp_path / "labels.jsonl"
    rows = [{"query": QUESTIONS[name], "documents": [name]} for name in TOPICS]
    rows += [{"query": "quarterly semiconductor revenue", "documents": []}]
    labels.write_text("\n".join(map(json.dumps, rows)))
    before = sum(asyncio.run(first(retriever, QUESTIONS[name]))[0] == name for name in TOPICS)
    tried = cli("retriever", "tune", "notes", labels, "--dry-run", "--retriever", retriever)
    assert (tried.code, "would be searched dense_weight 0." in tried.out) == (0, True)
    assert sum(asyncio.run(first(retriever, QUESTIONS[name]))[0] == name for name in TOPICS) == before < len(TOPICS)
    tuned = cli("retriever", "tune", "notes", labels, "--retriever", retriever)
    assert tuned.code == 0
    assert "is now searched dense_weight 0." in tuned.out
    found = [asyncio.run(first(retriever, QUESTIONS[name])) for name in TOPICS]
    assert sum(name == wanted for (name, _), wanted in zip(found, TOPICS, strict=True)) > before
    assert all(relevant for _, relevant in found)
    assert not asyncio.run(first(retriever, "quarterly semiconductor revenue"))[1]


def test_errors_are_one_line(cli: Cli, tmp_path: Path, retriever: str) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"query": "x", "documents": ["a"]}')
    unknown = cli("retriever", "tune", "nowhere", labels, "--retriever", retriever)
    assert (unknown.code, "nowhere" in unknown.err) == (1, True)
