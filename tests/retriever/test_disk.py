"""A disk that is full, read-only or failing: the error names the cause, and no acknowledged write is lost."""

import asyncio
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.bootstrap import snapshot_factory
from pointsman_retriever.collections.collection import Collection
from pointsman_retriever.domain import (
    UNLIMITED,
    Chunk,
    CollectionId,
    CollectionInfo,
    Document,
    EncodedDocument,
    Quota,
    SearchOptions,
)
from pointsman_retriever.index.faiss_index import FaissStore
from pointsman_retriever.search.ranking import ResolvedQuery
from pointsman_retriever.store.data_folder import STORE_FILE, claim_data_folder
from pointsman_retriever.store.maintenance import accept_snapshot
from pointsman_retriever.store.store import Store, create_store
from pointsman_retriever.store.transaction import Change
from pointsman_servicekit.errors import FailedPrecondition, Internal, PointsmanError, ResourceExhausted

from tests.retriever.client import Refusal, Start

NOTES = CollectionId("default", "notes")


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    create_store(tmp_path, CollectionInfo("notes", "model", 4))
    with closing(Store(NOTES, tmp_path, 2)) as store:
        collection = Collection(store, snapshot_factory(FaissStore()))
        collection.load()
        yield collection


def made(identifier: str, axis: int, text: str = "") -> EncodedDocument:
    text = text or f"Note {identifier}."
    vector = np.eye(4, dtype=np.float32)[axis : axis + 1]
    return EncodedDocument(Document(identifier, "", text), (Chunk(text, 0, len(text), ""),), vector, "given")


def found(collection: Collection, axis: int) -> list[str]:
    question = ResolvedQuery(
        "note", np.eye(4, dtype=np.float32)[axis], "model", None, SearchOptions(top_k=10, dense_weight=1.0)
    )
    return [passage.document_id for passage in collection.search(question).passages]


def test_after_a_full_disk_refused_a_change_memory_and_disk_agree(collection: Collection) -> None:
    collection.change([lambda change: change.put(made("a", 0))])
    with collection.store.connections.reader() as reader:
        (pages,) = reader.execute("PRAGMA page_count").fetchone()
    with collection.store.connections.transaction() as writer:
        writer.execute("COMMIT")
        writer.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite reports this limit as a full disk
    with pytest.raises(ResourceExhausted) as raised:
        collection.change([lambda change: change.put(made("b", 1, "A long note. " * 20_000))])
    assert raised.value.code == "disk_full"
    assert raised.value.retry_after == 60.0
    assert found(collection, 0) == ["a"]
    with collection.store.connections.transaction() as writer:
        writer.execute("COMMIT")
        writer.execute("PRAGMA max_page_count = 1000000")
    collection.change([lambda change: change.put(made("c", 2))])
    collection.change([lambda change: change.put(made("b", 1, "A long note. " * 20_000))])
    assert [found(collection, axis)[0] for axis in range(3)] == ["a", "b", "c"]
    assert collection.verify().problems == ()


def test_after_a_failed_commit_memory_and_disk_agree(collection: Collection) -> None:
    collection.change([lambda change: change.put(made("a", 0))])

    def fail_at_commit(change: Change) -> None:
        change.put(made("b", 1))
        # The missing document of this row is only detected at the commit.
        change._connection.execute("PRAGMA defer_foreign_keys = ON")
        change._connection.execute("INSERT INTO metadata (document, key, value) VALUES (999, 'k', 'v')")

    for _ in range(3):
        with pytest.raises(PointsmanError):
            collection.change([fail_at_commit])
        assert found(collection, 1) == ["a"]
    collection.change([lambda change: change.put(made("c", 2))])
    collection.change([lambda change: change.put(made("b", 1))])
    assert [found(collection, axis)[0] for axis in range(3)] == ["a", "b", "c"]
    assert collection.info.version == 3
    assert collection.verify().problems == ()


def test_steps_in_one_commit_succeed_or_fail_independently(collection: Collection) -> None:
    def fail(change: Change) -> None:
        change.put(made("x", 3))
        raise ResourceExhausted("no more", code="quota_exceeded")

    done = collection.change(
        [
            lambda change: change.put(made("a", 0)),
            fail,
            lambda change: change.put(made("b", 1)),
            lambda change: change.remove("a"),  # added by an earlier step of the same commit
            lambda change: change.put(made("b", 2)),
        ]
    )
    assert [one.info.version for one in done] == [1, 1, 2, 3, 4]
    assert isinstance(done[1].result, ResourceExhausted)
    assert found(collection, 2) == ["b"]
    assert (collection.info.documents, collection.info.chunks) == (1, 1)
    assert collection.verify().problems == ()


def put_long_note(change: Change, number: int) -> None:
    change.put(made(f"n{number}", 0, "A long note. " * 4_000))


def test_the_write_ahead_log_stays_short(tmp_path: Path) -> None:
    create_store(tmp_path, CollectionInfo("notes", "model", 4))
    sizes = []
    with closing(Store(NOTES, tmp_path, 2, checkpoint_bytes=200_000)) as store:
        collection = Collection(store, snapshot_factory(FaissStore()))
        for number in range(30):
            collection.change([partial(put_long_note, number=number)])
            sizes.append((tmp_path / f"{STORE_FILE}-wal").stat().st_size)
    assert max(sizes) < 600_000
    assert min(sizes[10:]) < 200_000  # not every change triggers a checkpoint


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Lets this process make no file longer than `size` bytes during the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_change_is_acknowledged_if_only_the_copying_of_the_log_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create_store(tmp_path, CollectionInfo("notes", "model", 4))
    file = tmp_path / STORE_FILE
    with closing(Store(NOTES, tmp_path, 2, checkpoint_bytes=0)) as store:
        collection = Collection(store, snapshot_factory(FaissStore()))
        for number in range(8):
            collection.change([partial(put_long_note, number=number)])
        size = file.stat().st_size
        with largest_file(size):  # the log, which starts again with each change, is shorter
            (done,) = collection.change([partial(put_long_note, number=8)])
        assert done.info.documents == 9
        assert file.stat().st_size == size
        assert "cannot copy the write-ahead log of collection notes" in caplog.text
        assert "n8" in found(collection, 0)
        collection.change([partial(put_long_note, number=9)])
        assert file.stat().st_size > size
        assert collection.verify().problems == ()


def test_a_read_only_disk_is_reported_and_searches_continue(collection: Collection) -> None:
    collection.change([lambda change: change.put(made("a", 0))])
    with collection.store.connections.transaction() as writer:
        writer.execute("COMMIT")
        writer.execute("PRAGMA query_only = ON")
    with pytest.raises(FailedPrecondition) as raised:
        collection.change([lambda change: change.put(made("b", 1))])
    assert raised.value.code == "disk_read_only"
    assert found(collection, 1) == ["a"]


def test_a_snapshot_is_not_blamed_for_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    create_store(tmp_path, CollectionInfo("notes", "model", 4))
    (tmp_path / f"{STORE_FILE}-wal").mkdir()  # SQLite cannot write its log, as on a read-only disk
    with pytest.raises(FailedPrecondition) as raised:
        accept_snapshot(NOTES, tmp_path, UNLIMITED)
    assert raised.value.code == "disk_read_only"


def test_a_snapshot_is_not_blamed_for_a_failure_of_the_service(tmp_path: Path) -> None:
    create_store(tmp_path, CollectionInfo("notes", "model", 4))
    with pytest.raises(Internal) as raised:
        accept_snapshot(NOTES, tmp_path, Quota(documents=0.5))  # type: ignore[arg-type]  # SQLite refuses to store it
    assert raised.value.code == "store_failed"


def test_a_data_folder_that_cannot_be_created_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="file/data") as raised, claim_data_folder(tmp_path / "file" / "data"):
        pass
    assert raised.value.code == "data_folder_unusable"


async def test_a_disk_that_fails_while_a_collection_is_created_is_reported(
    start: Start, refusal: Refusal, tmp_path: Path
) -> None:
    async with start() as client:
        scratch = tmp_path / "data" / ".scratch"
        scratch.rmdir()
        assert (await refusal(client.create())).code == "disk_failed"
        scratch.mkdir()
        await client.create()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB; skips the test if this user may not mount one."""
    folder = tmp_path / "data"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


async def test_a_service_on_a_full_disk_keeps_acknowledged_documents_and_resumes_when_there_is_space(
    start: Start, refusal: Refusal, small_disk: Path
) -> None:
    acknowledged: set[str] = set()
    error = None
    async with start() as client:
        await client.create()
        while error is None:
            name = f"n{len(acknowledged)}"
            call = asyncio.ensure_future(client.upsert(pb.Document(id=name, text=f"Note {name}. " + "Filling. " * 600)))
            await asyncio.wait([call])
            if call.exception() is None:
                acknowledged.add(name)
            else:
                error = await refusal(call)
        assert error.code == "disk_full"
        parts = pb.RestoreRequest(begin=pb.RestoreBegin(collection="copy")), pb.RestoreRequest(data=bytes(2**20))
        assert (await refusal(client.stub.Restore(iter(parts)))).code == "disk_full"
        assert set(await client.found("note filling", top_k=100)) <= acknowledged
        remount(small_disk, "size=20m")
        await client.upsert(pb.Document(id="more", text="There is room."))
    remount(small_disk, "ro")
    with pytest.raises(FailedPrecondition) as raised:
        async with start():
            pass
    assert raised.value.code == "data_folder_unusable"
    remount(small_disk, "rw")
    async with start() as client:
        assert (await client.collection()).documents == len(acknowledged) + 1
        assert not (await client.stub.Verify(pb.VerifyRequest(collection="notes"))).problems
