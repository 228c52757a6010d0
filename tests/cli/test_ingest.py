"""Against the real retriever, with the real embedding model."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import retriever_pb2
from pointsman_cli import stubs
from pointsman_cli.up import ready
from pointsman_cli.up.ports import choose
from pointsman_servicekit.grpc_client import open_channel

Cli = Callable[..., Any]

MODEL = Path(__file__).parents[2] / ".pointsman" / "models" / "minilm"


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    subprocess.run([sys.executable, "-m", "pointsman_embedding.prepare", str(MODEL)], check=True)  # once a machine
    addresses = choose("127.0.0.1:0", "127.0.0.1:0")
    environment = {
        "POINTSMAN_RETRIEVER_LISTEN": addresses.retriever,
        "POINTSMAN_RETRIEVER_METRICS_LISTEN": addresses.retriever_metrics,
        "POINTSMAN_RETRIEVER_DATA": str(tmp_path_factory.mktemp("retriever")),
        "POINTSMAN_RETRIEVER_EMBEDDING_MODEL": str(MODEL),
    }
    process = subprocess.Popen([sys.executable, "-m", "pointsman_retriever"], env={**os.environ, **environment})
    try:
        asyncio.run(ready.serving(addresses.retriever, "retriever"))
        yield addresses.retriever
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    folder = tmp_path / "handbook"
    (folder / "travel").mkdir(parents=True)
    (folder / "travel" / "bicycles.md").write_text("# Bicycles\n\nA bicycle travels free, but its space is reserved.\n")
    for number in range(20):
        (folder / f"note-{number:02}.txt").write_text(f"The lamp at platform {number} is green.")
    return folder


async def search(address: str, collection: str, query: str) -> retriever_pb2.Passage:
    async with open_channel(address) as channel:
        request = retriever_pb2.SearchRequest(collection=collection, query=query, top_k=1)
        answer = await stubs.retriever(channel).Search(request)
    passage: retriever_pb2.Passage = answer.passages[0]
    return passage


def test_a_folder_is_found_again_with_its_source(cli: Cli, retriever: str, handbook: Path) -> None:
    outcome = cli("ingest", "handbook", handbook, "--retriever", retriever)

    assert outcome.code == 0, outcome.err
    assert "21 documents, 21 chunks in handbook" in outcome.out
    passage = asyncio.run(search(retriever, "handbook", "may I bring my bike?"))
    assert (passage.document_id, passage.title) == ("travel/bicycles", "Bicycles")
    assert passage.metadata["file"] == "travel/bicycles.md"


def test_ingesting_again_replaces(cli: Cli, retriever: str, handbook: Path) -> None:
    cli("ingest", "again", handbook, "--retriever", retriever)
    (handbook / "travel" / "bicycles.md").write_text("# Bicycles\n\nBicycles cost 3 dollars.\n")

    outcome = cli("ingest", "again", handbook, "--retriever", retriever)

    assert outcome.code == 0, outcome.err
    assert "3 dollars" in asyncio.run(search(retriever, "again", "bicycles")).text
    assert asyncio.run(documents(retriever, "again")) == 21


async def documents(address: str, collection: str) -> int:
    async with open_channel(address) as channel:
        answer = await stubs.retriever(channel).ListCollections(retriever_pb2.ListCollectionsRequest())
    count: int = next(found.documents for found in answer.collections if found.name == collection)
    return count


def test_the_retrievers_refusal_is_one_line_with_its_code(cli: Cli, retriever: str, handbook: Path) -> None:
    outcome = cli("ingest", "Hand Book", handbook, "--retriever", retriever)

    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert "Hand Book" in outcome.err


def test_one_bad_file_stops_all_before_the_retriever_is_asked(cli: Cli, handbook: Path) -> None:
    (handbook / "empty.md").touch()

    outcome = cli("ingest", "handbook", handbook, "--retriever", "127.0.0.1:1")

    assert outcome.code == 2
    assert outcome.err == f"error: nothing was ingested: {handbook / 'empty.md'} is empty\n"


def test_a_retriever_that_is_not_there_is_told(cli: Cli, handbook: Path) -> None:
    outcome = cli("ingest", "handbook", handbook, "--retriever", "127.0.0.1:1")

    assert outcome.code == 1
    assert outcome.err.startswith("error: retriever cannot be reached")
    assert outcome.err.count("\n") == 1
