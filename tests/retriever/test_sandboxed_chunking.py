"""Chunking runs in a subprocess: hostile texts delay no other call, and cancelled calls stop their work."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import MiniLM
from pointsman_retriever.chunking.sandboxed import SandboxedChunker, chunking_setup, kind_of, make_chunkers
from pointsman_retriever.domain import Document
from pointsman_retriever.sandbox import Sandbox

from tests.retriever.chunks import chunk_document
from tests.retriever.client import Client

HOSTILE = "#" * 1_000_000  # about 15 s of CPU
SENTENCE = "The 7:40 to Saltby waits at Tarn Junction for the branch line. "
GOOD = Document("good", "", SENTENCE)
DEADLY = Document("deadly", "", "Half of a pair: \ud83d")  # not UTF-8: the tokenizer raises, and the process ends
BUSY_TICKS = 50  # of CPU time, 100 a second


def workers() -> dict[int, int]:
    """Returns the CPU time of each subprocess that chunks or reads documents, in clock ticks, by process id."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            process = Path("/proc") / child
            if "pointsman_retriever.sandbox_worker" in (process / "cmdline").read_text():
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                found[int(child)] = int(fields[11]) + int(fields[12])  # utime and stime
    return found


async def wait_until_busy() -> int:
    """Returns the id of the first subprocess that has used BUSY_TICKS."""
    await wait_until(lambda: any(ticks > BUSY_TICKS for ticks in workers().values()))
    return next(process for process, ticks in workers().items() if ticks > BUSY_TICKS)


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # another process does not notify us
            await asyncio.sleep(0.05)


@pytest.fixture
async def chunker(minilm: MiniLM) -> AsyncIterator[SandboxedChunker]:
    sandbox = Sandbox(setup=chunking_setup(minilm.tokenizer))
    yield SandboxedChunker(sandbox)
    await sandbox.close()


async def test_the_sandbox_makes_the_same_chunks_as_the_chunkers(chunker: SandboxedChunker, minilm: MiniLM) -> None:
    documents = [
        (Document("small", "Trains", f"# One\n\n{SENTENCE}"), "markdown-3"),
        (Document("large", "Boats", f"# Two\n\n## Sub\n\n{SENTENCE * 3_000}\n\n## Sub\n\nEnd."), "markdown-3"),
        (Document("code", "code.py", "def f():\n    return 1\n" * 30), "code-2"),
        (Document("plain", "", f"{SENTENCE * 3}\n\n猫😀\x00é"), "plain-2"),
        (Document("plain too", "", SENTENCE * 30), "plain-2"),
    ]
    chunkers = make_chunkers(minilm.tokenizer)
    expected = [chunk_document(chunkers[kind_of(recipe)], document) for document, recipe in documents]
    assert await chunker.chunk(documents) == expected
    assert await chunker.chunk([]) == []


async def test_a_text_that_exceeds_a_limit_fails_alone(minilm: MiniLM) -> None:
    sandbox = Sandbox(answer_bytes=500, setup=chunking_setup(minilm.tokenizer))
    good, bad = Document("good", "", SENTENCE), Document("bad", "", "# Heading\n\nText.\n\n" * 3_000)
    results = await SandboxedChunker(sandbox).chunk([(good, "plain-2"), (bad, "markdown-3"), (good, "plain-2")])
    await sandbox.close()
    assert [isinstance(result, tuple) for result in results] == [True, False, True]
    assert "'bad' cannot be split into chunks: it has more than 500 bytes" in str(results[1])


async def test_only_the_bad_text_of_a_batch_fails(chunker: SandboxedChunker) -> None:
    results = await chunker.chunk([(GOOD, "plain-2"), (DEADLY, "plain-2"), (GOOD, "plain-2")])
    assert [isinstance(result, tuple) for result in results] == [True, False, True]
    assert "'deadly' cannot be split into chunks: it ended the process that worked on it" in str(results[1])


async def test_texts_of_a_failed_batch_are_not_tried_for_ever(minilm: MiniLM) -> None:
    sandbox = Sandbox(setup=chunking_setup(minilm.tokenizer))
    results = await SandboxedChunker(sandbox, retry_seconds=0.0).chunk([(GOOD, "plain-2"), (DEADLY, "plain-2")])
    await sandbox.close()
    assert "'good' cannot be split into chunks: it was sent with others, this ended the process" in str(results[0])
    assert "no time to try it alone" in str(results[1])


async def test_a_hostile_text_does_not_delay_another_upsert(client: Client) -> None:
    hostile = asyncio.create_task(client.upsert(pb.Document(id="hostile", text=HOSTILE)))
    await wait_until_busy()
    started = time.monotonic()
    await client.upsert(pb.Document(id="innocent", text=SENTENCE * 100))
    assert not hostile.done()
    assert time.monotonic() - started < 15.0
    hostile.cancel()
    await asyncio.gather(hostile, return_exceptions=True)


async def test_a_cancelled_upsert_stops_the_work_on_its_text(client: Client) -> None:
    call = client.stub.Upsert(pb.UpsertRequest(collection="notes", documents=[pb.Document(id="hostile", text=HOSTILE)]))
    busy = await wait_until_busy()
    call.cancel()
    await wait_until(lambda: busy not in workers())
    await client.upsert(pb.Document(id="innocent", text=SENTENCE))
    assert await client.found("branch line") == ["innocent"]


async def test_a_subprocess_does_not_inherit_the_services_secrets(
    monkeypatch: pytest.MonkeyPatch, chunker: SandboxedChunker
) -> None:
    for name in ("POINTSMAN_RETRIEVER_RERANKER_KEY", "OPENAI_API_KEY", "PGPASSWORD"):  # those of a user have any name
        monkeypatch.setenv(name, "hunter2")
    await chunker.chunk([(Document("d", "", "x"), "plain-2")])
    (process,) = workers()
    assert "hunter2" not in (Path("/proc") / str(process) / "environ").read_text()


def test_a_subprocess_loads_no_numpy() -> None:
    """With numpy it would start later and take more memory."""
    modules = "pointsman_retriever.sandbox_worker, pointsman_retriever.chunking.sandboxed"
    program = f"import sys, {modules}; print('numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"
