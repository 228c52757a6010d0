"""A disk that is full, cannot be written or fails: the error says so, and nothing that was acknowledged is lost."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_retriever.domain import Chunk, CollectionId, CollectionInfo, Document, EncodedDocument, SearchOptions
from pointsman_retriever.search import ResolvedQuery
from pointsman_retriever.shelf import Collection
from pointsman_retriever.store.folders import STORE_FILE, claim_data_folder
from pointsman_retriever.store.sqlite import Store, create_store
from pointsman_retriever.wiring import snapshot_factory
from pointsman_servicekit.errors import FailedPrecondition, PointsmanError, ResourceExhausted

NOTES = CollectionId("default", "notes")


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Collection]:
    create_store(tmp_path, CollectionInfo("notes", "model", 4))
    with closing(Store(NOTES, tmp_path, 2)) as store:
        shelf = Collection(store, snapshot_factory())
        shelf.load()
        yield shelf


def made(identifier: str, axis: int, text: str = "") -> EncodedDocument:
    text = text or f"Note {identifier}."
    vector = np.eye(4, dtype=np.float32)[axis : axis + 1]
    return EncodedDocument(Document(identifier, "", text), (Chunk(text, 0, len(text), ""),), vector, "given")


def found(shelf: Collection, axis: int) -> list[str]:
    question = ResolvedQuery(
        "note", np.eye(4, dtype=np.float32)[axis], "model", None, SearchOptions(top_k=10, dense_weight=1.0)
    )
    return [passage.document_id for passage in shelf.search(question).passages]


def test_a_full_disk_refuses_the_call_and_the_next_one_finds_all_in_step(shelf: Collection):
    shelf.change([lambda change: change.put(made("a", 0))])
    with shelf.store.connections.reading() as reader:
        (pages,) = reader.execute("PRAGMA page_count").fetchone()
    with shelf.store.connections.transaction() as writer:
        writer.execute("COMMIT")
        writer.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite's own word for a disk with no more room
    with pytest.raises(ResourceExhausted) as raised:
        shelf.change([lambda change: change.put(made("b", 1, "A long note. " * 20_000))])
    assert raised.value.code == "disk_full"
    assert raised.value.retry_after == 60.0
    assert found(shelf, 0) == ["a"]
    with shelf.store.connections.transaction() as writer:
        writer.execute("COMMIT")
        writer.execute("PRAGMA max_page_count = 1000000")
    shelf.change([lambda change: change.put(made("c", 2))])
    shelf.change([lambda change: change.put(made("b", 1, "A long note. " * 20_000))])
    assert [found(shelf, axis)[0] for axis in range(3)] == ["a", "b", "c"]
    assert shelf.checking().problems == ()


def test_a_commit_that_fails_leaves_memory_and_disk_in_step(shelf: Collection):
    shelf.change([lambda change: change.put(made("a", 0))])

    def fail_at_commit(change) -> None:
        change.put(made("b", 1))
        # A row whose document is not there is only missed when the transaction ends.
        change._connection.execute("PRAGMA defer_foreign_keys = ON")
        change._connection.execute("INSERT INTO metadata (document, key, value) VALUES (999, 'k', 'v')")

    for _ in range(3):
        with pytest.raises(PointsmanError):
            shelf.change([fail_at_commit])
        assert found(shelf, 1) == ["a"]
    shelf.change([lambda change: change.put(made("c", 2))])
    shelf.change([lambda change: change.put(made("b", 1))])
    assert [found(shelf, axis)[0] for axis in range(3)] == ["a", "b", "c"]
    assert shelf.collection.version == 3
    assert shelf.checking().problems == ()


def test_steps_committed_together_are_whole_or_fail_alone(shelf: Collection):
    def fail(change) -> None:
        change.put(made("x", 3))
        raise ResourceExhausted("no more", code="quota_exceeded")

    done = shelf.change(
        [
            lambda change: change.put(made("a", 0)),
            fail,
            lambda change: change.put(made("b", 1)),
            lambda change: change.remove("a"),  # added a moment ago, by another caller
            lambda change: change.put(made("b", 2)),
        ]
    )
    assert [one.collection.version for one in done] == [1, 1, 2, 3, 4]
    assert isinstance(done[1].result, ResourceExhausted)
    assert found(shelf, 2) == ["b"]
    assert (shelf.collection.documents, shelf.collection.chunks) == (1, 1)
    assert shelf.checking().problems == ()


def test_the_log_beside_the_file_stays_short(tmp_path: Path):
    create_store(tmp_path, CollectionInfo("notes", "model", 4))
    sizes = []
    with closing(Store(NOTES, tmp_path, 2, checkpoint_bytes=200_000)) as store:
        shelf = Collection(store, snapshot_factory())
        for number in range(30):
            shelf.change([lambda change, number=number: change.put(made(f"n{number}", 0, "A long note. " * 4_000))])
            sizes.append((tmp_path / f"{STORE_FILE}-wal").stat().st_size)
    assert max(sizes) < 600_000
    assert min(sizes[10:]) < 200_000  # so that not each change brings the log in


def test_a_disk_that_can_only_be_read_is_told_and_goes_on_being_searched(shelf: Collection):
    shelf.change([lambda change: change.put(made("a", 0))])
    with shelf.store.connections.transaction() as writer:
        writer.execute("COMMIT")
        writer.execute("PRAGMA query_only = ON")
    with pytest.raises(FailedPrecondition) as raised:
        shelf.change([lambda change: change.put(made("b", 1))])
    assert raised.value.code == "disk_read_only"
    assert found(shelf, 1) == ["a"]


def test_a_data_folder_that_cannot_be_made_is_refused_by_name(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="file/data") as raised, claim_data_folder(tmp_path / "file" / "data"):
        pass
    assert raised.value.code == "data_folder_unusable"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB, where this user may mount one."""
    folder = tmp_path / "data"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


async def test_a_service_on_a_full_disk_keeps_what_it_acknowledged_and_goes_on_when_there_is_room(
    start, refusal, small_disk: Path
):
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
