"""Moves collections between this retriever's data folder and the shared store, while they are in use."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from pointsman_servicekit.errors import AlreadyExists, FailedPrecondition, Unavailable

from pointsman_retriever import limits
from pointsman_retriever.collections.collection import Collection
from pointsman_retriever.collections.copying import (
    DocumentSource,
    DocumentTarget,
    LocalDocuments,
    LockedDocuments,
    SharedStoreDocuments,
    copy_differences,
)
from pointsman_retriever.collections.registry import CollectionRegistry
from pointsman_retriever.collections.service import CollectionService
from pointsman_retriever.collections.shared import SharedCollection, SharedCollections
from pointsman_retriever.concurrency import ThreadPools
from pointsman_retriever.domain import LOCAL, SHARED, UNLIMITED, CollectionId, CollectionInfo
from pointsman_retriever.store.store import Store, create_store

log = logging.getLogger(__name__)

MAX_PASSES = 5  # over all documents, before changes have to wait for the last one
FEW_DIFFERENCES = 200  # documents; a pass that finds no more is followed by the last one
PROGRESS_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class MoveProgress:
    documents: int  # copied by this call
    total: int
    info: CollectionInfo | None = None  # in the last message


class _Copied:
    """Counts copied documents; makes the copy raise Unavailable ("move_cancelled") after the client has gone."""

    def __init__(self) -> None:
        self.documents = 0
        self.is_cancelled = False

    def __call__(self, documents: int) -> None:
        self.documents += documents
        if self.is_cancelled:
            raise Unavailable("the move was cancelled", code="move_cancelled")


class Mover:
    """Moves collections between this retriever's data folder and the shared store while they are in use.

    A move copies the documents in passes, each of which copies what has changed since the one before. When a pass finds
    few differences, changes of the collection wait while the last pass runs.
    """

    def __init__(self, registry: CollectionRegistry, service: CollectionService, pools: ThreadPools) -> None:
        self._registry = registry
        self._service = service
        self._pools = pools
        self._moving: set[CollectionId] = set()

    async def move(self, collection_id: CollectionId, store: str) -> AsyncIterator[MoveProgress]:
        """Moves a collection to `store`, LOCAL or SHARED; yields the progress, and at the end the collection's state.

        An interrupted move to the shared store is resumed: documents that were already copied are not copied again.
        Raises InvalidArgument for a name or a store that is not valid, NotFound if there is no collection,
        FailedPrecondition if the collection is in an external store, if there is no shared store ("no_shared_store") or
        if a move of the collection is running ("move_running"), AlreadyExists ("collection_exists") if the other store
        has a collection with this id, and storage errors.
        """
        limits.check_name(collection_id)
        to = self._service.store_named(store)
        await self._registry.prepare(collection_id)
        collection = self._registry.collection(collection_id)
        if collection_id in self._moving:
            raise FailedPrecondition(
                f"collection {str(collection_id)!r} is already being moved; wait until that is done",
                code="move_running",
                param="collection",
            )
        self._moving.add(collection_id)
        copied = _Copied()
        work = asyncio.create_task(self._move(collection, to, copied))
        try:
            while not (await asyncio.wait([work], timeout=PROGRESS_SECONDS))[0]:
                yield MoveProgress(copied.documents, collection.info.documents)
            info = work.result()
            yield MoveProgress(copied.documents, info.documents, info)
        finally:
            copied.is_cancelled = True
            await asyncio.gather(work, return_exceptions=True)
            self._moving.discard(collection_id)

    async def _move(self, collection: Collection | SharedCollection, to: str, copied: _Copied) -> CollectionInfo:
        shared = self._registry.shared
        if collection.info.store == to or shared is None:
            return collection.info
        if isinstance(collection, Collection):
            await self._to_shared(collection, shared, copied)
        else:
            await self._to_local(collection, shared, copied)
        moved = self._registry.collection(collection.info.id).info
        log.info("moved collection %s to the %s store: %d documents", moved.id, to, moved.documents)
        return moved

    async def _to_shared(self, collection: Collection, shared: SharedCollections, copied: _Copied) -> None:
        info = collection.info
        # Other retrievers do not see this name, and none makes an equal one.
        unfinished = CollectionId(info.tenant, f"{info.name}.{self._registry.data_folder.id()}")
        await self._pools.shared.run(_begin, shared, unfinished, info)
        source = LocalDocuments(collection.store)
        await self._copy(source, SharedStoreDocuments(shared.open(), unfinished), copied)
        await self._pools.write.run(self._finish_in_shared, collection, shared, unfinished, copied)

    async def _to_local(self, collection: SharedCollection, shared: SharedCollections, copied: _Copied) -> None:
        info, store = collection.info, shared.open()
        with self._registry.data_folder.scratch() as scratch:
            create_store(scratch, replace(info, quota=UNLIMITED))
            with closing(Store(info.id, scratch, readers=1)) as file:
                await self._copy(SharedStoreDocuments(store, info.id), LocalDocuments(file), copied)
            await self._pools.write.run(self._finish_locally, shared, info.id, scratch, copied)

    async def _copy(self, source: DocumentSource, target: DocumentTarget, copied: _Copied) -> None:
        for _ in range(MAX_PASSES):
            if await self._pools.shared.run(copy_differences, source, target, copied) <= FEW_DIFFERENCES:
                return

    def _finish_in_shared(
        self, collection: Collection, shared: SharedCollections, unfinished: CollectionId, copied: _Copied
    ) -> None:
        """Copies the last differences, and puts the copy in the collection's place; runs in the write thread, so that
        nothing changes the collection meanwhile.
        """
        store, info = shared.open(), collection.info
        copy_differences(LocalDocuments(collection.store), SharedStoreDocuments(store, unfinished), copied)
        store.configure(unfinished, info.quota, info.search_settings)
        if not store.rename(unfinished, info.id, above_version=info.version):
            raise _exists(info.id, SHARED)
        shared.refresh()
        self._registry.release(info.id)

    def _finish_locally(
        self, shared: SharedCollections, collection_id: CollectionId, scratch: Path, copied: _Copied
    ) -> None:
        """Copies the last differences while no retriever can change the collection, and loads the copy; runs in the
        write thread.
        """
        with closing(Store(collection_id, scratch, readers=1)) as file, shared.open().changing(collection_id) as change:
            info = change.info
            copy_differences(LockedDocuments(change), LocalDocuments(file), copied)
            file.set_search_settings(info.search_settings)
            file.set_quota(info.quota)
            file.raise_version(info.version + 1)
            file.close()
            self._registry.add(scratch, collection_id)
            try:
                change.drop()
            except BaseException:
                self._registry.remove_local(collection_id)
                raise
        shared.refresh()


def _begin(shared: SharedCollections, unfinished: CollectionId, info: CollectionInfo) -> None:
    """Creates the copy in the shared store, unless an interrupted move has created it for the same embedding model."""
    store = shared.open()
    if info.id in shared.known:
        raise _exists(info.id, SHARED)
    empty = CollectionInfo(unfinished.name, info.fingerprint, info.dimensions, tenant=info.tenant)
    if store.create(empty):
        return
    with store.reading(unfinished) as reader:
        begun = reader.info.fingerprint
    if begun != info.fingerprint:
        store.drop(unfinished)
        store.create(empty)


def _exists(collection_id: CollectionId, store: str) -> AlreadyExists:
    other = LOCAL if store == SHARED else SHARED
    return AlreadyExists(
        f"the {store} store has a collection {str(collection_id)!r} already, and the {other} one hides it here; delete "
        "one of them",
        code="collection_exists",
        param="collection",
    )
