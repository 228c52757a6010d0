"""Moves collections between this retriever's data folder and the shared store, while they are in use."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pointsman_servicekit.errors import AlreadyExists, FailedPrecondition, PointsmanError, Unavailable

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
from pointsman_retriever.collections.move_names import is_move_committed, moved_id, unfinished_id
from pointsman_retriever.collections.registry import CollectionRegistry
from pointsman_retriever.collections.service import CollectionService
from pointsman_retriever.collections.shared import SharedCollection, SharedCollections
from pointsman_retriever.collections.writer import GroupCommitWriter
from pointsman_retriever.concurrency import ThreadPools
from pointsman_retriever.domain import LOCAL, SHARED, UNLIMITED, CollectionId, CollectionInfo
from pointsman_retriever.shared.stores import SharedStore
from pointsman_retriever.store.store import Store, create_store

log = logging.getLogger(__name__)

MAX_PASSES = 5  # over all documents, before changes have to wait for the last one
FEW_DIFFERENCES = 200  # documents; a pass that finds no more is followed by the last one
PROGRESS_SECONDS = 0.5
ASK_AFTER_SECONDS = (0.1, 0.3, 1.0, 3.0)  # whether a move was committed, after its last call has failed


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

    A move copies documents in several passes. The first pass copies all documents, and each further pass copies the
    documents that have changed since the pass before. When a pass finds few differences, changes of the collection wait
    until the last pass has ended.
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
        info, store, pools = collection.info, shared.open(), self._pools
        unfinished = unfinished_id(info.id, self._registry.data_folder.id())
        await pools.shared.run(_begin, shared, unfinished, info)
        source, target = LocalDocuments(collection.store), SharedStoreDocuments(store, unfinished)
        await self._copy(source, target, copied)
        async with self._registry.writer(info.id).held():
            version = collection.info.version
            await pools.shared.run(copy_differences, source, target, copied)
            await pools.write.run(self._registry.begin_leaving, info.id, version)
            is_moved = await self._put_in_shared_place(collection, store, unfinished)
        if not is_moved:
            raise _exists(info.id, SHARED)

    async def _put_in_shared_place(self, collection: Collection, store: SharedStore, unfinished: CollectionId) -> bool:
        """Gives the copy in the shared store the collection's name, and deletes the collection in the data folder;
        returns False if the name is in use there.

        If it is not known whether the store has committed that, the collection is suspended until it is.
        """
        info, pools, registry = collection.info, self._pools, self._registry
        folder = registry.data_folder
        is_moved: bool | None = None
        try:
            is_moved = await pools.shared.run(_rename, store, unfinished, info)
        except BaseException:
            is_moved = await pools.shared.run(_ask, store, info.id, folder.id(), SHARED)
            if not is_moved:
                raise
        finally:
            if is_moved is None:
                await pools.write.run(registry.suspend, info.id, SHARED)
            elif is_moved:
                with suppress(PointsmanError):
                    await registry.refresh_shared()
                await pools.write.run(registry.release, info.id)
            else:
                await pools.write.run(registry.stay, info.id)
        return is_moved

    async def _to_local(self, collection: SharedCollection, shared: SharedCollections, copied: _Copied) -> None:
        info, store, registry = collection.info, shared.open(), self._registry
        folder = registry.data_folder
        aside = moved_id(info.id, folder.id())
        with folder.scratch() as scratch:
            create_store(scratch, replace(info, quota=UNLIMITED))
            with closing(Store(info.id, scratch, readers=1)) as file:
                await self._copy(SharedStoreDocuments(store, info.id), LocalDocuments(file), copied)
            await self._pools.shared.run(store.drop, aside)  # what an older move has left
            async with registry.expecting(info.id):
                try:
                    writer = await self._pools.shared.run(self._finish_locally, store, info.id, scratch, copied)
                except BaseException:
                    if folder.marked_move(info.id):
                        await self._pools.write.run(registry.suspend, info.id, LOCAL)
                    raise
                await self._pools.write.run(registry.publish, writer)
        with suppress(PointsmanError):  # if the store fails now, the next move drops what is left
            await self._pools.shared.run(store.drop, aside)
            await registry.refresh_shared()

    async def _copy(self, source: DocumentSource, target: DocumentTarget, copied: _Copied) -> None:
        for _ in range(MAX_PASSES):
            if await self._pools.shared.run(copy_differences, source, target, copied) <= FEW_DIFFERENCES:
                return

    def _finish_locally(
        self, store: SharedStore, collection_id: CollectionId, scratch: Path, copied: _Copied
    ) -> GroupCommitWriter:
        """Copies the last differences while no retriever can change the collection, puts the copy in its place, and
        takes the collection out of use in the shared store; returns the copy's writer.

        If the store has not committed that, the copy is deleted; if that is not known, its folder keeps the mark.
        """
        folder = self._registry.data_folder
        place, writer = folder.id(), None
        try:
            with closing(Store(collection_id, scratch, readers=1)) as file, store.changing(collection_id) as change:
                info = change.info
                copy_differences(LockedDocuments(change), LocalDocuments(file), copied)
                file.set_search_settings(info.search_settings)
                file.set_quota(info.quota)
                file.raise_version(info.version + 1)
                file.close()
                folder.mark_move(scratch, LOCAL)
                with folder.installing(scratch, collection_id):
                    writer = self._registry.load_arrived(collection_id)
                change.rename(moved_id(collection_id, place))
        except BaseException:
            if writer is None:
                raise
            is_moved = _ask(store, collection_id, place, LOCAL)
            if not is_moved:
                assert isinstance(writer.collection, Collection)  # what has arrived is local
                writer.collection.close()
                if is_moved is False:
                    folder.remove(collection_id)
                raise
        folder.unmark_move(collection_id)
        return writer


def _rename(store: SharedStore, unfinished: CollectionId, info: CollectionInfo) -> bool:
    store.configure(unfinished, info.quota, info.search_settings)
    return store.rename(unfinished, info.id, above_version=info.version)


def _ask(store: SharedStore, collection_id: CollectionId, place: str, to: str) -> bool | None:
    """Returns whether a move was committed whose last call failed; None if the store does not answer for a while."""
    for wait in ASK_AFTER_SECONDS:
        time.sleep(wait)
        try:
            return is_move_committed(store, collection_id, place, to)
        except PointsmanError as error:
            if error.code == "collection_busy":  # it has waited long enough
                return None
    return None


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
