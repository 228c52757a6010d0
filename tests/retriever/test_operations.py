"""Operations on a collection in use: verification, snapshot files, restore, migration to another model."""

import asyncio
import hashlib
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import pytest
from pointsman.v1 import retriever_pb2 as pb
from pointsman_embedding import MiniLM
from pointsman_retriever.domain import Vectors
from pointsman_servicekit.document_sketch import Sketch, changed_share

from tests.retriever.client import Client, Refusal, Start
from tests.retriever.damage import tamper

NOTES = [
    pb.Document(id=f"n{n}", title="Note", text=f"Note {n} on the ladder.", metadata={"n": str(n)}) for n in range(5)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of the collection's file."""
    return tmp_path / "data" / "default" / "notes" / "store.sqlite3"


async def verify(client: Client, collection: str = "notes", repair: bool = False) -> pb.VerifyResponse:
    response: pb.VerifyResponse = await client.stub.Verify(pb.VerifyRequest(collection=collection, repair=repair))
    return response


async def snapshot(client: Client, collection: str = "notes") -> tuple[bytes, pb.SnapshotPart]:
    parts = [part async for part in client.stub.Snapshot(pb.SnapshotRequest(collection=collection))]
    return b"".join(part.data for part in parts), parts[-1]


async def restore(
    client: Client, data: bytes, collection: str = "notes", replace: bool = False, sha256: str = "", tenant: str = ""
) -> pb.Collection:
    begin = pb.RestoreBegin(tenant=tenant, collection=collection, replace=replace)
    middle = len(data) // 2
    restored: pb.Collection = await client.stub.Restore(
        iter(
            [
                pb.RestoreRequest(begin=begin),
                pb.RestoreRequest(data=data[:middle]),
                pb.RestoreRequest(data=data[middle:]),
                pb.RestoreRequest(sha256=sha256 or hashlib.sha256(data).hexdigest()),
            ]
        )
    )
    return restored


async def test_verify_finds_no_problem_after_many_kinds_of_changes(client: Client) -> None:
    await client.upsert(*NOTES)
    await client.upsert(pb.Document(id="n1", text="# Long\n\n" + "The ladder is in the shed. " * 400))
    await client.upsert(pb.Document(id="n1", text="# Long\n\n" + "The ladder is in the shed. " * 380))
    await client.upsert(pb.Document(id="n2", title="Note", text=NOTES[2].text, metadata={"n": "other"}))
    await client.delete("n3")
    found = await verify(client)
    collection = await client.collection()
    assert not found.problems
    assert (found.documents, found.chunks, found.version) == (4, collection.chunks, collection.version)
    assert len(found.checksum) == 16


SWAP = (
    "UPDATE chunks SET vector = (SELECT vector FROM chunks AS other WHERE other.id = 3 - chunks.id) WHERE id IN (1, 2)"
)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE chunks SET text = 'Another.' WHERE id = 1", "chunk 1 of document 'n0' is not the document's text"),
        ("UPDATE chunks SET context = 'Another' WHERE id = 2", "chunk 2 of document 'n1' do not match their hash"),
        (SWAP, "the text and the vector of chunk 1 of document 'n0' do not match their hash"),
        (
            "UPDATE chunks SET vector = zeroblob(1536) WHERE id = 4",
            "chunk 4 of document 'n3' does not have length 1",
        ),
        ("UPDATE chunks SET vector = zeroblob(8) WHERE id = 4", "has 2 values; the model's have 384"),
        (
            "UPDATE documents SET title = 'Stale' WHERE id = 'n2'",
            "document 'n2' does not match its hash",
        ),
        ("UPDATE metadata SET value = '9' WHERE document = 1", "the content of document 'n0' does not match its hash"),
        ("DELETE FROM chunks WHERE id = 5", "the recorded chunks is 5, and the rows give 4"),
        ("UPDATE collection SET bytes = 7", "the recorded bytes is 7"),
    ],
)
async def test_verify_names_each_inconsistency(client: Client, file: Path, statement: str, reason: str) -> None:
    await client.upsert(*NOTES)
    tamper(file, statement)
    assert reason in "\n".join((await verify(client)).problems)


async def test_altered_vectors_are_detected_at_start(
    start: Start, refusal: Refusal, file: Path, minilm: MiniLM
) -> None:
    async with start() as client:
        await client.create()
        await client.create("others")
        await client.upsert(*NOTES)
        await client.upsert(*NOTES, collection="others")
        data, _ = await snapshot(client)
    tamper(file, SWAP)
    async with start() as client:
        for call in (client.search("ladder"), client.upsert(*NOTES), verify(client)):
            error = await refusal(call)
            assert (error.grpc_status, error.code) == (grpc.StatusCode.INTERNAL, "collection_damaged")
            assert "checksum" in error.message
        assert "checksum" in (await client.collection()).problem
        assert (await client.found("note 3", collection="others"))[0] == "n3"  # other calls are not delayed
        assert not (await client.collection("others")).problem
        assert await client.metric('pointsman_retriever_inconsistent{collection="notes"}') == 1.0

        restored = await restore(client, data, replace=True)
        assert restored.documents == len(NOTES)
        assert (await client.found("note 3"))[0] == "n3"
        assert await client.present_metric('pointsman_retriever_inconsistent{collection="notes"}') == 0.0


def damage_file(file: Path, damage: str) -> None:
    whole = file.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "pages": whole[:middle] + b"\xa5" * 65536 + whole[middle + 65536 :],
        "cut": whole[:middle],
        "empty": b"",
    }
    file.write_bytes(damaged[damage])


@pytest.mark.parametrize("damage", ["pages", "cut", "empty"])
async def test_a_damaged_file_is_reported_and_can_be_deleted(
    start: Start, refusal: Refusal, file: Path, damage: str
) -> None:
    async with start() as client:
        await client.create()
        await client.upsert(*(pb.Document(id=f"{n}", text=f"The ladder {n}. " * 100) for n in range(60)))
    damage_file(file, damage)
    async with start() as client:
        for _ in range(2):
            error = await refusal(client.search("ladder"))
            assert error.code in ("collection_damaged", "unknown_schema_version")
        await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
        await client.create()
        assert await client.found("ladder") == []


@pytest.mark.parametrize(("damage", "documents"), [("", 7), ("cut", 9)])
async def test_a_restore_over_a_damaged_collection_keeps_the_quota_if_that_can_be_read(
    start: Start, file: Path, damage: str, documents: int
) -> None:
    async with start() as client:
        await client.stub.CreateCollection(pb.CreateCollectionRequest(name="notes", quota=pb.Quota(documents=7)))
        await client.upsert(*NOTES)
        data, _ = await snapshot(client)
    if damage:
        damage_file(file, damage)
    else:
        tamper(file, SWAP)
    async with start(quota_documents=9) as client:
        assert (await client.collection()).problem
        restored = await restore(client, data, replace=True)
        assert restored.quota.documents == documents


async def test_a_torn_write_is_repaired_at_the_next_start(start: Start, file: Path) -> None:
    async with start() as client:
        await client.create()
        await client.upsert(NOTES[0])
        await client.upsert(NOTES[1])
        # The state after a crash: the log has half of the last commit's frames.
        log = file.with_name(f"{file.name}-wal")
        copies = {one: one.read_bytes() for one in (file, log)}
    for one, content in copies.items():
        one.write_bytes(content)
    log.write_bytes(copies[log] + copies[log][:3000])
    async with start() as client:
        assert set(await client.found("note", top_k=10)) == {"n0", "n1"}
        assert not (await verify(client)).problems
        await client.upsert(NOTES[2])
        assert (await client.collection()).documents == 3


async def test_a_snapshot_file_is_one_version_of_a_collection_in_use(client: Client) -> None:
    await client.upsert(*NOTES)
    done = asyncio.Event()

    async def write() -> None:
        for number in range(10_000):
            if done.is_set():
                return
            await client.upsert(*(pb.Document(id=f"w{number}-{part}", text=f"Written {number}.") for part in range(3)))

    writing = asyncio.create_task(write())
    copies = [await snapshot(client) for _ in range(3)]
    done.set()
    await writing
    assert copies[0][1].collection.version < (await client.collection()).version
    for number, (data, last) in enumerate(copies):
        assert last.sha256 == hashlib.sha256(data).hexdigest()
        restored = await restore(client, data, f"copy-{number}")
        assert (restored.documents, restored.version) == (last.collection.documents, last.collection.version)
        assert (restored.documents - len(NOTES)) % 3 == 0
        assert not (await verify(client, f"copy-{number}")).problems
        assert (await client.found("note 4", collection=f"copy-{number}"))[0] == "n4"


async def test_a_restore_replaces_a_collection_durably(start: Start, refusal: Refusal) -> None:
    async with start() as client:
        await client.create()
        await client.upsert(*NOTES)
        data, _ = await snapshot(client)
        await client.delete("n0", "n1")
        await client.upsert(pb.Document(id="later", text="Written later."))
        error = await refusal(restore(client, data))
        assert (error.grpc_status, error.code) == (grpc.StatusCode.ALREADY_EXISTS, "collection_exists")
        await restore(client, data, replace=True)
        assert set(await client.found("note later", top_k=10)) == {one.id for one in NOTES}
        await client.upsert(pb.Document(id="new", text="A new one."))
    async with start() as client:
        assert set(await client.found("note new", top_k=10)) == {one.id for one in NOTES} | {"new"}
        assert not (await verify(client)).problems


async def test_a_snapshot_can_be_restored_for_another_tenant(client: Client) -> None:
    await client.upsert(*NOTES)
    data, _ = await snapshot(client)
    restored = await restore(client, data, tenant="acme")
    assert (restored.tenant, restored.documents) == ("acme", len(NOTES))


async def test_searches_continue_during_a_restore(client: Client) -> None:
    await client.upsert(*NOTES)
    data, _ = await snapshot(client)
    done = asyncio.Event()

    async def look() -> int:
        looked = 0
        while not done.is_set():
            assert len(await client.found("note ladder", top_k=10)) == len(NOTES)
            looked += 1
        return looked

    looking = [asyncio.create_task(look()) for _ in range(3)]
    for _ in range(5):
        await restore(client, data, replace=True)
    done.set()
    assert min(await asyncio.gather(*looking)) > 0


async def test_a_bad_snapshot_changes_nothing(client: Client, refusal: Refusal, tmp_path: Path) -> None:
    await client.upsert(*NOTES)
    data, _ = await snapshot(client)
    other = tmp_path / "other.sqlite3"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE collection (only INTEGER)")
    tampered, trap, encoding, number, unknown = (
        tmp_path / f"{name}.sqlite3" for name in ("tampered", "trap", "encoding", "number", "unknown")
    )
    for target in (tampered, trap, encoding, number, unknown):
        target.write_bytes(data)
    tamper(tampered, SWAP)
    tamper(trap, "CREATE TRIGGER trap AFTER INSERT ON documents BEGIN DELETE FROM documents; END")
    tamper(encoding, "UPDATE documents SET text = CAST(x'ff' AS TEXT)")
    tamper(number, """UPDATE collection SET search = '{"least_dense": "x"}'""")
    tamper(unknown, """UPDATE collection SET search = '{"method": "none"}'""")
    version = (await client.collection()).version
    for what, content, sha256 in (
        ("another SHA-256", data, "0" * 64),
        ("cut short", data[: len(data) // 2], ""),
        ("empty", b"", ""),
        ("no SQLite", b"not a file of SQLite's" * 1000, ""),
        ("another program's", other.read_bytes(), ""),
        ("tampered with", tampered.read_bytes(), ""),
        ("a trap", trap.read_bytes(), ""),
        ("a text that is not UTF-8", encoding.read_bytes(), ""),
        ("a setting that is no number", number.read_bytes(), ""),
        ("an unknown setting", unknown.read_bytes(), ""),
        ("a format that SQLite only reads", data[:18] + b"\x03" + data[19:], ""),
        ("a newer format of tables", data[:47] + b"\x05" + data[48:], ""),
    ):
        for name, replace in (("notes", True), ("fresh", False)):
            error = await refusal(restore(client, content, name, replace, sha256))
            assert (error.grpc_status, error.code) == (grpc.StatusCode.INVALID_ARGUMENT, "snapshot_damaged"), what
    assert (await client.collection()).version == version
    assert (await client.found("note 2"))[0] == "n2"
    assert not list((tmp_path / "data" / ".scratch").iterdir())


class NextModel:
    """Another embedding model, with a different name and shorter vectors."""

    fingerprint = "next-model"
    dimensions = 64
    max_tokens = 256
    query_prefix = passage_prefix = ""

    def __init__(self, model: MiniLM, at_most: int = 10**9) -> None:
        """Takes the real model; embedding fails after `at_most` texts."""
        self.tokenizer = model.tokenizer
        self.texts: list[str] = []
        self._model = model
        self._at_most = at_most

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.texts += texts
        if len(self.texts) > self._at_most:
            raise RuntimeError("the model broke down")
        head = self._model.embed(texts)[:, ::-1][:, :64]
        unit: Vectors = (head / np.linalg.norm(head, axis=1, keepdims=True)).astype(np.float32)
        return unit


MANY = [pb.Document(id=f"m{n}", title="Many", text=f"Number {n}.\n\n" + f"The ladder {n}. " * 120) for n in range(40)]


async def reembed(client: Client) -> list[pb.ReembedProgress]:
    return [progress async for progress in client.stub.Reembed(pb.ReembedRequest(collection="notes"))]


async def test_a_collection_of_another_model_is_unusable_until_it_is_migrated(
    start: Start, refusal: Refusal, minilm: MiniLM
) -> None:
    async with start() as client:
        await client.create()
        await client.upsert(*MANY)
        before = await client.collection()
    model = NextModel(minilm)
    async with start(model) as client:
        for call in (client.search("ladder"), client.upsert(*NOTES)):
            assert (await refusal(call)).code == "fingerprint_mismatch"
        progress = await reembed(client)
        assert [one.total for one in progress] == [len(MANY)] * len(progress)
        done = [one.documents for one in progress]
        assert done == sorted(done)
        assert 0 < done[0] < done[-1] == len(MANY)
        after = progress[-1].collection
        assert (after.fingerprint, after.dimensions, after.version) == ("next-model", 64, before.version + 1)
        assert (after.documents, after.chunks) == (before.documents, before.chunks)
        assert before.bytes - after.bytes == 4 * (384 - 64) * before.chunks
        passage = (await client.search("number 7", top_k=1, dense_weight=1.0)).passages[0]
        query, text = model.embed(["number 7", f"{passage.title}\n\n{passage.text}"])
        assert passage.dense_score == pytest.approx(float(query @ text), abs=1e-5)
        await client.upsert(*NOTES)
        assert not (await verify(client)).problems
        assert len(await reembed(client)) == 1  # there is nothing more to do
    async with start(model) as client:
        assert "n3" in await client.found("note 3", top_k=10)


async def test_an_interrupted_migration_resumes_and_skips_deleted_documents(
    start: Start, refusal: Refusal, minilm: MiniLM
) -> None:
    async with start() as client:
        await client.create()
        await client.upsert(*MANY)
        chunks = (await client.collection()).chunks
    breaking = NextModel(minilm, at_most=chunks // 2)
    async with start(breaking) as client:
        assert (await refusal(reembed(client))).code == "internal"
        assert (await client.collection()).fingerprint == minilm.fingerprint
        await client.delete("m0", "m39")
    async with start() as client:  # the old model's vectors are all still there
        assert len(set(await client.found("ladder", top_k=100))) > 10
        assert not (await verify(client)).problems
    model = NextModel(minilm)
    async with start(model) as client:
        progress = await reembed(client)
        assert 0 < len(model.texts) < 0.8 * chunks
        assert progress[-1].collection.documents == len(MANY) - 2
        assert not (await verify(client)).problems
        assert not {"m0", "m39"} & set(await client.found("ladder", top_k=100))


class PausedModel(NextModel):
    """A model that begins to embed passages only when it is resumed."""

    def __init__(self, model: MiniLM) -> None:
        super().__init__(model)
        self.paused, self.resumed = threading.Event(), threading.Event()

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.paused.set()
        assert self.resumed.wait(60)
        return super().embed(texts)


async def test_a_migration_of_a_collection_that_is_deleted_meanwhile_says_so(
    start: Start, refusal: Refusal, minilm: MiniLM
) -> None:
    async with start() as client:
        await client.create()
        await client.upsert(*NOTES)
    model = PausedModel(minilm)
    async with start(model) as client:
        migration = asyncio.create_task(reembed(client))
        assert await asyncio.to_thread(model.paused.wait, 60)
        await client.stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
        model.resumed.set()
        error = await refusal(migration)
        assert (error.grpc_status, error.code) == (grpc.StatusCode.UNAVAILABLE, "collection_closed")


async def test_a_second_concurrent_migration_is_refused(start: Start, refusal: Refusal, minilm: MiniLM) -> None:
    async with start() as client:
        await client.create()
        await client.upsert(*MANY)
    async with start(NextModel(minilm)) as client:
        call = client.stub.Reembed(pb.ReembedRequest(collection="notes"))
        assert (await call.read()).documents > 0
        assert (await refusal(reembed(client))).code == "migration_running"
        while (progress := await call.read()) is not grpc.aio.EOF:
            last = progress
        assert last.collection.fingerprint == "next-model"


async def test_verify_repairs_the_index_in_memory(client: Client, file: Path) -> None:
    await client.upsert(*NOTES)
    found = await verify(client, repair=True)
    assert (list(found.problems), found.repaired) == ([], False)
    tamper(file, "UPDATE chunks SET text = 'Another.' WHERE id = 1")
    found = await verify(client, repair=True)
    assert found.problems
    assert not found.repaired  # the documents themselves are damaged, which rebuilding an index does not repair


async def test_sketches_measure_the_share_of_changed_documents(client: Client) -> None:
    async def sketch() -> Sketch:
        reason = await client.stub.Sketch(pb.SketchRequest(collection="notes"))
        return Sketch(reason.documents, tuple(reason.smallest))

    await client.upsert(*NOTES)
    before = await sketch()
    await client.upsert(pb.Document(id="n0", title="Note", text="Another text."))
    after = await sketch()
    assert (before.documents, len(before.smallest)) == (5, 5)
    assert changed_share(before, after) == pytest.approx(0.2)
    await client.upsert(NOTES[0])
    assert await sketch() == before
