"""What an operator does to a collection while it serves: verify, snapshot, restore, migrate."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_servicekit.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from pointsman_servicekit.sketches import Sketch

from pointsman_retriever import limits
from pointsman_retriever.domain import CollectionId, CollectionInfo, EncodedDocument
from pointsman_retriever.encoding import DocumentEncoder
from pointsman_retriever.library import CollectionService
from pointsman_retriever.shelves import CollectionRegistry
from pointsman_retriever.store import copying, reembedding
from pointsman_retriever.store.folders import STORE_FILE
from pointsman_retriever.workers import ThreadPools
from pointsman_retriever.writing import GroupCommitWriter

log = logging.getLogger(__name__)

SNAPSHOT_PART_BYTES = 1024 * 1024
DOCUMENTS_PER_MIGRATION_STEP = 16  # of a migration: between two such groups it can be interrupted


@dataclass(frozen=True, slots=True)
class VerifyResult:
    problems: tuple[str, ...]
    collection: CollectionInfo
    seconds: float
    repaired: bool


@dataclass(frozen=True, slots=True)
class SnapshotTrailer:
    """The last word of a snapshot."""

    sha256: str
    collection: CollectionInfo


@dataclass(frozen=True, slots=True)
class MigrationProgress:
    documents: int
    total: int
    collection: CollectionInfo | None = None  # at the end


class Operations:
    def __init__(
        self, shelves: CollectionRegistry, library: CollectionService, encoder: DocumentEncoder, crew: ThreadPools
    ) -> None:
        self._shelves = shelves
        self._library = library
        self._encoder = encoder
        self._crew = crew
        self._migrating: set[CollectionId] = set()

    async def verify(self, collection: CollectionId, repair: bool) -> VerifyResult:
        """Raises InvalidArgument, NotFound; Internal where the collection could not even be loaded."""
        begun = time.perf_counter()
        pen = self._pen(collection)
        findings = await self._crew.tending.run(pen.shelf.checking)
        repaired = False
        if findings.problems and repair:
            await self._crew.writing.run(pen.shelf.refresh)
            repaired = not (await self._crew.tending.run(pen.shelf.checking)).problems
        for problem in findings.problems:
            log.error("collection %s: %s", collection, problem)
        return VerifyResult(findings.problems, findings.collection, time.perf_counter() - begun, repaired)

    async def sketch(self, collection: CollectionId) -> tuple[int, Sketch]:
        """Its version, and what documents there are. Raises InvalidArgument, NotFound."""
        return await self._crew.tending.run(self._pen(collection).shelf.store.sketch)

    async def snapshot(self, collection: CollectionId) -> AsyncIterator[bytes | SnapshotTrailer]:
        """The bytes of one file, then its name by content. Raises InvalidArgument, NotFound."""
        pen = self._pen(collection)
        with self._shelves.folders.scratch() as scratch:
            copied = await self._crew.tending.run(copying.copy_store, pen.shelf.store, scratch)
            digest = hashlib.sha256()
            with (scratch / STORE_FILE).open("rb") as file:
                while part := await asyncio.to_thread(file.read, SNAPSHOT_PART_BYTES):
                    digest.update(part)
                    yield part
            yield SnapshotTrailer(digest.hexdigest(), copied)

    async def restore(
        self, collection: CollectionId, replace: bool, parts: AsyncIterator[bytes | str]
    ) -> CollectionInfo:
        """`parts` are the bytes of a file, then its SHA-256. Raises InvalidArgument, AlreadyExists."""
        limits.check_name(collection)
        if self._shelves.has(collection) and not replace:
            raise AlreadyExists(
                f"there is a collection {str(collection)!r} already; say replace, or restore under another name",
                code="collection_exists",
                param="collection",
            )
        with self._crew.changes.place(), self._shelves.folders.scratch() as scratch:
            await _receive_file(parts, scratch / STORE_FILE)
            quota = self._library.quota(collection)
            await self._crew.tending.run(copying.accept_snapshot, collection, scratch, quota)
            restored = await self._crew.writing.run(self._put_in_place, scratch, collection)
        log.info("restored collection %s: %d documents", collection, restored.documents)
        return restored

    async def reembed(self, collection: CollectionId) -> AsyncIterator[MigrationProgress]:
        """Raises InvalidArgument, NotFound, FailedPrecondition."""
        pen = self._pen(collection)
        if collection in self._migrating:
            raise FailedPrecondition(
                f"collection {str(collection)!r} is being migrated already; wait for that",
                code="migration_running",
                param="collection",
            )
        self._migrating.add(collection)
        try:
            if pen.shelf.collection.fingerprint != self._encoder.fingerprint:
                async for progress in self._migrate(pen):
                    yield progress
            total = pen.shelf.collection.documents
            yield MigrationProgress(total, total, pen.shelf.collection)
        finally:
            self._migrating.discard(collection)

    async def _migrate(self, pen: GroupCommitWriter) -> AsyncIterator[MigrationProgress]:
        store, encoder = pen.shelf.store, self._encoder
        await self._crew.writing.run(reembedding.begin_migration, store, encoder.fingerprint, encoder.dimensions)
        while not await self._finished(pen):
            waiting = await self._crew.tending.run(reembedding.find_pending, store, DOCUMENTS_PER_MIGRATION_STEP)
            made: Sequence[EncodedDocument] = await encoder.encode_again(
                [(one.document, one.recipe) for one in waiting]
            )
            await self._crew.writing.run(reembedding.store_migrated, store, list(zip(waiting, made, strict=True)))
            total = pen.shelf.collection.documents
            yield MigrationProgress(total - await self._crew.tending.run(reembedding.count_pending, store), total)
        log.info("collection %s is of embedding model %s now", pen.shelf.collection.id, encoder.fingerprint)

    async def _finished(self, pen: GroupCommitWriter) -> bool:
        return await self._crew.writing.run(pen.shelf.migrate, reembedding.swap_if_complete)

    def _put_in_place(self, scratch: Path, collection: CollectionId) -> CollectionInfo:
        if self._shelves.has(collection):
            return self._shelves.exchange(scratch, collection)
        return self._shelves.place(scratch, collection)

    def _pen(self, collection: CollectionId) -> GroupCommitWriter:
        limits.check_name(collection)
        return self._shelves.pen(collection)


async def _receive_file(parts: AsyncIterator[bytes | str], file: Path) -> None:
    digest = hashlib.sha256()
    with file.open("wb") as target:
        async for part in parts:
            if isinstance(part, str):
                if part != digest.hexdigest():
                    raise _incomplete_snapshot(f"its SHA-256 is {digest.hexdigest()}, and should be {part}")
                return
            digest.update(part)
            await asyncio.to_thread(target.write, part)
    raise _incomplete_snapshot("it ends before its SHA-256 was sent")


def _incomplete_snapshot(reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"the snapshot did not arrive whole: {reason}; nothing was changed", code="snapshot_damaged", param="data"
    )
