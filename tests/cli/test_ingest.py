"""`pointsman ingest` with the real retriever and the real embedding model."""

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import retriever_pb2
from pointsman_cli.grpc_clients import retriever_stub
from pointsman_cli.sources import MAX_FILE_BYTES
from pointsman_servicekit.grpc_client import open_channel

from tests.cli.real_retriever import running

Anybody = Callable[[], AbstractContextManager[None]]
Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A retriever's address."""
    with running(tmp_path_factory.mktemp("retriever")) as address:
        yield address


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
        answer = await retriever_stub(channel).Search(request)
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
        answer = await retriever_stub(channel).ListCollections(retriever_pb2.ListCollectionsRequest())
    count: int = next(found.documents for found in answer.collections if found.name == collection)
    return count


def test_the_retrievers_error_is_one_line_with_its_code(cli: Cli, retriever: str, handbook: Path) -> None:
    outcome = cli("ingest", "Hand Book", handbook, "--retriever", retriever)

    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert "Hand Book" in outcome.err


def test_an_invalid_file_is_named_and_the_others_are_ingested(cli: Cli, retriever: str, handbook: Path) -> None:
    (handbook / "empty.md").touch()
    (handbook / "torn.pdf").write_bytes(b"%PDF-1.4")

    outcome = cli("ingest", "bad", handbook, "--retriever", retriever)

    assert outcome.code == 1
    assert "21 documents, 21 chunks in bad: 21 written, 0 unchanged, 0 removed" in outcome.out
    assert "failed: document 'empty' has no text" in outcome.out
    assert "failed: document 'torn.pdf' is not a readable PDF" in outcome.out
    assert outcome.err.startswith("error: 2 documents were not ingested")
    assert asyncio.run(documents(retriever, "bad")) == 21


def test_unchanged_files_are_skipped_and_deleted_ones_removed(cli: Cli, retriever: str, handbook: Path) -> None:
    cli("ingest", "step", handbook, "--retriever", retriever)
    (handbook / "note-00.txt").unlink()
    (handbook / "note-01.txt").write_text("The lamp is red.")

    kept = cli("ingest", "step", handbook, "--retriever", retriever, "--no-prune")
    outcome = cli("ingest", "step", handbook, "--retriever", retriever)

    assert "1 written, 19 unchanged, 0 removed" in kept.out
    assert "0 written, 20 unchanged, 1 removed" in outcome.out
    assert asyncio.run(documents(retriever, "step")) == 20
    assert asyncio.run(search(retriever, "step", "which lamp is red?")).document_id == "note-01"


def test_an_unreadable_file_is_not_treated_as_deleted(cli: Cli, retriever: str, handbook: Path) -> None:
    cli("ingest", "large", handbook, "--retriever", retriever)
    with (handbook / "note-00.txt").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)

    outcome = cli("ingest", "large", handbook, "--retriever", retriever)

    assert outcome.code == 1
    assert f"note-00.txt has {MAX_FILE_BYTES + 1:,} bytes" in outcome.out
    assert asyncio.run(documents(retriever, "large")) == 21


@pytest.mark.parametrize("mode", [0o000, 0o444])  # it cannot be listed; what it lists cannot be looked at
def test_an_unreadable_folder_is_not_treated_as_deleted(
    cli: Cli, retriever: str, locked: Path, anybody: Anybody, mode: int
) -> None:
    collection = f"locked-{mode}"
    assert cli("ingest", collection, locked, "--retriever", retriever).code == 0
    (locked / "sub").chmod(mode)

    with anybody():
        outcome = cli("ingest", collection, locked, "--retriever", retriever)

    assert outcome.code == 1
    assert "0 written, 1 unchanged, 0 removed" in outcome.out
    assert re.search(rf"failed: {locked / 'sub'}\S* cannot be read: Permission denied", outcome.out)
    assert asyncio.run(documents(retriever, collection)) == 2


def test_files_of_each_kind_are_found(cli: Cli, retriever: str, tmp_path: Path) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    (folder / "page.html").write_text("<title>Fares</title><h1>Group fares</h1><p>Ten people pay for eight.</p>")
    (folder / "fox.jsonl").write_text('{"id": "fox", "text": "The fox sleeps under the platform."}\n')
    (folder / "lamp.py").write_text("class Lamp:\n    def switch_on(self):\n        self.colour = 'green'\n")

    outcome = cli("ingest", "kinds", folder, "--retriever", retriever)

    assert outcome.code == 0, outcome.err
    for query, document, title in (
        ("discount for ten people", "page.html", "Fares"),
        ("animal under the platform", "fox", ""),
        ("code that switches the lamp on", "lamp.py", "lamp.py"),
    ):
        passage = asyncio.run(search(retriever, "kinds", query))
        assert (passage.document_id, passage.title) == (document, title)


def test_an_interrupted_ingest_resumes(cli: Cli, retriever: str, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(160):  # several batches
        (folder / f"n{number:03}.txt").write_text(f"Note {number}. " + "The lamp at the platform is green. " * 60)
    command = [sys.executable, "-m", "pointsman_cli", "ingest", "many", str(folder), "--retriever", retriever]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while asyncio.run(documents_or_none(retriever, "many")) < 10:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "run the same command to continue" in out
    kept = asyncio.run(documents(retriever, "many"))

    outcome = cli("ingest", "many", folder, "--retriever", retriever)

    assert 10 <= kept < 160
    unchanged = int(re.search(r"(\d+) unchanged", outcome.out)[1])  # type: ignore[index]  # it is there
    assert kept <= unchanged < 160  # documents in transit at the interruption may still have been written
    assert asyncio.run(documents(retriever, "many")) == 160


async def documents_or_none(address: str, collection: str) -> int:
    async with open_channel(address) as channel:
        answer = await retriever_stub(channel).ListCollections(retriever_pb2.ListCollectionsRequest())
    return sum(found.documents for found in answer.collections if found.name == collection)


def test_an_unreachable_retriever_is_reported(cli: Cli, handbook: Path) -> None:
    outcome = cli("ingest", "handbook", handbook, "--retriever", "127.0.0.1:1")

    assert outcome.code == 1
    assert outcome.err.startswith("error: retriever cannot be reached")
    assert outcome.err.count("\n") == 1
