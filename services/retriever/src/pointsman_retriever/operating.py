"""What an operator does to a collection while it serves: verify, snapshot, restore, migrate."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_servicekit.document_sketches import Sketch
from pointsman_servicekit.errors import AlreadyExists, FailedPrecondition, InvalidArgument

from pointsman_retriever import limits
from pointsman_retriever.domain import Collection, CollectionId, MadeDocument
from pointsman_retriever.encoding import Encoder
from pointsman_retriever.library import Library
from pointsman_retriever.shelves import Shelves
from pointsman_retriever.store import copying, reembedding
from pointsman_retriever.store.folders import FILE
from pointsman_retriever.workers import Crew
from pointsman_retriever.writing import Pen

log = logging.getLogger(__name__)

PART_BYTES = 1024 * 1024
DOCUMENTS_TOGETHER = 16  # of a migration: between two such groups it can be interrupted


@dataclass(frozen=True, slots=True)
class Verified:
    problems: tuple[str, ...]
    collection: Collection
    seconds: float
    repaired: bool


@dataclass(frozen=True, slots=True)
class Copied:
    """The last word of a snapshot."""

    sha256: str
    collection: Collection


@dataclass(frozen=True, slots=True)
class Progress:
    documents: int
    total: int
    collection: Collection | None = None  # at the end


class Operations:
    def __init__(self, shelves: Shelves, library: Library, encoder: Encoder, crew: Crew) -> None:
        self._shelves = shelves
        self._library = library
        self._encoder = encoder
        self._crew = crew
        self._migrating: set[CollectionId] = set()

    async def verify(self, collection: CollectionId, repair: bool) -> Verified:
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
        return Verified(findings.problems, findings.collection, time.perf_counter() - begun, repaired)

    async def sketch(self, collection: CollectionId) -> tuple[int, Sketch]:
        """Its version, and what documents there are. Raises InvalidArgument, NotFound."""
        return await self._crew.tending.run(self._pen(collection).shelf.store.sketch)

    async def snapshot(self, collection: CollectionId) -> AsyncIterator[bytes | Copied]:
        """The bytes of one file, then its name by content. Raises InvalidArgument, NotFound."""
        pen = self._pen(collection)
        with self._shelves.folders.scratch() as scratch:
            copied = await self._crew.tending.run(copying.copy, pen.shelf.store, scratch)
            digest = hashlib.sha256()
            with (scratch / FILE).open("rb") as file:
                while part := await asyncio.to_thread(file.read, PART_BYTES):
                    digest.update(part)
                    yield part
            yield Copied(digest.hexdigest(), copied)

    async def restore(self, collection: CollectionId, replace: bool, parts: AsyncIterator[bytes | str]) -> Collection:
        """`parts` are the bytes of a file, then its SHA-256. Raises InvalidArgument, AlreadyExists."""
        limits.check_name(collection)
        if self._shelves.has(collection) and not replace:
            raise AlreadyExists(
                f"there is a collection {str(collection)!r} already; say replace, or restore under another name",
                code="collection_exists",
                param="collection",
            )
        with self._crew.changes.place(), self._shelves.folders.scratch() as scratch:
            await _receive(parts, scratch / FILE)
            quota = self._library.quota(collection)
            await self._crew.tending.run(copying.accept, collection, scratch, quota)
            restored = await self._crew.writing.run(self._put_in_place, scratch, collection)
        log.info("restored collection %s: %d documents", collection, restored.documents)
        return restored

    async def reembed(self, collection: CollectionId) -> AsyncIterator[Progress]:
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
            yield Progress(total, total, pen.shelf.collection)
        finally:
            self._migrating.discard(collection)

    async def _migrate(self, pen: Pen) -> AsyncIterator[Progress]:
        store, encoder = pen.shelf.store, self._encoder
        await self._crew.writing.run(reembedding.begin, store, encoder.fingerprint, encoder.dimensions)
        while not await self._finished(pen):
            waiting = await self._crew.tending.run(reembedding.waiting, store, DOCUMENTS_TOGETHER)
            made: Sequence[MadeDocument] = await encoder.encode_again([(one.document, one.recipe) for one in waiting])
            await self._crew.writing.run(reembedding.put, store, list(zip(waiting, made, strict=True)))
            total = pen.shelf.collection.documents
            yield Progress(total - await self._crew.tending.run(reembedding.count_waiting, store), total)
        log.info("collection %s is of embedding model %s now", pen.shelf.collection.id, encoder.fingerprint)

    async def _finished(self, pen: Pen) -> bool:
        return await self._crew.writing.run(pen.shelf.migrate, reembedding.swap_if_complete)

    def _put_in_place(self, scratch: Path, collection: CollectionId) -> Collection:
        if self._shelves.has(collection):
            return self._shelves.exchange(scratch, collection)
        return self._shelves.place(scratch, collection)

    def _pen(self, collection: CollectionId) -> Pen:
        limits.check_name(collection)
        return self._shelves.pen(collection)


async def _receive(parts: AsyncIterator[bytes | str], file: Path) -> None:
    digest = hashlib.sha256()
    with file.open("wb") as target:
        async for part in parts:
            if isinstance(part, str):
                if part != digest.hexdigest():
                    raise _torn(f"its SHA-256 is {digest.hexdigest()}, and should be {part}")
                return
            digest.update(part)
            await asyncio.to_thread(target.write, part)
    raise _torn("it ends before its SHA-256 was sent")


def _torn(reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"the snapshot did not arrive whole: {reason}; nothing was changed", code="snapshot_damaged", param="data"
    )
