"""The library: all collections, and what can be asked of them."""

import logging
from collections.abc import Sequence, Set
from functools import partial

from pointsman_servicekit.errors import AlreadyExists, PointsmanError

from pointsman_retriever import limits
from pointsman_retriever.allowance import TenantLimits
from pointsman_retriever.domain import (
    CollectionId,
    CollectionInfo,
    DeleteResult,
    Document,
    EncodedDocument,
    Quota,
    UpsertResult,
)
from pointsman_retriever.encoding import DocumentEncoder
from pointsman_retriever.facts import CollectionDropped, DocumentsUpserted, Observer
from pointsman_retriever.shelf import Collection, StepResult
from pointsman_retriever.shelves import CollectionRegistry, CollectionStatus
from pointsman_retriever.store.change import Change
from pointsman_retriever.tending import Compactor
from pointsman_retriever.workers import ThreadPools
from pointsman_retriever.writing import GroupCommitWriter

log = logging.getLogger(__name__)


class CollectionService:
    def __init__(
        self,
        shelves: CollectionRegistry,
        encoder: DocumentEncoder,
        observer: Observer,
        crew: ThreadPools,
        tender: Compactor,
        allowance: TenantLimits,
    ) -> None:
        self._shelves = shelves
        self._encoder = encoder
        self._observer = observer
        self._crew = crew
        self._tender = tender
        self._allowance = allowance

    def collections(self, tenant: str) -> list[CollectionStatus]:
        """Raises InvalidArgument."""
        limits.check_name(CollectionId(tenant, "any"))
        return [shown for shown in self._shelves.shown() if shown.collection.tenant == tenant]

    async def create(self, collection: CollectionId, if_missing: bool, quota: Quota | None) -> CollectionInfo:
        """Raises InvalidArgument, AlreadyExists, ResourceExhausted."""
        limits.check_name(collection)
        with self._crew.changes.place():
            return await self._crew.writing.run(self._create, collection, if_missing, quota)

    async def configure(self, collection: CollectionId, quota: Quota) -> CollectionInfo:
        """Raises InvalidArgument, NotFound."""
        shelf = self._pen(collection).shelf
        with self._crew.changes.place():
            return await self._crew.writing.run(shelf.configure, quota)

    async def drop(self, collection: CollectionId) -> None:
        """Raises InvalidArgument, NotFound."""
        limits.check_name(collection)
        with self._crew.changes.place():
            await self._crew.writing.run(self._drop, collection)

    async def upsert(self, collection: CollectionId, documents: Sequence[Document]) -> UpsertResult:
        """Raises InvalidArgument, NotFound, FailedPrecondition, ResourceExhausted."""
        self._pen(collection)
        with self._crew.changes.place():
            return await self.write(collection, documents, source="")

    async def write(self, collection: CollectionId, documents: Sequence[Document], source: str) -> UpsertResult:
        """Adds or replaces, all or none, what is not there just so; `source` is what they are in step with, or ''."""
        pen = self._pen(collection)
        self._encoder.check_made_here(pen.shelf.collection)
        checked = await self._crew.ingesting.run(self._checked, documents)
        if not checked:
            return UpsertResult(0, 0, pen.shelf.collection.version)
        changed = await self._changed(pen.shelf, checked, source)
        chunks, unchanged, version = 0, len(checked) - len(changed), pen.shelf.collection.version
        if changed:
            made = await self._encoder.encode(changed, source, pen.shelf.store.known_vectors)
            (chunks, just_so), after = await pen.write(lambda change: self._put(change, made))
            unchanged, version = unchanged + just_so, after.version
            self._tender.look_after(pen)
        self._observer.note(DocumentsUpserted(str(collection), len(checked), unchanged, chunks))
        return UpsertResult(len(checked), chunks, version, unchanged)

    async def write_each(
        self, collection: CollectionId, documents: Sequence[Document], source: str
    ) -> list[UpsertResult | PointsmanError]:
        """The same for several documents with different ids, each written or refused by itself.

        Raises what refuses them all: NotFound, FailedPrecondition, and what the disk says.
        """
        pen = self._pen(collection)
        self._encoder.check_made_here(pen.shelf.collection)
        checked = await self._crew.ingesting.run(self._checked_each, documents)
        good = [document for document in checked if isinstance(document, Document)]
        changed = await self._changed(pen.shelf, good, source)
        made = await self._encoder.encode(changed, source, pen.shelf.store.known_vectors)
        done = await pen.write_each([partial(self._put, made=[one]) for one in made]) if made else []
        written = {one.id: _to_result(each) for one, each in zip(changed, done, strict=True)}
        if made:
            self._tender.look_after(pen)
        just_so = UpsertResult(1, 0, pen.shelf.collection.version, 1)
        results = [one if isinstance(one, PointsmanError) else written.get(one.id, just_so) for one in checked]
        self._note_each(collection, [one for one in results if isinstance(one, UpsertResult)])
        return results

    async def delete(self, collection: CollectionId, document_ids: Sequence[str]) -> DeleteResult:
        """Raises InvalidArgument, NotFound. Those that are not there are passed over."""
        pen = self._pen(collection)
        limits.check_ids(document_ids)
        with self._crew.changes.place():
            return await self._remove(pen, document_ids)

    async def remove_others(self, collection: CollectionId, source: str, seen: Set[str]) -> int:
        """Deletes the source's documents but those that were seen; returns how many."""
        pen = self._pen(collection)
        held = await self._crew.ingesting.run(pen.shelf.store.ids_of, source)
        gone = [document_id for document_id in held if document_id not in seen]
        removed = 0
        for start in range(0, len(gone), limits.MAX_DOCUMENTS):
            removed += (await self._remove(pen, gone[start : start + limits.MAX_DOCUMENTS])).documents
        return removed

    def quota(self, collection: CollectionId) -> Quota:
        """The collection's, or what it would have if it were made now."""
        shown = {shown.collection.id: shown.collection for shown in self._shelves.shown()}
        return shown[collection].quota if collection in shown else self._allowance.quota

    def version(self, collection: CollectionId) -> int:
        return self._pen(collection).shelf.collection.version

    def _pen(self, collection: CollectionId) -> GroupCommitWriter:
        limits.check_name(collection)
        return self._shelves.pen(collection)

    async def _remove(self, pen: GroupCommitWriter, document_ids: Sequence[str]) -> DeleteResult:
        deleted, after = await pen.write(lambda change: sum(change.remove(one) for one in document_ids))
        self._tender.look_after(pen)
        return DeleteResult(deleted, after.version)

    async def _changed(self, shelf: Collection, documents: Sequence[Document], source: str) -> Sequence[Document]:
        """Those that may have to be embedded; one that has its vector is only compared when it is written."""
        costly = [document for document in documents if document.vector is None]
        if not costly:
            return documents
        recipes = [self._encoder.recipe(document) for document in costly]
        unchanged = await self._crew.ingesting.run(shelf.store.unchanged, costly, recipes, source)
        return [document for document in documents if document.id not in unchanged]

    def _checked(self, documents: Sequence[Document]) -> list[Document]:
        """Raises InvalidArgument, FailedPrecondition."""
        limits.check_documents(documents)
        return [self._encoder.with_unit_vector(document) for document in documents]

    def _checked_each(self, documents: Sequence[Document]) -> list[Document | PointsmanError]:
        checked: list[Document | PointsmanError] = []
        for document in documents:
            try:
                checked += self._checked([document])
            except PointsmanError as error:
                checked.append(error)
        return checked

    def _note_each(self, collection: CollectionId, written: Sequence[UpsertResult]) -> None:
        unchanged, chunks = sum(one.unchanged for one in written), sum(one.chunks for one in written)
        self._observer.note(DocumentsUpserted(str(collection), len(written), unchanged, chunks, calls=len(written)))

    def _put(self, change: Change, made: Sequence[EncodedDocument]) -> tuple[int, int]:
        """How many chunks are new, and how many documents were there just so."""
        self._encoder.check_made_here(change.before)  # it may have been restored meanwhile
        chunks = sum(change.put(document) for document in made)
        return chunks, change.unchanged

    def _create(self, collection: CollectionId, if_missing: bool, quota: Quota | None) -> CollectionInfo:
        if self._shelves.has(collection):
            there = self._shelves.pen(collection).shelf.collection
            if if_missing:
                return there
            raise AlreadyExists(
                f"there is a collection {str(collection)!r} already; say if_missing, or take another name",
                code="collection_exists",
                param="name",
            )
        self._allowance.check_one_more(collection.tenant, self._shelves.count_of(collection.tenant))
        made = self._shelves.create(
            CollectionInfo(
                collection.name,
                self._encoder.fingerprint,
                self._encoder.dimensions,
                tenant=collection.tenant,
                quota=self._allowance.quota if quota is None else quota,
            )
        )
        log.info("created collection %s", collection)
        return made

    def _drop(self, collection: CollectionId) -> None:
        self._shelves.remove(collection)
        self._observer.note(CollectionDropped(str(collection)))
        log.info("deleted collection %s", collection)


def _to_result(done: StepResult[tuple[int, int]]) -> UpsertResult | PointsmanError:
    """Of one document."""
    if isinstance(done.result, PointsmanError):
        return done.result
    chunks, unchanged = done.result
    return UpsertResult(1, chunks, done.collection.version, unchanged)
