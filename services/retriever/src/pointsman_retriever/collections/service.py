"""Creates, changes and deletes collections and their documents."""

import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import nullcontext, suppress
from functools import partial
from typing import TypeVar

from pointsman_servicekit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, PointsmanError, Unavailable

from pointsman_retriever import limits
from pointsman_retriever.collections.collection import Collection, StepResult
from pointsman_retriever.collections.registry import CollectionRegistry, CollectionStatus
from pointsman_retriever.collections.shared import SharedCollection
from pointsman_retriever.collections.writer import AnyChange, Compactor, GroupCommitWriter
from pointsman_retriever.concurrency import ThreadPool, ThreadPools
from pointsman_retriever.domain import (
    LOCAL,
    SHARED,
    CollectionId,
    CollectionInfo,
    DeleteResult,
    Document,
    EncodedDocument,
    Quota,
    UpsertResult,
)
from pointsman_retriever.encoder import DocumentEncoder, require
from pointsman_retriever.events import CollectionDropped, DocumentsUpserted, Observer
from pointsman_retriever.limits import TenantLimits

log = logging.getLogger(__name__)

OTHER_MODEL = "fingerprint_mismatch"
GONE = ("unknown_collection", "collection_closed")
"""Error codes which mean that a collection was moved, deleted or replaced during a call; the call is then repeated."""

T = TypeVar("T")


class CollectionService:
    """Creates, changes and deletes collections and their documents.

    Methods raise InvalidArgument for a tenant or a name that is not valid. Methods that need an existing collection
    raise NotFound if there is none, FailedPrecondition ("read_only_collection") if it is in an external store, and, if
    it is damaged, the error with which it failed to load. Methods that change something raise storage errors
    (`translate_errors`), and, except `upsert_each` and `delete_missing`, ResourceExhausted ("overloaded") if too many
    changes are in progress.
    """

    def __init__(
        self,
        registry: CollectionRegistry,
        encoder: DocumentEncoder,
        observer: Observer,
        pools: ThreadPools,
        compactor: Compactor,
        tenant_limits: TenantLimits,
    ) -> None:
        self._registry = registry
        self._encoder = encoder
        self._observer = observer
        self._pools = pools
        self._compactor = compactor
        self._tenant_limits = tenant_limits
        self._creating = threading.Lock()

    async def list_collections(self, tenant: str | None) -> Sequence[CollectionStatus]:
        """Returns the states of a tenant's collections, or of all tenants' if `tenant` is None, in the order of ids.

        If the shared store fails, its collections are returned with the states last read from it and with the text of
        the problem.
        """
        if tenant is not None:
            limits.check_name(CollectionId(tenant, "any"))
        if self._registry.shared is not None:
            with suppress(PointsmanError):
                await self._pools.shared.run(self._registry.shared.refresh)
        if tenant is None:
            return self._registry.statuses()
        return [status for status in self._registry.statuses() if status.info.tenant == tenant]

    async def create(
        self, collection_id: CollectionId, if_missing: bool, quota: Quota | None, store: str = ""
    ) -> CollectionInfo:
        """Creates a collection and returns its state; with `if_missing`, returns the state of an existing one instead.

        `store` is LOCAL, SHARED, or empty; empty chooses the shared store if there is one. If `quota` is None, the new
        collection gets the default quota. Raises InvalidArgument ("unknown_store") for another `store`,
        FailedPrecondition ("no_shared_store") for SHARED if no shared store is configured, AlreadyExists
        ("collection_exists") if the collection exists and `if_missing` is False, and ResourceExhausted
        ("quota_exceeded") if the tenant has the maximum number of collections. If the existing collection is damaged or
        in an external store, raises its error (see the class) even with `if_missing`.
        """
        limits.check_name(collection_id)
        if quota is not None:
            limits.check_quota(quota)
        store = self.store_named(store)
        # A new collection of the data folder does not need the shared store.
        with suppress(Unavailable) if store == LOCAL else nullcontext():
            await self._registry.refresh(collection_id)
        with self._pools.changes.slot():
            if store == SHARED:
                return await self._pools.shared.run(self._create_shared, collection_id, if_missing, quota)
            return await self._pools.write.run(self._create, collection_id, if_missing, quota, store)

    def store_named(self, store: str) -> str:
        """Returns LOCAL or SHARED for the name of a store that a caller gives.

        For an empty name, returns SHARED if a shared store is configured, and LOCAL if none is. Raises InvalidArgument
        ("unknown_store") for another name, and FailedPrecondition ("no_shared_store") for SHARED if no shared store is
        configured.
        """
        has_shared = self._registry.shared is not None
        if store not in ("", LOCAL, SHARED):
            raise InvalidArgument(
                f"store is {store[:80]!r}; it is {LOCAL!r} (in the retriever's data folder), {SHARED!r} (in the store "
                "that several retrievers share), or empty",
                code="unknown_store",
                param="store",
            )
        if store == SHARED and not has_shared:
            raise FailedPrecondition(
                "this retriever has no shared store; set POINTSMAN_RETRIEVER_SHARED_STORE and _URL",
                code="no_shared_store",
                param="store",
            )
        return store or (SHARED if has_shared else LOCAL)

    async def set_quota(self, collection_id: CollectionId, quota: Quota) -> CollectionInfo:
        """Sets a collection's quota, and returns its state; a collection that is above its quota cannot grow."""
        limits.check_quota(quota)
        writer = await self._writer(collection_id)
        with self._pools.changes.slot():
            return await writer.run(writer.collection.set_quota, quota)

    async def drop(self, collection_id: CollectionId) -> None:
        """Deletes a collection, which may be damaged, with its documents."""
        limits.check_name(collection_id)
        await self._registry.prepare(collection_id)
        with self._pools.changes.slot():
            await self._registry.pool(collection_id).run(self._drop, collection_id)

    async def upsert(self, collection_id: CollectionId, documents: Sequence[Document]) -> UpsertResult:
        """Adds or replaces all documents, or none if it raises; documents that are stored unchanged are not written.

        The documents' ingest source, which names where a stream of documents comes from, is cleared. Raises
        InvalidArgument if a document exceeds the limits (`check_documents`), has an invalid vector or cannot be
        chunked, FailedPrecondition ("fingerprint_mismatch") if another embedding model made the vectors of the
        collection or of a document, ResourceExhausted ("quota_exceeded"), and Unavailable if the model's endpoint
        fails.
        """
        with self._pools.changes.slot():
            return await self._with_writer(collection_id, lambda writer: self._upsert(writer, documents))

    async def upsert_each(
        self, collection_id: CollectionId, documents: Sequence[Document], source: str
    ) -> Sequence[UpsertResult | PointsmanError]:
        """Adds or replaces documents, whose ids must differ. Returns a result or an error for each document, in order.

        An error of one document does not affect the others. `source` names the place from which the documents come, and
        is stored with them; it may be empty. Raises FailedPrecondition ("fingerprint_mismatch") if another embedding
        model made the collection's vectors, and Unavailable if the model's endpoint fails.
        """
        return await self._with_writer(collection_id, lambda writer: self._upsert_each(writer, documents, source))

    async def _upsert_each(
        self, writer: GroupCommitWriter, documents: Sequence[Document], source: str
    ) -> Sequence[UpsertResult | PointsmanError]:
        collection = writer.collection
        self._encoder.check_model(collection.info)
        checked = await self._pools.ingest.run(self._validate_each, documents)
        valid = [document for document in checked if isinstance(document, Document)]
        changed = await self._select_changed(collection, valid, source)
        outcomes = await self._encode_and_write(writer, changed, source)
        unchanged = UpsertResult(1, 0, collection.info.version, 1)
        results = [one if isinstance(one, PointsmanError) else outcomes.get(one.id, unchanged) for one in checked]
        self._report(collection.info.id, [one for one in results if isinstance(one, UpsertResult)])
        return results

    async def delete(self, collection_id: CollectionId, document_ids: Sequence[str]) -> DeleteResult:
        """Deletes the documents with these ids; ignores ids that do not exist.

        Raises InvalidArgument if an id is empty or has more than `limits.MAX_ID_BYTES`.
        """
        await self._writer(collection_id)
        limits.check_ids(document_ids)
        with self._pools.changes.slot():
            return await self._with_writer(collection_id, lambda writer: self._delete(writer, document_ids))

    async def delete_missing(self, collection_id: CollectionId, source: str, seen: Set[str]) -> int:
        """Deletes the documents of an ingest source whose ids are not in `seen`; returns how many were deleted.

        A document belongs to the `source` with which it was last ingested. The documents are deleted in several commits
        of up to `limits.MAX_DOCUMENTS`, so some may be deleted even if this raises.
        """
        writer = await self._writer(collection_id)
        stored = await self._reads(writer.collection).run(writer.collection.store.ids_of_source, source)
        missing = [document_id for document_id in stored if document_id not in seen]
        deleted = 0
        for start in range(0, len(missing), limits.MAX_DOCUMENTS):
            part = missing[start : start + limits.MAX_DOCUMENTS]
            deleted += (await self._with_writer(collection_id, partial(self._delete, document_ids=part))).documents
        return deleted

    def quota(self, collection_id: CollectionId) -> Quota:
        """Returns a collection's quota. If the collection does not exist or its quota cannot be read, returns the
        default quota for new collections.

        Unlike the other methods, this method raises no errors.
        """
        quota = self._registry.quota(collection_id)
        return self._tenant_limits.quota if quota is None else quota

    async def version(self, collection_id: CollectionId) -> int:
        return (await self._writer(collection_id)).collection.info.version

    async def _with_writer(self, collection_id: CollectionId, work: Callable[[GroupCommitWriter], Awaitable[T]]) -> T:
        """Calls `work` with the collection's writer; calls it again with the new writer if the collection was moved
        meanwhile.

        So `work` must be idempotent.
        """
        writer = await self._writer(collection_id)
        try:
            return await work(writer)
        except PointsmanError as error:
            if error.code not in (*GONE, OTHER_MODEL):
                raise
            await self._registry.refresh(collection_id)
            moved = await self._writer(collection_id)
            if error.code == OTHER_MODEL and moved.collection.info.fingerprint == self._encoder.fingerprint:
                return await work(moved)  # another retriever has made the collection anew
            if moved.collection.info.store == writer.collection.info.store:  # deleted or replaced
                raise
        return await work(moved)

    async def _writer(self, collection_id: CollectionId) -> GroupCommitWriter:
        limits.check_name(collection_id)
        await self._registry.prepare(collection_id)
        return self._registry.writer(collection_id)

    async def _upsert(self, writer: GroupCommitWriter, documents: Sequence[Document]) -> UpsertResult:
        collection = writer.collection
        self._encoder.check_model(collection.info)
        valid = await self._pools.ingest.run(self._validate, documents)
        if not valid:
            return UpsertResult(0, 0, collection.info.version)
        changed = await self._select_changed(collection, valid, source="")
        chunks, unchanged, version = 0, len(valid) - len(changed), collection.info.version
        if changed:
            encoded = await self._encoder.encode(changed, "", collection.store.known_vectors, self._reads(collection))
            valid_documents = [require(one) for one in encoded]
            (chunks, same), after = await writer.write(
                lambda change: self._put(change, valid_documents), valid_documents
            )
            unchanged, version = unchanged + same, after.version
            self._compactor.compact_if_needed(writer)
        self._observer.record(DocumentsUpserted(str(collection.info.id), len(valid), unchanged, chunks))
        return UpsertResult(len(valid), chunks, version, unchanged)

    async def _encode_and_write(
        self, writer: GroupCommitWriter, documents: Sequence[Document], source: str
    ) -> Mapping[str, UpsertResult | PointsmanError]:
        """Encodes and writes documents; returns the result or the error of each by its id."""
        collection = writer.collection
        encoded = await self._encoder.encode(documents, source, collection.store.known_vectors, self._reads(collection))
        valid = [one for one in encoded if isinstance(one, EncodedDocument)]
        steps = [partial(self._put, documents=[one]) for one in valid]
        done = iter(await writer.write_each(steps, valid) if valid else [])
        outcomes = {
            document.id: one if isinstance(one, PointsmanError) else _to_result(next(done))
            for document, one in zip(documents, encoded, strict=True)
        }
        if valid:
            self._compactor.compact_if_needed(writer)
        return outcomes

    async def _delete(self, writer: GroupCommitWriter, document_ids: Sequence[str]) -> DeleteResult:
        deleted, after = await writer.write(lambda change: sum(change.remove(one) for one in document_ids))
        self._compactor.compact_if_needed(writer)
        return DeleteResult(deleted, after.version)

    async def _select_changed(
        self, collection: Collection | SharedCollection, documents: Sequence[Document], source: str
    ) -> Sequence[Document]:
        """Returns the documents without those that are stored unchanged, which need not be embedded.

        Documents with their own vector are all kept: they are not embedded, and `Change.put` compares them anyway.
        """
        to_embed = [document for document in documents if document.vector is None]
        if not to_embed:
            return documents
        recipes = [self._encoder.recipe(document) for document in to_embed]
        unchanged = await self._reads(collection).run(collection.store.find_unchanged, to_embed, recipes, source)
        return [document for document in documents if document.id not in unchanged]

    def _reads(self, collection: Collection | SharedCollection) -> ThreadPool:
        """Returns the pool for reading a collection's documents: a shared store that hangs keeps no thread that others
        need.
        """
        return self._pools.shared_reads if isinstance(collection, SharedCollection) else self._pools.ingest

    def _validate(self, documents: Sequence[Document]) -> Sequence[Document]:
        """Returns the documents with their own vectors scaled to length 1.

        Raises InvalidArgument as `check_documents` does, and as `DocumentEncoder.with_unit_vector` does.
        """
        limits.check_documents(documents)
        return [self._encoder.with_unit_vector(document) for document in documents]

    def _validate_each(self, documents: Sequence[Document]) -> Sequence[Document | PointsmanError]:
        checked: list[Document | PointsmanError] = []
        for document in documents:
            try:
                checked += self._validate([document])
            except PointsmanError as error:
                checked.append(error)
        return checked

    def _report(self, collection_id: CollectionId, written: Sequence[UpsertResult]) -> None:
        unchanged, chunks = sum(one.unchanged for one in written), sum(one.chunks for one in written)
        self._observer.record(
            DocumentsUpserted(str(collection_id), len(written), unchanged, chunks, calls=len(written))
        )

    def _put(self, change: AnyChange, documents: Sequence[EncodedDocument]) -> tuple[int, int]:
        """Writes documents; returns the number of new chunks and the number of documents that were stored unchanged."""
        self._encoder.check_model(change.before)  # the collection may have been restored meanwhile
        chunks = sum(change.put(document) for document in documents)
        return chunks, change.unchanged

    def _create_shared(self, collection_id: CollectionId, if_missing: bool, quota: Quota | None) -> CollectionInfo:
        with self._creating:  # several threads change shared collections, and each counts the tenant's collections
            return self._create(collection_id, if_missing, quota, SHARED)

    def _create(self, collection_id: CollectionId, if_missing: bool, quota: Quota | None, store: str) -> CollectionInfo:
        if self._registry.has(collection_id):
            existing = self._registry.collection(collection_id).info
            if if_missing:
                return existing
            raise AlreadyExists(
                f"there already is a collection {str(collection_id)!r}; set if_missing, or use another name",
                code="collection_exists",
                param="name",
            )
        self._tenant_limits.check_one_more(collection_id.tenant, self._registry.count(collection_id.tenant))
        created = self._registry.create(
            CollectionInfo(
                collection_id.name,
                self._encoder.fingerprint,
                self._encoder.dimensions,
                tenant=collection_id.tenant,
                quota=self._tenant_limits.quota if quota is None else quota,
                store=store,
            )
        )
        log.info("created collection %s (%s)", collection_id, store)
        return created

    def _drop(self, collection_id: CollectionId) -> None:
        self._registry.remove(collection_id)
        self._observer.record(CollectionDropped(str(collection_id)))
        log.info("deleted collection %s", collection_id)


def _to_result(step: StepResult[tuple[int, int]]) -> UpsertResult | PointsmanError:
    """Converts the result of a step that wrote one document with `CollectionService._put`."""
    if isinstance(step.result, PointsmanError):
        return step.result
    chunks, unchanged = step.result
    return UpsertResult(1, chunks, step.info.version, unchanged)
