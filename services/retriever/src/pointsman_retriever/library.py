"""The library: all collections, and what can be asked of them."""

import logging
import time
from collections.abc import Callable, Sequence

from pointsman_servicekit.errors import AlreadyExists

from pointsman_retriever import limits
from pointsman_retriever.domain import Answer, Collection, Deleted, Document, MadeDocument, Query, Written
from pointsman_retriever.encoding import Encoder
from pointsman_retriever.facts import Dropped, Observer, Searched, Upserted
from pointsman_retriever.index.fusion import DENSE_WEIGHT
from pointsman_retriever.shelf import Index, Question, Shelf, unknown_collection
from pointsman_retriever.store.sqlite import Store
from pointsman_retriever.workers import Crew

log = logging.getLogger(__name__)


class Library:
    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        make_index: Callable[[int], Index],
        observer: Observer,
        crew: Crew,
    ) -> None:
        """`make_index` takes the vectors' dimensions."""
        self._store = store
        self._encoder = encoder
        self._make_index = make_index
        self._observer = observer
        self._crew = crew
        self._shelves: dict[str, Shelf] = {}  # replaced as a whole: other threads read it

    def load(self) -> None:
        """Brings into memory what is on the disk; before anything else is asked. Blocks."""
        for number, collection in self._store.collections():
            shelf = self._shelve(number, collection)
            shelf.load()
            log.info("loaded collection %s: %d documents", collection.name, collection.documents)

    def collections(self) -> list[Collection]:
        return sorted((shelf.collection for shelf in self._shelves.values()), key=lambda collection: collection.name)

    async def create(self, name: str, if_missing: bool) -> Collection:
        """Raises InvalidArgument, AlreadyExists."""
        limits.check_name(name)
        with self._crew.changes.place():
            return await self._crew.writing.run(self._create, name, if_missing)

    async def drop(self, name: str) -> None:
        """Raises InvalidArgument, NotFound."""
        limits.check_name(name)
        with self._crew.changes.place():
            await self._crew.writing.run(self._drop, name)

    async def upsert(self, name: str, documents: Sequence[Document]) -> Written:
        """Raises InvalidArgument, NotFound, FailedPrecondition."""
        shelf = self._shelf(name)
        limits.check_documents(documents)
        self._encoder.check_made_here(shelf.collection)
        if not documents:
            return Written(0, 0, shelf.collection.version)
        with self._crew.changes.place():
            made = [await self._encoder.encode_document(document) for document in documents]
            return await self._crew.writing.run(self._put, shelf, made)

    async def delete(self, name: str, document_ids: Sequence[str]) -> Deleted:
        """Raises InvalidArgument, NotFound."""
        shelf = self._shelf(name)
        limits.check_ids(document_ids)
        with self._crew.changes.place():
            return await self._crew.writing.run(shelf.remove, document_ids)

    async def search(self, query: Query) -> Answer:
        """Raises InvalidArgument, NotFound, FailedPrecondition."""
        begun = time.perf_counter()
        shelf = self._shelf(query.collection)
        limits.check_query(query)
        self._encoder.check_made_here(shelf.collection)
        with self._crew.searches.place():
            question = Question(
                text=query.text,
                vector=await self._encoder.encode_query(query),
                filter=query.filter,
                dense_weight=DENSE_WEIGHT if query.dense_weight is None else query.dense_weight,
                top_k=query.top_k or limits.DEFAULT_TOP_K,
            )
            passages, version = await self._crew.searching.run(shelf.search, question)
        answer = Answer(passages, version, time.perf_counter() - begun)
        self._observer.note(Searched(query.collection, len(passages), answer.seconds))
        return answer

    def _shelf(self, name: str) -> Shelf:
        limits.check_name(name)
        shelf = self._shelves.get(name)
        if shelf is None:
            raise unknown_collection(name)
        return shelf

    def _shelve(self, number: int, collection: Collection) -> Shelf:
        shelf = Shelf(number, collection, self._store, self._make_index(collection.dimensions))
        self._shelves = {**self._shelves, collection.name: shelf}
        return shelf

    def _create(self, name: str, if_missing: bool) -> Collection:
        there = self._shelves.get(name)
        if there is not None:
            if if_missing:
                return there.collection
            raise AlreadyExists(
                f"there is a collection {name!r} already; say if_missing, or take another name",
                code="collection_exists",
                param="name",
            )
        collection = Collection(name, self._encoder.fingerprint, self._encoder.dimensions)
        self._shelve(self._store.create(collection), collection)
        log.info("created collection %s", name)
        return collection

    def _drop(self, name: str) -> None:
        self._shelf(name).drop()
        self._shelves = {other: shelf for other, shelf in self._shelves.items() if other != name}
        self._observer.note(Dropped(name))
        log.info("deleted collection %s", name)

    def _put(self, shelf: Shelf, made: Sequence[MadeDocument]) -> Written:
        written = shelf.put(made)
        self._observer.note(Upserted(shelf.collection.name, written.documents))
        log.info("collection %s: %d documents written", shelf.collection.name, written.documents)
        return written
