"""Finds any collection by its id: in this retriever's data folder (perhaps damaged), in the shared store, or in an
external store.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_retriever.collections.collection import Collection, SnapshotFactory, unknown_collection
from pointsman_retriever.collections.external import ExternalCollection, ExternalCollections, read_only
from pointsman_retriever.collections.move_names import is_move_committed, moved_id
from pointsman_retriever.collections.shared import SharedCollection, SharedCollections
from pointsman_retriever.collections.writer import GroupCommitWriter
from pointsman_retriever.concurrency import ThreadPool
from pointsman_retriever.domain import LOCAL, SHARED, UNLIMITED, CollectionId, CollectionInfo, Quota
from pointsman_retriever.events import CollectionSize
from pointsman_retriever.store.data_folder import DataFolder
from pointsman_retriever.store.store import Store, create_store

log = logging.getLogger(__name__)

T = TypeVar("T")

NO_EXTERNAL: ExternalCollections = {}


@dataclass(frozen=True, slots=True)
class DamagedCollection:
    error: PointsmanError  # with which it failed to load
    quota: Quota | None  # None if it cannot be read


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    info: CollectionInfo
    problem: str  # why it cannot be searched, or ''


class CollectionRegistry:
    """All collections of this retriever, by id: finds, creates, replaces and removes them.

    Methods that only read may be called from any thread. All other methods block, and must run in the write thread,
    except `load` and `close`, during which no other method may be called.
    """

    def __init__(
        self,
        data_folder: DataFolder,
        readers: int,
        make_snapshot: SnapshotFactory,
        write_pool: ThreadPool,
        *,
        external: ExternalCollections = NO_EXTERNAL,
        shared: SharedCollections | None = None,
        shared_pool: ThreadPool | None = None,
    ) -> None:
        """Takes the places of collections: the `data_folder`, the `external` stores, and the `shared` store; `shared`
        is None if there is no shared store.

        Up to `readers` threads read from one collection at once. `make_snapshot` makes an empty index. Collections in
        the data folder are changed in the threads of `write_pool`, and collections in the shared store in the threads
        of `shared_pool`.
        """
        self.shared = shared
        self._shared_pool = shared_pool or write_pool
        self._shared_writers: dict[CollectionId, GroupCommitWriter] = {}
        self._external = external
        self.data_folder = data_folder
        self._readers = readers
        self._make_snapshot = make_snapshot
        self._write_pool = write_pool
        # Both are replaced, never changed in place, because other threads read them.
        self._writers: Mapping[CollectionId, GroupCommitWriter] = {}
        self._damaged: Mapping[CollectionId, DamagedCollection] = {}
        self._unsettled: Mapping[CollectionId, str] = {}  # the stores to which damaged ones may or may not be moved
        self._arriving: dict[CollectionId, asyncio.Event] = {}
        self._leaving: set[CollectionId] = set()  # while the shared store puts their copies in place

    def load(self) -> None:
        """Loads all collections from disk; if one fails with a PointsmanError, logs it and counts it as damaged."""
        for collection_id in self.data_folder.collections():
            try:
                if to := self.data_folder.marked_move(collection_id):
                    self._put_aside(collection_id, to)
                else:
                    self._open(collection_id)
            except PointsmanError as error:
                log.error("cannot load collection %s: %s", collection_id, error)
                damaged = DamagedCollection(error, self._read_quota(collection_id))
                self._damaged = {**self._damaged, collection_id: damaged}

    async def prepare(self, collection_id: CollectionId) -> None:
        """Looks in the shared store for a collection that another retriever may have created, if no collection with
        this id is known.

        For this, it reads the list of the shared store's collections again. To be called before the methods that look
        up a collection. Raises the errors of the shared store.
        """
        await self._settle(collection_id)
        if not self.has(collection_id):
            await self.refresh_shared()

    async def refresh_shared(self) -> None:
        if self.shared is not None:
            await self._shared_pool.run(self.shared.refresh)

    async def refresh(self, collection_id: CollectionId) -> None:
        """Reads the list of the shared store's collections again, since another retriever may have deleted the
        collection or created it anew.

        The list is not read if a collection with this id is known that is not in the shared store. Then waits for the
        end of a move of the collection that `expecting` has announced. Raises the errors of the shared store.
        """
        if self.is_shared(collection_id) or not self.has(collection_id):
            await self.refresh_shared()
        if arriving := self._arriving.get(collection_id):
            await arriving.wait()

    @asynccontextmanager
    async def expecting(self, collection_id: CollectionId) -> AsyncIterator[None]:
        """Lets `refresh` wait until the end of the block, which moves a collection to the data folder."""
        self._arriving[collection_id] = asyncio.Event()
        try:
            yield
        finally:
            self._arriving.pop(collection_id).set()

    async def settle_moves(self) -> None:
        """Finishes or undoes collections' moves between stores of which it is not known whether they were committed.

        A move that cannot be settled, because the shared store does not answer, is tried again at the next call for its
        collection.
        """
        for collection_id in list(self._unsettled):
            try:
                await self._settle(collection_id)
            except PointsmanError as error:
                log.warning("the move of collection %s is not settled yet: %s", collection_id, error)

    async def _settle(self, collection_id: CollectionId) -> None:
        to = self._unsettled.get(collection_id)
        if to is None or self.shared is None:
            return
        place = self.data_folder.id()
        is_moved = await self._shared_pool.run(is_move_committed, self.shared.open(), collection_id, place, to)
        await self._shared_pool.run(self.shared.refresh)
        await self._write_pool.run(self._keep_or_remove, collection_id, is_kept=is_moved == (to == LOCAL))
        if to == LOCAL and is_moved:
            await self._shared_pool.run(self.shared.open().drop, moved_id(collection_id, place))

    def _keep_or_remove(self, collection_id: CollectionId, is_kept: bool) -> None:
        if collection_id not in self._unsettled:
            return  # another call was faster
        if is_kept:
            self._open(collection_id)
            self.data_folder.unmark_move(collection_id)
        else:
            self.data_folder.remove(collection_id)
            self._damaged = _without(self._damaged, collection_id)
        self._unsettled = _without(self._unsettled, collection_id)

    def _put_aside(self, collection_id: CollectionId, to: str) -> None:
        """Serves a collection of the data folder no more until it is known whether its move was committed."""
        error = Unavailable(
            f"it is not known yet whether the move of collection {str(collection_id)!r} to the {to} store was "
            "committed; that is found out when the shared store answers (POINTSMAN_RETRIEVER_SHARED_STORE_URL)",
            code="move_unsettled",
            retry_after=5.0,
        )
        self._damaged = {**self._damaged, collection_id: DamagedCollection(error, None)}
        self._unsettled = {**self._unsettled, collection_id: to}

    def begin_leaving(self, collection_id: CollectionId, version: int) -> None:
        """Marks a collection whose documents were all copied to the shared store. Until the move ends, the collection
        can be neither deleted nor replaced.

        Raises Unavailable ("move_interrupted") if the collection has another version than the copy.
        """
        writer = self._writers.get(collection_id)
        if writer is None or writer.collection.info.version != version:
            raise Unavailable(
                f"collection {str(collection_id)!r} was replaced or deleted during its move; move it again",
                code="move_interrupted",
            )
        self.data_folder.mark_move(self.data_folder.folder(collection_id), SHARED)
        self._leaving.add(collection_id)

    def stay(self, collection_id: CollectionId) -> None:
        """Ends a move of the collection that `begin_leaving` has marked, so that the collection stays in this
        retriever's data folder.
        """
        self._leaving.discard(collection_id)
        self.data_folder.unmark_move(collection_id)

    def suspend(self, collection_id: CollectionId, to: str) -> None:
        """Closes a collection of which it is not known whether its move to the store `to` was committed; `prepare`
        finds this out.
        """
        writer = self._writers.get(collection_id)
        self._leaving.discard(collection_id)
        self._put_aside(collection_id, to)
        if writer is not None:
            self._writers = _without(self._writers, collection_id)
            _local(writer).close()

    def load_arrived(self, collection_id: CollectionId) -> GroupCommitWriter:
        """Loads a collection whose folder was put into the data folder by a move. Calls use the collection only after
        `publish`. Any thread may call this method.
        """
        return GroupCommitWriter(self._load(collection_id), self._write_pool)

    def publish(self, writer: GroupCommitWriter) -> None:
        self._writers = {**self._writers, writer.collection.info.id: writer}

    def is_shared(self, collection_id: CollectionId) -> bool:
        """Returns whether the collection that is used for this id is in the shared store.

        Returns False if the data folder also has a collection with this id, since the data folder has precedence.
        """
        return self._shared(collection_id) is not None

    def pool(self, collection_id: CollectionId) -> ThreadPool:
        """Returns the thread pool in which a collection must be changed and removed."""
        return self._shared_pool if self.is_shared(collection_id) else self._write_pool

    def writer(self, collection_id: CollectionId) -> GroupCommitWriter:
        """Returns the object that applies changes to a collection.

        Raises NotFound if there is no such collection, FailedPrecondition ("read_only_collection") if it is in an
        external store, and for a damaged collection the error with which it failed to load.
        """
        self._refuse_external(collection_id)
        writer = self._writers.get(collection_id)
        if writer is not None:
            return writer
        damaged = self._damaged.get(collection_id)
        if damaged:
            raise damaged.error.copy()
        shared = self._shared(collection_id)
        if shared is None:
            raise unknown_collection(collection_id)
        writer = self._shared_writers.get(collection_id)
        if writer is None or writer.collection is not shared:
            writer = self._shared_writers[collection_id] = GroupCommitWriter(shared, self._shared_pool)
        return writer

    def collection(self, collection_id: CollectionId) -> Collection | SharedCollection:
        """Returns the collection in the data folder or in the shared store with this id.

        Raises NotFound if there is none, FailedPrecondition ("read_only_collection") if it is in an external store, and
        for a damaged collection the error with which it failed to load.
        """
        return self.writer(collection_id).collection

    def searchable(self, collection_id: CollectionId) -> Collection | SharedCollection | ExternalCollection:
        """Returns the collection with this id, also one in an external store, which `collection` refuses.

        Raises NotFound if there is none, and for a damaged collection the error with which it failed to load.
        """
        return self._external.get(collection_id) or self.collection(collection_id)

    def has(self, collection_id: CollectionId) -> bool:
        return (
            collection_id in self._external
            or collection_id in self._writers
            or collection_id in self._damaged
            or self.is_shared(collection_id)
        )

    def quota(self, collection_id: CollectionId) -> Quota | None:
        """Returns a collection's quota; None if the collection is external or does not exist, or its quota is
        unreadable.
        """
        writer = self._writers.get(collection_id)
        if writer is not None:
            return writer.collection.info.quota
        damaged = self._damaged.get(collection_id)
        shared = self._shared(collection_id)
        return damaged.quota if damaged else shared.info.quota if shared else None

    def statuses(self) -> list[CollectionStatus]:
        loaded = [
            CollectionStatus(writer.collection.info, writer.collection.fault) for writer in self._writers.values()
        ]
        damaged = [
            CollectionStatus(
                CollectionInfo(one.name, "", 0, tenant=one.tenant, quota=damaged.quota or UNLIMITED),
                damaged.error.message,
            )
            for one, damaged in self._damaged.items()
        ]
        external = [CollectionStatus(one.info, one.problem) for one in self._external.values()]
        problem = self.shared.problem if self.shared else ""
        shared = [CollectionStatus(one.info, problem) for one in self._all_shared()]
        return sorted(loaded + damaged + shared + external, key=lambda status: status.info.id)

    def sizes(self) -> list[CollectionSize]:
        damaged = [CollectionSize(str(one), 0, 0, 0, 0, 0.0, True) for one in self._damaged]
        shared = [one.size() for one in self._all_shared()]
        return [writer.collection.size() for writer in self._writers.values()] + damaged + shared

    def count(self, tenant: str) -> int:
        shared = [one.info.id for one in self._all_shared()]
        return sum(one.tenant == tenant for one in [*self._writers, *self._damaged, *shared])

    def create(self, info: CollectionInfo) -> CollectionInfo:
        """Creates an empty collection with the id, model, quota and store of `info`; returns its state.

        The caller makes sure that there is no collection with this id. Raises storage errors (`translate_errors`), and
        what the shared store raises.
        """
        if info.store == SHARED:
            assert self.shared is not None  # checked by the caller
            return self.shared.create(info)
        with self.data_folder.scratch() as scratch:
            create_store(scratch, info)
            return self.add(scratch, info.id)

    def add(self, folder: Path, collection_id: CollectionId) -> CollectionInfo:
        """Moves a folder with a complete collection's file into the data folder, and loads it as a new collection.

        Returns the collection's state. Raises storage errors (`translate_errors`), Internal ("collection_damaged") if
        the file is damaged, and FailedPrecondition if the file has another schema (`check_schema`). After an error the
        collection does not exist.
        """
        with self.data_folder.installing(folder, collection_id):
            return self._open(collection_id).collection.info

    def replace(self, folder: Path, collection_id: CollectionId) -> CollectionInfo:
        """Replaces the file of a collection, which may be damaged, by the one in `folder`; returns the new state.

        Raises FailedPrecondition ("read_only_collection") for a collection in an external store. For the new file,
        raises storage errors (`translate_errors`), Internal ("collection_damaged") if it is damaged, and
        FailedPrecondition if it has another schema. After an error, a damaged collection is as before; searches of any
        other collection raise Unavailable.
        """
        self._refuse_external(collection_id)
        self._refuse_unsettled(collection_id)
        writer = self._writers.get(collection_id)
        if writer is None:
            with self.data_folder.setting_aside(collection_id):
                return self.add(folder, collection_id)
        collection = _local(writer)

        def swap() -> Store:
            collection.store.close()
            self.data_folder.replace_file(folder, collection_id)
            return Store(collection_id, self.data_folder.folder(collection_id), self._readers)

        collection.replace_store(swap)
        return collection.info

    def remove(self, collection_id: CollectionId) -> None:
        """Closes and deletes a collection, which may be damaged.

        Raises NotFound if there is none, FailedPrecondition ("read_only_collection") for one in an external store, and
        storage errors (`translate_disk_errors`).
        """
        self._refuse_external(collection_id)
        if self.shared is not None and self.is_shared(collection_id):
            if not self.shared.drop(collection_id):
                raise unknown_collection(collection_id)
            return
        self.remove_local(collection_id)

    def release(self, collection_id: CollectionId) -> None:
        """Deletes a collection from the data folder after it was moved to the shared store; waits for its searches.

        New calls use the collection in the shared store at once.
        """
        writer = self._writers[collection_id]
        self._leaving.discard(collection_id)
        self._writers = _without(self._writers, collection_id)
        _local(writer).close()
        self.data_folder.remove(collection_id)

    def remove_local(self, collection_id: CollectionId) -> None:
        """Closes and deletes a collection of the data folder; raises the same errors as `remove`."""
        self._refuse_unsettled(collection_id)
        writer = self._writers.get(collection_id)
        if writer is None and collection_id not in self._damaged:
            raise unknown_collection(collection_id)
        if writer is not None:
            _local(writer).close()
        self.data_folder.remove(collection_id)
        self._writers = _without(self._writers, collection_id)
        self._damaged = _without(self._damaged, collection_id)

    def close(self) -> None:
        for writer in self._writers.values():
            _local(writer).close()

    def _shared(self, collection_id: CollectionId) -> SharedCollection | None:
        if self.shared is None or collection_id in self._writers or collection_id in self._damaged:
            return None
        return self.shared.known.get(collection_id)

    def _all_shared(self) -> list[SharedCollection]:
        known = self.shared.known.values() if self.shared else ()
        return [one for one in known if self.is_shared(one.info.id)]

    def _refuse_external(self, collection_id: CollectionId) -> None:
        """Raises FailedPrecondition if the collection is in an external store."""
        if collection_id in self._external:
            raise read_only(collection_id)

    def _refuse_unsettled(self, collection_id: CollectionId) -> None:
        """Raises Unavailable if the collection's move is about to be committed, or may have been."""
        if collection_id in self._unsettled:
            raise self._damaged[collection_id].error.copy()
        if collection_id in self._leaving:
            raise Unavailable(
                f"collection {str(collection_id)!r} is just being moved; try again",
                code="move_running",
                retry_after=1.0,
            )

    def _read_quota(self, collection_id: CollectionId) -> Quota | None:
        """Returns the quota of a collection that cannot be loaded; None if its quota cannot be read either."""
        try:
            with closing(Store(collection_id, self.data_folder.folder(collection_id), readers=1)) as store:
                return store.collection().quota
        except PointsmanError:
            return None

    def _open(self, collection_id: CollectionId) -> GroupCommitWriter:
        writer = GroupCommitWriter(self._load(collection_id), self._write_pool)
        self._damaged = _without(self._damaged, collection_id)
        self.publish(writer)
        return writer

    def _load(self, collection_id: CollectionId) -> Collection:
        store = Store(collection_id, self.data_folder.folder(collection_id), self._readers)
        try:
            collection = Collection(store, self._make_snapshot)
            collection.load()
        except BaseException:
            store.close()
            raise
        log.info("loaded collection %s: %d documents", collection_id, collection.info.documents)
        return collection


def _local(writer: GroupCommitWriter) -> Collection:
    collection = writer.collection
    assert isinstance(collection, Collection)  # of the registry's own writers
    return collection


def _without(entries: Mapping[CollectionId, T], key: CollectionId) -> dict[CollectionId, T]:
    return {other: value for other, value in entries.items() if other != key}
