"""All collections at work: those that are loaded, and those that could not be."""

import logging
from dataclasses import dataclass
from pathlib import Path

from pointsman_servicekit.errors import PointsmanError

from pointsman_retriever.domain import CollectionId, CollectionInfo
from pointsman_retriever.facts import CollectionSize
from pointsman_retriever.shelf import Collection, SnapshotFactory, unknown_collection
from pointsman_retriever.store.folders import DataFolder
from pointsman_retriever.store.sqlite import Store, create_store
from pointsman_retriever.workers import ThreadPool
from pointsman_retriever.writing import GroupCommitWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    collection: CollectionInfo
    problem: str  # why it cannot be searched; or ''


class CollectionRegistry:
    """What changes the register blocks, and is for the thread that writes; any thread may look."""

    def __init__(self, folders: DataFolder, readers: int, make_contents: SnapshotFactory, writing: ThreadPool) -> None:
        """`readers` are the threads that may search one collection at once."""
        self.folders = folders
        self._readers = readers
        self._make_contents = make_contents
        self._writing = writing
        self._pens: dict[CollectionId, GroupCommitWriter] = {}  # replaced as a whole: other threads read it
        self._broken: dict[CollectionId, PointsmanError] = {}

    def load(self) -> None:
        """Brings into memory what is on the disk. A damaged collection is passed over, and keeps nobody else back."""
        for collection in self.folders.all():
            try:
                self._open(collection)
            except PointsmanError as error:
                log.error("collection %s cannot be loaded: %s", collection, error)
                self._broken = {**self._broken, collection: error}

    def pen(self, collection: CollectionId) -> GroupCommitWriter:
        """Raises NotFound; for a damaged one, what is wrong with it."""
        pen = self._pens.get(collection)
        if pen is not None:
            return pen
        raise self._broken.get(collection) or unknown_collection(collection)

    def has(self, collection: CollectionId) -> bool:
        return collection in self._pens or collection in self._broken

    def shown(self) -> list[CollectionStatus]:
        loaded = [CollectionStatus(pen.shelf.collection, pen.shelf.fault) for pen in self._pens.values()]
        broken = [
            CollectionStatus(CollectionInfo(collection.name, "", 0, tenant=collection.tenant), error.message)
            for collection, error in self._broken.items()
        ]
        return sorted(loaded + broken, key=lambda shown: shown.collection.id)

    def sizes(self) -> list[CollectionSize]:
        broken = [CollectionSize(str(collection), 0, 0, 0, 0, 0.0, True) for collection in self._broken]
        return [pen.shelf.size() for pen in self._pens.values()] + broken

    @property
    def is_consistent(self) -> bool:
        """Whether everything that is on the disk is loaded, and agrees with it."""
        return not self._broken and not any(pen.shelf.fault for pen in self._pens.values())

    def count_of(self, tenant: str) -> int:
        return sum(collection.tenant == tenant for collection in [*self._pens, *self._broken])

    def create(self, collection: CollectionInfo) -> CollectionInfo:
        """Raises what the disk says."""
        with self.folders.scratch() as scratch:
            create_store(scratch, collection)
            return self.place(scratch, collection.id)

    def place(self, made: Path, collection: CollectionId) -> CollectionInfo:
        """Makes a folder with a whole file in it the collection's."""
        self.folders.put_in_place(made, collection)
        return self._open(collection).shelf.collection

    def exchange(self, made: Path, collection: CollectionId) -> CollectionInfo:
        """Puts a whole file in the place of a collection's that may be damaged."""
        pen = self._pens.get(collection)
        if pen is None:
            self.folders.remove(collection)
            self._broken = _without(self._broken, collection)
            return self.place(made, collection)

        def swap() -> Store:
            pen.shelf.store.close()
            self.folders.exchange(made, collection)
            return Store(collection, self.folders.folder(collection), self._readers)

        pen.shelf.replace_by(swap)
        return pen.shelf.collection

    def remove(self, collection: CollectionId) -> None:
        pen = self._pens.get(collection)
        if pen is None and collection not in self._broken:
            raise unknown_collection(collection)
        if pen is not None:
            pen.shelf.close()
        self.folders.remove(collection)
        self._pens = _without(self._pens, collection)
        self._broken = _without(self._broken, collection)

    def close(self) -> None:
        for pen in self._pens.values():
            pen.shelf.close()

    def _open(self, collection: CollectionId) -> GroupCommitWriter:
        store = Store(collection, self.folders.folder(collection), self._readers)
        try:
            shelf = Collection(store, self._make_contents)
            shelf.load()
        except BaseException:
            store.close()
            raise
        pen = GroupCommitWriter(shelf, self._writing)
        self._pens = {**self._pens, collection: pen}
        log.info("loaded collection %s: %d documents", collection, shelf.collection.documents)
        return pen


def _without(register: dict, key: CollectionId) -> dict:  # type: ignore[type-arg]  # of either sort
    return {other: value for other, value in register.items() if other != key}
