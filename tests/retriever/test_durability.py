"""Acknowledged writes survive a restart and a kill."""

import asyncio
import re
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import grpc
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.domain import CollectionId, CollectionInfo
from pointsman_retriever.store.data_folder import STORE_FILE, claim_data_folder
from pointsman_retriever.store.maintenance import check_all
from pointsman_retriever.store.store import Store, create_store
from pointsman_servicekit.errors import FailedPrecondition

from tests.retriever.client import OpenClient, Start

DOCUMENTS_PER_CALL = 5
NOTES = CollectionId("default", "notes")


@asynccontextmanager
async def process(data: Path, model_folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Starts a retriever process and yields it with its address; terminates it if it still runs."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pointsman_retriever",
        env={
            "POINTSMAN_RETRIEVER_LISTEN": "127.0.0.1:0",
            "POINTSMAN_RETRIEVER_METRICS_LISTEN": "127.0.0.1:0",
            "POINTSMAN_RETRIEVER_DATA": str(data),
            "POINTSMAN_RETRIEVER_EMBEDDING_MODEL": str(model_folder),
            "POINTSMAN_RETRIEVER_SHUTDOWN_DELAY": "0",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield running, await asyncio.wait_for(_address(running), 60)
    finally:
        if running.returncode is None:
            running.terminate()
        await running.communicate()


async def _address(running: asyncio.subprocess.Process) -> str:
    assert running.stderr is not None
    async for line in running.stderr:
        if found := re.search(rb"serving at (\S+),", line):
            return found[1].decode()
    raise AssertionError("it ended before it served")


async def test_a_restart_keeps_everything(start: Start) -> None:
    async with start() as before:
        await before.create()
        await before.create("empty")
        await before.upsert(
            pb.Document(id="a", title="Ladder", text="In the shed. " * 300, metadata={"room": "shed"}),
            pb.Document(id="b", text="Kettle on the stove."),
            pb.Document(id="c", text="Broom in the corner."),
        )
        await before.delete("c")
        known = [await before.collection(name) for name in ("notes", "empty")]
        answers = [(await before.search(query, top_k=10)).passages for query in ("shed", "tea water", "sweep")]
    async with start() as after:
        assert [await after.collection(name) for name in ("notes", "empty")] == known
        assert [(await after.search(query, top_k=10)).passages for query in ("shed", "tea water", "sweep")] == answers
        assert await after.found("ladder", filter={"room": "shed"}) == ["a"]
        assert (await after.upsert(pb.Document(id="d", text="Rake."))).version == known[0].version + 1


@pytest.mark.parametrize("acknowledged_first", [1, 7, 20])
async def test_kill_9_amid_upserts_loses_nothing_acknowledged(
    tmp_path: Path, model_folder: Path, start: Start, open_client: OpenClient, acknowledged_first: int
) -> None:
    data = tmp_path / "data"
    acknowledged: set[int] = set()
    numbers = iter(range(10_000))
    killed = False

    async with process(data, model_folder) as (running, address), open_client(address) as client:
        await client.create()

        async def write_until_killed() -> None:
            for call in numbers:
                documents = [
                    pb.Document(id=f"{call}-{n}", text=f"Call {call}, note {n}.", metadata={"call": str(call)})
                    for n in range(DOCUMENTS_PER_CALL)
                ]
                try:
                    await client.upsert(*documents)
                except grpc.aio.AioRpcError:
                    assert killed
                    return
                acknowledged.add(call)

        writers = [asyncio.create_task(write_until_killed()) for _ in range(4)]
        async with asyncio.timeout(60):
            while len(acknowledged) < acknowledged_first:
                await asyncio.wait(writers, timeout=0.002)
        killed = True
        running.kill()
        await asyncio.gather(*writers)

    with closing(Store(NOTES, data / "default" / "notes", 1)) as store:
        assert check_all(store).problems == ()
    async with start() as client:
        present = 0
        for call in range(next(numbers)):
            found = await client.found("note", filter={"call": str(call)}, top_k=100)
            assert len(found) in ((DOCUMENTS_PER_CALL,) if call in acknowledged else (0, DOCUMENTS_PER_CALL))
            present += len(found)
        collection = await client.collection()
        assert (collection.documents, collection.chunks) == (present, present)
        assert collection.version == present // DOCUMENTS_PER_CALL >= len(acknowledged)
        await client.upsert(pb.Document(id="new", text="Written after the crash."))
        assert (await client.found("after the crash"))[0] == "new"


async def test_sigterm_ends_the_process_with_status_0(
    tmp_path: Path, model_folder: Path, open_client: OpenClient
) -> None:
    async with process(tmp_path / "data", model_folder) as (running, address):
        async with open_client(address) as client:
            await client.create()
        running.terminate()
        assert await running.wait() == 0


async def test_a_missing_model_stops_the_process_and_names_the_folder(tmp_path: Path) -> None:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pointsman_retriever",
        env={
            "POINTSMAN_RETRIEVER_DATA": str(tmp_path / "data"),
            "POINTSMAN_RETRIEVER_EMBEDDING_MODEL": str(tmp_path / "no-model"),
        },
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await running.communicate()
    assert running.returncode == 1
    assert b"no-model" in stderr
    assert b"Traceback" not in stderr


def test_a_data_folder_in_use_is_refused_and_named(tmp_path: Path) -> None:
    with (
        claim_data_folder(tmp_path),
        pytest.raises(FailedPrecondition, match=str(tmp_path)) as raised,
        claim_data_folder(tmp_path),
    ):
        pass
    assert raised.value.code == "data_in_use"
    with claim_data_folder(tmp_path) as data_folder:
        assert data_folder.collections() == []


def test_a_file_of_another_release_is_refused(tmp_path: Path) -> None:
    create_store(tmp_path, CollectionInfo("notes", "model", 4))
    with closing(sqlite3.connect(tmp_path / STORE_FILE)) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(FailedPrecondition, match="99") as raised:
        Store(NOTES, tmp_path, 1)
    assert raised.value.code == "unknown_schema_version"


def test_each_commit_reaches_the_disk(tmp_path: Path) -> None:
    create_store(tmp_path, CollectionInfo("notes", "model", 4))
    with closing(Store(NOTES, tmp_path, 1)) as store, store.connections.transaction() as writer:
        assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


@pytest.mark.parametrize("content", [b"", b"0123456789ab\n", b"0123456789AB", b"\xff" * 12], ids=ascii)
def test_a_malformed_id_of_the_data_folder_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".id").write_bytes(content)
    with claim_data_folder(tmp_path) as data_folder:
        made = data_folder.id()
        assert len(bytes.fromhex(made)) == 6
        assert data_folder.id() == made
    assert (tmp_path / ".id").read_text() == made
