"""`pointsman search` shows the results of a search, with a real retriever and without a language model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pointsman.v1 import retriever_pb2 as pb
from pointsman_cli.search import to_lines

from tests.cli.real_retriever import running

Cli = Callable[..., Any]

BICYCLES = """# Bicycles

Everything about taking a bicycle with you on board of our trains.

## Folding bicycles

Folding bicycles travel free of charge, in every train and at any time of the day.
"""


def test_a_search_shows_where_each_passage_is_from_and_what_its_score_means(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "faq"
    folder.mkdir()
    (folder / "bicycles.md").write_text(BICYCLES)
    (folder / "dogs.md").write_text("# Dogs\n\nDogs need a ticket at half the price.\n")
    (folder / "photo.bin").write_bytes(b"\x89PNG")
    with running(tmp_path / "data") as address:
        at = ("--retriever", address)
        ingested = cli("ingest", "faq", folder, *at)
        shown = cli("search", "faq", "Do folding bicycles cost extra?", *at)
        found = json.loads(cli("search", "faq", "Do folding bicycles cost extra?", "--top", 1, "--json", *at).out)
        unknown = cli("search", "nowhere", "bicycles", *at)

    assert f"skipped: {folder / 'photo.bin'}; no document has such an ending (known: .md" in ingested.out
    assert shown.code == 0, shown.err
    first, *lines = shown.out.splitlines()
    assert first.startswith("1. ")
    assert "bicycles (Bicycles), characters " in first
    assert any("| " in line and "free of charge" in line for line in lines)
    assert "scores are from 0 to 1, by meaning and words, and comparable within this search alone" in lines
    assert lines[-1].startswith("relevant: best cosine 0.")

    (passage,) = found["passages"]
    assert found["relevant"] is True
    assert (passage["document_id"], passage["title"]) == ("bicycles", "Bicycles")
    assert passage["heading"].startswith("Bicycles")
    assert BICYCLES[passage["start"] : passage["end"]] == passage["text"]
    assert 0 < passage["score"] <= 1
    assert passage["metadata"] == {"file": "bicycles.md"}
    assert unknown.code == 1
    assert "there is no collection 'nowhere'; `pointsman ingest` or CreateCollection makes it" in unknown.err


def test_passages_are_sorted_by_their_score_and_show_the_headings_above_them() -> None:
    answer = pb.SearchResponse(
        passages=[
            pb.Passage(document_id="dogs", text="Dogs pay.", score=0.25, start=3, end=12),
            pb.Passage(
                document_id="fares",
                title="Fares",
                heading="Fares > Rides",
                text="They\nride.",
                score=0.75,
                end=10,
            ),
        ],
        relevant=False,
    )
    assert list(to_lines(answer)) == [
        "1. 0.75  fares (Fares), characters 0 to 10",
        "   cosine 0.00, words (BM25) 0.00",
        "   Fares > Rides",
        "   | They ride.",
        "2. 0.25  dogs, characters 3 to 12",
        "   cosine 0.00, words (BM25) 0.00",
        "   | Dogs pay.",
        "scores are from 0 to 1, by meaning and words, and comparable within this search alone",
        "not relevant: best cosine 0.00, best share of the query's words 0.00",
    ]


def test_an_empty_search_says_where_to_look() -> None:
    (line,) = to_lines(pb.SearchResponse())
    assert "`pointsman retriever list` shows whether the collection has documents" in line
