"""Copies the documents of one collection to another one, with their vectors, while both may be in use."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pointsman_retriever.domain import CollectionId, EncodedDocument
from pointsman_retriever.shared.changes import to_record, write
from pointsman_retriever.shared.stores import DocumentRecord, SharedChange, SharedStore
from pointsman_retriever.store.documents import read_documents
from pointsman_retriever.store.store import Store

DOCUMENTS_PER_STEP = 64


class DocumentSource(Protocol):
    """Interface of a collection from which documents are copied, such as LocalDocuments or SharedStoreDocuments."""

    def documents(self, after: str, count: int) -> Sequence[EncodedDocument]:
        """Returns up to `count` documents whose ids come after the id `after`, with their chunks and vectors.

        They are in the order of the ids' UTF-8 bytes; an empty `after` begins with the first document.
        """


class DocumentTarget(Protocol):
    """Interface of a collection to which documents are copied, such as LocalDocuments or SharedStoreDocuments."""

    def records(self, after: str, until: str | None) -> Mapping[str, DocumentRecord]:
        """Returns, by document id, the records of the documents with ids after `after` and up to `until`.

        The order is that of the ids' UTF-8 bytes. If `until` is None, all documents after `after` are returned.
        """

    def write(self, added: Sequence[EncodedDocument], removed: Sequence[str]) -> None: ...


def copy_differences(source: DocumentSource, target: DocumentTarget, report: Callable[[int], None]) -> int:
    """Makes the documents of `target` equal to those of `source`; returns how many documents differed.

    Source and target are read in steps, so a document of the source that is changed during the copy may be missed.
    After each step, `report` is called with the number of documents copied in the step; if `report` raises an
    exception, the copy ends with it.
    """
    after, differences = "", 0
    while True:
        documents = source.documents(after, DOCUMENTS_PER_STEP)
        last = documents[-1].document.id if documents else None
        stored = target.records(after, last)
        present = {one.document.id for one in documents}
        changed = [one for one in documents if stored.get(one.document.id) != to_record(one)]
        gone = [document_id for document_id in stored if document_id not in present]
        if changed or gone:
            target.write(changed, gone)
        differences += len(changed) + len(gone)
        report(len(changed))
        if last is None:
            return differences
        after = last


class LocalDocuments:
    """The documents of a collection on this retriever's disk; implements DocumentSource and DocumentTarget.

    Writes change the collection's file only, so no index of the collection may be in use at that time.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def documents(self, after: str, count: int) -> Sequence[EncodedDocument]:
        return read_documents(self._store, after, count)

    def records(self, after: str, until: str | None) -> Mapping[str, DocumentRecord]:
        found: dict[str, DocumentRecord] = {}
        while documents := self.documents(after, DOCUMENTS_PER_STEP):
            for one in documents:
                if until is not None and one.document.id > until:
                    return found
                found[one.document.id] = to_record(one)
            after = documents[-1].document.id
        return found

    def write(self, added: Sequence[EncodedDocument], removed: Sequence[str]) -> None:
        with self._store.transaction() as transaction:
            with transaction.step() as change:
                for document_id in removed:
                    change.remove(document_id)
                for document in added:
                    change.put(document)
            transaction.finish()
            transaction.commit()


class SharedStoreDocuments:
    """The documents of a collection in the store that several retrievers share; implements DocumentSource and
    DocumentTarget.
    """

    def __init__(self, store: SharedStore, collection_id: CollectionId) -> None:
        self._store = store
        self._id = collection_id

    def documents(self, after: str, count: int) -> Sequence[EncodedDocument]:
        with self._store.reading(self._id) as reader:
            return reader.documents(after, count)

    def records(self, after: str, until: str | None) -> Mapping[str, DocumentRecord]:
        found: dict[str, DocumentRecord] = {}
        with self._store.reading(self._id) as reader:
            while records := reader.records(after, DOCUMENTS_PER_STEP):
                for document_id, record in records:
                    if until is not None and document_id > until:
                        return found
                    found[document_id] = record
                after = records[-1][0]
        return found

    def write(self, added: Sequence[EncodedDocument], removed: Sequence[str]) -> None:
        write(self._store, self._id, added, removed)


class LockedDocuments:
    """The documents of a collection in the shared store, read through an open change of it; implements DocumentSource.

    While the change is open, no other retriever can change the collection.
    """

    def __init__(self, change: SharedChange) -> None:
        self._change = change

    def documents(self, after: str, count: int) -> Sequence[EncodedDocument]:
        return self._change.documents(after, count)
