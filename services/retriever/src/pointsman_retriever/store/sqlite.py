"""A collection's store: its documents, chunks and vectors in one SQLite file, the one source of truth."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from pointsman_servicekit.sketches import Sketch, sketch_of

from pointsman_retriever import digests
from pointsman_retriever.domain import Chunk, CollectionId, CollectionInfo, Document, IndexedChunks, Quota, Vectors
from pointsman_retriever.store import looking, schema
from pointsman_retriever.store.change import Transaction
from pointsman_retriever.store.connections import Connections, translate_errors
from pointsman_retriever.store.folders import STORE_FILE, sync_folder
from pointsman_retriever.store.looking import ReadTransaction

_COLLECTION = (
    "fingerprint, dimensions, documents, chunks, bytes, version, checksum, max_documents, max_chunks, max_bytes, search"
)
CHECKPOINT_BYTES = 16 * 1024 * 1024


class Store:
    """Reads from any thread; changes (`changing`, `configure`) from one thread at a time."""

    def __init__(
        self, collection: CollectionId, folder: Path, readers: int, checkpoint_bytes: int = CHECKPOINT_BYTES
    ) -> None:
        """Opens what `make` has made; raises FailedPrecondition, Unavailable or Internal where it cannot be read."""
        self.id = collection
        self.folder = folder
        self._checkpoint_bytes = checkpoint_bytes
        self.connections = Connections(folder / STORE_FILE, readers)
        try:
            with self.connections.reading() as reader:
                schema.check_schema(reader)
        except BaseException:
            self.connections.close()
            raise

    def close(self) -> None:
        self.connections.close()

    def checkpoint(self) -> None:
        """Brings the log into the file where it has grown; nobody waits for it."""
        if self.connections.log_bytes() > self._checkpoint_bytes:
            self.connections.checkpoint()

    def collection(self) -> CollectionInfo:
        with self.connections.reading() as reader:
            return read_collection(reader, self.id)

    @contextmanager
    def changing(self) -> Iterator[Transaction]:
        with self.connections.transaction() as writer:
            yield Transaction(writer, read_collection(writer, self.id))

    def configure(self, quota: Quota) -> CollectionInfo:
        with self.connections.transaction() as writer:
            writer.execute(
                "UPDATE collection SET max_documents = ?, max_chunks = ?, max_bytes = ?",
                (quota.documents, quota.chunks, quota.bytes),
            )
            writer.execute("COMMIT")
            return read_collection(writer, self.id)

    def set_search(self, settings: str) -> CollectionInfo:
        """`settings` are JSON: what a search uses where a query does not say."""
        with self.connections.transaction() as writer:
            writer.execute("UPDATE collection SET search = ?", (settings,))
            writer.execute("COMMIT")
            return read_collection(writer, self.id)

    def entries(self) -> Iterator[IndexedChunks]:
        """All chunks, in batches, ascending by id, as they are at one moment."""
        with self.connections.reading() as reader:
            yield from looking.read_all_chunks(reader)

    def unchanged(self, documents: Sequence[Document], recipes: Sequence[str], source: str) -> set[str]:
        """The ids of those that are in the collection just so, made by this recipe, and kept for this source."""
        found = set()
        with self.connections.reading() as reader:
            for document, recipe in zip(documents, recipes, strict=True):
                digest = digests.hash_document(document.title, document.text, document.metadata)
                row = reader.execute(
                    "SELECT row FROM documents WHERE id = ? AND digest = ? AND recipe = ? AND source = ?",
                    (document.id, digest, recipe, source),
                ).fetchone()
                if row:
                    found.add(document.id)
        return found

    def known_vectors(self, document_id: str) -> Mapping[str, Vectors]:
        """The vectors of a document's chunks by the text that was embedded."""
        with self.connections.reading() as reader:
            rows = reader.execute(
                "SELECT context, chunks.text, vector FROM documents JOIN chunks ON document = row "
                "WHERE documents.id = ?",
                (document_id,),
            ).fetchall()
        return {
            Chunk(text, 0, 0, context).in_context: np.frombuffer(vector, "<f4").astype(np.float32)
            for context, text, vector in rows
        }

    def ids_of(self, source: str) -> list[str]:
        """The documents that are kept in step with a source."""
        with self.connections.reading() as reader:
            return [found for (found,) in reader.execute("SELECT id FROM documents WHERE source = ?", (source,))]

    def sketch(self) -> tuple[int, Sketch]:
        """The version, and what documents there are."""
        with self.connections.reading() as reader:
            reader.execute("BEGIN")
            (version,) = reader.execute("SELECT version FROM collection").fetchone()
            return version, sketch_of(reader.execute("SELECT id, digest FROM documents"))

    @contextmanager
    def looking(self) -> Iterator[ReadTransaction]:
        """The collection as it is now, whatever is written meanwhile."""
        with self.connections.reading() as reader:
            reader.execute("BEGIN")
            (version,) = reader.execute("SELECT version FROM collection").fetchone()
            yield ReadTransaction(reader, version)


def create_store(folder: Path, collection: CollectionInfo) -> None:
    """Makes the file of an empty collection in an empty folder, whole on the disk when this returns."""
    file = folder / STORE_FILE
    with translate_errors(file), closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA page_size = 8192")  # four vectors a page
        schema.create_tables(connection)
        connection.execute(
            "INSERT INTO collection (only, fingerprint, dimensions, checksum, max_documents, max_chunks, max_bytes) "
            "VALUES (1, ?, ?, ?, ?, ?, ?)",
            (
                collection.fingerprint,
                collection.dimensions,
                f"{0:016x}",
                collection.quota.documents,
                collection.quota.chunks,
                collection.quota.bytes,
            ),
        )
    sync_folder(folder)


def read_collection(connection: sqlite3.Connection, collection: CollectionId) -> CollectionInfo:
    row = connection.execute(f"SELECT {_COLLECTION} FROM collection").fetchone()
    fingerprint, dimensions, documents, chunks, size, version, checksum, *quota, search = row
    return CollectionInfo(
        name=collection.name,
        fingerprint=fingerprint,
        dimensions=dimensions,
        documents=documents,
        chunks=chunks,
        version=version,
        tenant=collection.tenant,
        bytes=size,
        checksum=int(checksum, 16),
        quota=Quota(*quota),
        search=search,
    )
