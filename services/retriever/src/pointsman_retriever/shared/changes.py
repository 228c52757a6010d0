"""Adds and removes documents in a shared store, and updates the collection's counts, quota and checksum with them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pointsman_servicekit.errors import InvalidArgument, ResourceExhausted

from pointsman_retriever import digests
from pointsman_retriever.domain import CollectionId, CollectionInfo, EncodedDocument, Quota
from pointsman_retriever.shared.stores import DocumentRecord, SharedChange, SharedStore


def checksum_document(document_id: str, vectors: bytes) -> int:
    """Returns a 63-bit checksum of a document's id and the bytes of its vectors.

    A collection's checksum is the XOR of the checksums of all its documents.
    """
    digest = hashlib.blake2b(vectors, digest_size=8)
    digest.update(document_id.encode())
    return int.from_bytes(digest.digest(), "little") >> 1


def has_nul(encoded: EncodedDocument) -> bool:
    """Returns whether a text of a document has a NUL character, so that the shared store cannot keep the document."""
    document = encoded.document
    texts = (document.id, document.title, document.text, *document.metadata, *document.metadata.values())
    return any("\0" in text for text in (*texts, encoded.source))


def to_record(encoded: EncodedDocument) -> DocumentRecord:
    document = encoded.document
    return DocumentRecord(
        digest=digests.hash_document(document.title, document.text, document.metadata),
        recipe=encoded.recipe,
        source=encoded.source,
        bytes=encoded.bytes,
        chunks=len(encoded.chunks),
        checksum=checksum_document(document.id, encoded.vectors.astype("<f4").tobytes()),
    )


@dataclass(slots=True)
class ChangeStep:
    """One caller's change of a collection in the shared store. It is collected, and written together with the changes
    of other callers.

    It has the same methods as Change, which changes a collection on disk. `before` is the collection's state before
    this change.
    """

    before: CollectionInfo
    _change: SharedChange
    _earlier: dict[str, EncodedDocument | None]  # what earlier steps of this change put, or None for removed documents
    unchanged: int = 0
    changed: dict[str, EncodedDocument | None] = field(default_factory=dict)
    replaced: list[DocumentRecord] = field(default_factory=list)
    added: list[DocumentRecord] = field(default_factory=list)

    def put(self, encoded: EncodedDocument) -> int:
        """Adds a document, or replaces the document with the same id; returns the number of new chunks.

        If the document is already stored with equal content, vectors and source, nothing is written, and 0 is returned.
        If a document is replaced, all its chunks are new. Raises InvalidArgument ("nul_character") if a text of the
        document has a NUL character, which stores do not accept.
        """
        document = encoded.document
        if has_nul(encoded):
            raise InvalidArgument(
                f"document {document.id!r} has a NUL character, which the shared store cannot keep; leave it out",
                code="nul_character",
                param="documents",
            )
        stored, record = self._find(document.id), to_record(encoded)
        if stored == record:
            self.unchanged += 1
            return 0
        self._record(document.id, stored, encoded)
        self.added.append(record)
        return record.chunks

    def remove(self, document_id: str) -> bool:
        """Removes a document; returns whether it existed."""
        stored = self._find(document_id)
        if stored is None:
            return False
        self._record(document_id, stored, None)
        return True

    def info_after(self) -> CollectionInfo:
        """Returns the collection's state after this step.

        Raises ResourceExhausted ("quota_exceeded") if the collection grew above its quota.
        """
        if not self.changed:
            return self.before
        after = _count(self.before, self.replaced, self.added)
        _check_quota(self.before, after)
        return after

    def _find(self, document_id: str) -> DocumentRecord | None:
        for changes in (self.changed, self._earlier):
            if document_id in changes:
                document = changes[document_id]
                return None if document is None else to_record(document)
        return self._change.find([document_id]).get(document_id)

    def _record(self, document_id: str, stored: DocumentRecord | None, encoded: EncodedDocument | None) -> None:
        self.changed[document_id] = encoded
        if stored is not None:
            self.replaced.append(stored)


class PendingChange:
    """The changes of several callers to a collection in the shared store, which `finish` writes in one transaction."""

    def __init__(self, change: SharedChange) -> None:
        self.info = change.info
        self._change = change
        self._changed: dict[str, EncodedDocument | None] = {}

    def step(self) -> ChangeStep:
        return ChangeStep(self.info, self._change, self._changed)

    def accept(self, step: ChangeStep) -> None:
        """Adds a caller's change, after the caller has made it.

        Raises ResourceExhausted ("quota_exceeded") if the collection would exceed its quota; the change is then left
        out.
        """
        self.info = step.info_after()
        self._changed |= step.changed

    def finish(self) -> CollectionInfo:
        """Writes all accepted changes to the shared store as one new version; returns the collection's new state.

        Without changes, nothing is written, and the version stays.
        """
        before = self._change.info
        if self._changed:
            self.info = replace(self.info, version=before.version + 1)
            added = [document for document in self._changed.values() if document is not None]
            self._change.commit(list(self._changed), added, self.info)
        return self.info


def write(
    store: SharedStore, collection: CollectionId, added: Sequence[EncodedDocument], removed: Sequence[str] = ()
) -> CollectionInfo:
    """Adds or replaces the documents `added`, whose ids must differ, and removes the documents with the ids `removed`,
    in one transaction; returns the collection's new state.

    Documents that are stored with equal content, vectors and source are not written again. Raises ResourceExhausted
    ("quota_exceeded"), and what the store raises.
    """
    with store.changing(collection, added) as change:
        pending = PendingChange(change)
        step = pending.step()
        for document_id in removed:
            step.remove(document_id)
        for document in added:
            step.put(document)
        pending.accept(step)
        return pending.finish()


def _count(info: CollectionInfo, gone: Sequence[DocumentRecord], new: Sequence[DocumentRecord]) -> CollectionInfo:
    checksum = info.checksum
    for one in (*gone, *new):
        checksum ^= one.checksum
    return replace(
        info,
        documents=info.documents + len(new) - len(gone),
        chunks=info.chunks + sum(one.chunks for one in new) - sum(one.chunks for one in gone),
        bytes=info.bytes + sum(one.bytes for one in new) - sum(one.bytes for one in gone),
        version=info.version + 1,
        checksum=checksum,
    )


def _check_quota(before: CollectionInfo, after: CollectionInfo) -> None:
    for what in Quota.__dataclass_fields__:
        limit, old, new = getattr(after.quota, what), getattr(before, what), getattr(after, what)
        if limit and new > limit and new > old:
            raise ResourceExhausted(
                f"collection {str(after.id)!r} would have {new:,} {what}, and its quota is {limit:,}; delete "
                "documents, or have the quota raised",
                code="quota_exceeded",
                param=what,
            )
