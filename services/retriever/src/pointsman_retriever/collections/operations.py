"""Maintenance of collections while the service runs: verification, snapshots, restoring, migration to another model."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_servicekit.document_sketch import Sketch
from pointsman_servicekit.errors import AlreadyExists, FailedPrecondition, InvalidArgument

from pointsman_retriever import limits
from pointsman_retriever.collections.collection import Collection
from pointsman_retriever.collections.registry import CollectionRegistry
from pointsman_retriever.collections.service import CollectionService
from pointsman_retriever.collections.shared import SharedCollection
from pointsman_retriever.concurrency import ThreadPool, ThreadPools
from pointsman_retriever.domain import CollectionId, CollectionInfo, EncodedDocument
from pointsman_retriever.encoder import DocumentEncoder
from pointsman_retriever.store import maintenance
from pointsman_retriever.store.data_folder import STORE_FILE
from pointsman_retriever.store.errors import translate_disk_errors
from pointsman_retriever.store.vector_sketch import VectorSketch, read_vector_sketch

log = logging.getLogger(__name__)

SNAPSHOT_PART_BYTES = 1024 * 1024
DOCUMENTS_PER_MIGRATION_STEP = 16  # a migration can be interrupted between steps
_NO_SNAPSHOT = "back up its database with pg_dump, or move it with `pointsman retriever move --to local` first"
_NO_RESTORE = "restore its database with pg_restore, or restore the snapshot under another name"
_NO_REEMBED = (
    "move it with `pointsman retriever move --to local`, migrate it with `pointsman retriever reembed`, and move it "
    "back with `--to shared`"
)


@dataclass(frozen=True, slots=True)
class VerifyResult:
    problems: tuple[str, ...]
    info: CollectionInfo
    seconds: float
    repaired: bool


@dataclass(frozen=True, slots=True)
class SnapshotTrailer:
    """The last item of a snapshot stream: the SHA-256 of the file in hexadecimal, and the state of the collection in
    it.
    """

    sha256: str
    info: CollectionInfo


@dataclass(frozen=True, slots=True)
class MigrationProgress:
    documents: int
    total: int
    info: CollectionInfo | None = None  # in the last message


class Operations:
    """Verifies, copies, restores and migrates collections while the service runs.

    Methods raise InvalidArgument for a tenant or a name that is not valid, and storage errors (`translate_errors`).
    They raise FailedPrecondition ("read_only_collection") for a collection in an external store. All but `restore`
    raise NotFound if there is no collection; for a damaged collection they raise the error with which it failed to
    load. `snapshot`, `reembed`, and `restore` with `replace`, raise FailedPrecondition ("shared_collection") for a
    collection in the shared store.
    """

    def __init__(
        self, registry: CollectionRegistry, service: CollectionService, encoder: DocumentEncoder, pools: ThreadPools
    ) -> None:
        self._registry = registry
        self._service = service
        self._encoder = encoder
        self._pools = pools
        self._migrating: set[CollectionId] = set()

    async def verify(self, collection_id: CollectionId, repair: bool) -> VerifyResult:
        """Reads all rows of a collection's file, and compares the indexes with the recorded counts and checksum.

        If there are problems, `repair` rebuilds the indexes from the file; it has no effect in the shared store. The
        result has the problems found before the repair, and `repaired`, which is true if the indexes were rebuilt and a
        second check found no problem. Raises Internal ("collection_damaged") if the indexes cannot be rebuilt because
        the file is damaged.
        """
        started = time.perf_counter()
        collection = await self._collection(collection_id)
        findings = await self._reads(collection).run(collection.verify)
        repaired = False
        if findings.problems and repair and isinstance(collection, Collection):
            await self._pools.write.run(collection.refresh)
            repaired = not (await self._pools.maintenance.run(collection.verify)).problems
        for problem in findings.problems:
            log.error("collection %s: %s", collection_id, problem)
        return VerifyResult(findings.problems, findings.info, time.perf_counter() - started, repaired)

    async def sketch(self, collection_id: CollectionId) -> tuple[int, Sketch]:
        """Returns a collection's version and a sketch of its documents.

        A sketch has hashes of the documents, or of a sample if there are many. Comparing two sketches of a collection
        shows how much it has changed.
        """
        collection = await self._collection(collection_id)
        return await self._reads(collection).run(collection.store.sketch)

    async def vector_sketch(self, collection_id: CollectionId, known_checksum: str) -> VectorSketch | None:
        """Returns a sample of a collection's vectors; None if the sample that the caller already has is still valid.

        The caller passes the checksum of its sample as `known_checksum` (16 hexadecimal digits). The sample is valid if
        the checksum of the collection's vectors is equal. If `known_checksum` is empty, a sample is always returned.
        """
        collection = await self._collection(collection_id)
        if isinstance(collection, SharedCollection):
            return await self._pools.shared_reads.run(collection.store.vector_sketch, known_checksum)
        if f"{collection.info.checksum:016x}" == known_checksum:
            return None
        return await self._pools.maintenance.run(read_vector_sketch, collection.store)

    async def snapshot(self, collection_id: CollectionId) -> AsyncIterator[bytes | SnapshotTrailer]:
        """Yields a file with one version of a collection, in parts of at most SNAPSHOT_PART_BYTES, then the trailer."""
        collection = await self._local_collection(collection_id, _NO_SNAPSHOT)
        with self._registry.data_folder.scratch() as scratch:
            copied = await self._pools.maintenance.run(maintenance.copy_store, collection.store, scratch)
            digest = hashlib.sha256()
            with (scratch / STORE_FILE).open("rb") as file:
                while part := await asyncio.to_thread(file.read, SNAPSHOT_PART_BYTES):
                    digest.update(part)
                    yield part
            yield SnapshotTrailer(digest.hexdigest(), copied)

    async def restore(
        self, collection_id: CollectionId, replace: bool, parts: AsyncIterator[bytes | str]
    ) -> CollectionInfo:
        """Restores a collection and returns its state; `parts` yields the bytes of a snapshot file, then its SHA-256.

        With `replace`, an existing collection is replaced, and its quota is kept. The default quota applies if there
        was no collection, or its quota cannot be read. Raises AlreadyExists ("collection_exists") if the collection
        exists, also in an external store, and `replace` is False; InvalidArgument ("snapshot_damaged") if the snapshot
        is incomplete or damaged; ResourceExhausted ("overloaded") if too many changes are in progress; and what `parts`
        raises.
        """
        limits.check_name(collection_id)
        await self._registry.prepare(collection_id)
        if self._registry.is_shared(collection_id) and replace:
            raise _is_shared(collection_id, _NO_RESTORE)
        if self._registry.has(collection_id) and not replace:
            raise AlreadyExists(
                f"there already is a collection {str(collection_id)!r}; set `replace`, or restore under another name",
                code="collection_exists",
                param="collection",
            )
        with self._pools.changes.slot(), self._registry.data_folder.scratch() as scratch:
            await _receive_file(parts, scratch / STORE_FILE)
            quota = self._service.quota(collection_id)
            await self._pools.maintenance.run(maintenance.accept_snapshot, collection_id, scratch, quota)
            restored = await self._pools.write.run(self._put_in_place, scratch, collection_id)
        log.info("restored collection %s: %d documents", collection_id, restored.documents)
        return restored

    async def reembed(self, collection_id: CollectionId) -> AsyncIterator[MigrationProgress]:
        """Migrates a collection to the running embedding model, or resumes an interrupted migration to it.

        Yields the number of migrated documents and of all documents, and at the end the collection's new state. Until
        the end, searches and upserts raise FailedPrecondition, because the collection's vectors are of another model.
        Raises FailedPrecondition ("migration_running") if the collection is being migrated already, InvalidArgument if
        a stored document cannot be chunked, Unavailable if the model's endpoint fails, and Unavailable
        ("collection_closed") or NotFound if the collection is replaced or deleted during the migration.
        """
        collection = await self._local_collection(collection_id, _NO_REEMBED)
        if collection_id in self._migrating:
            raise FailedPrecondition(
                f"collection {str(collection_id)!r} is already being migrated; wait until that is done",
                code="migration_running",
                param="collection",
            )
        self._migrating.add(collection_id)
        try:
            if collection.info.fingerprint != self._encoder.fingerprint:
                async for progress in self._migrate(collection):
                    yield progress
            total = collection.info.documents
            yield MigrationProgress(total, total, collection.info)
        finally:
            self._migrating.discard(collection_id)

    async def _migrate(self, collection: Collection) -> AsyncIterator[MigrationProgress]:
        store, encoder, pools = collection.store, self._encoder, self._pools
        await pools.write.run(maintenance.begin_migration, store, encoder.fingerprint, encoder.dimensions)
        while not await pools.write.run(collection.migrate, store, maintenance.swap_if_complete):
            pending = await pools.maintenance.run(maintenance.find_pending, store, DOCUMENTS_PER_MIGRATION_STEP)
            encoded: Sequence[EncodedDocument] = await encoder.encode_again(
                [(one.document, one.recipe) for one in pending]
            )
            await pools.write.run(maintenance.store_migrated, store, list(zip(pending, encoded, strict=True)))
            total = collection.info.documents
            yield MigrationProgress(total - await pools.maintenance.run(maintenance.count_pending, store), total)
        log.info("migrated collection %s to embedding model %s", collection.info.id, encoder.fingerprint)

    def _put_in_place(self, folder: Path, collection_id: CollectionId) -> CollectionInfo:
        if self._registry.has(collection_id):
            return self._registry.replace(folder, collection_id)
        return self._registry.add(folder, collection_id)

    def _reads(self, collection: Collection | SharedCollection) -> ThreadPool:
        return self._pools.shared_reads if isinstance(collection, SharedCollection) else self._pools.maintenance

    async def _collection(self, collection_id: CollectionId) -> Collection | SharedCollection:
        limits.check_name(collection_id)
        await self._registry.prepare(collection_id)
        return self._registry.collection(collection_id)

    async def _local_collection(self, collection_id: CollectionId, remedy: str) -> Collection:
        collection = await self._collection(collection_id)
        if isinstance(collection, SharedCollection):
            raise _is_shared(collection_id, remedy)
        return collection


def _is_shared(collection_id: CollectionId, remedy: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"collection {str(collection_id)!r} is in the shared store; {remedy}",
        code="shared_collection",
        param="collection",
    )


async def _receive_file(parts: AsyncIterator[bytes | str], file: Path) -> None:
    digest = hashlib.sha256()
    with translate_disk_errors(file), file.open("wb") as target:
        async for part in parts:
            if isinstance(part, str):
                if part != digest.hexdigest():
                    raise _incomplete_snapshot(f"its SHA-256 is {digest.hexdigest()}, and {part} was expected")
                return
            digest.update(part)
            await asyncio.to_thread(target.write, part)
    raise _incomplete_snapshot("the stream ended before the SHA-256")


def _incomplete_snapshot(reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"the snapshot is incomplete: {reason}; nothing was changed", code="snapshot_damaged", param="data"
    )
