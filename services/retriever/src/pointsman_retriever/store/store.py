"""Stores one collection on disk: documents, chunks, vectors and settings in one SQLite file. Indexes are built from
this file.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np
from pointsman_servicekit.document_sketch import Sketch, sketch_of
from pointsman_servicekit.errors import FailedPrecondition, Internal

from pointsman_retriever import digests
from pointsman_retriever.domain import (
    Chunk,
    CollectionId,
    CollectionInfo,
    Document,
    IndexedChunks,
    Quota,
    Vectors,
    parse_search_settings,
)
from pointsman_retriever.store import connections
from pointsman_retriever.store.connections import Connections, ReadTransaction
from pointsman_retriever.store.data_folder import STORE_FILE, sync_folder
from pointsman_retriever.store.errors import translate_errors
from pointsman_retriever.store.transaction import Transaction

CHECKPOINT_BYTES = 16 * 1024 * 1024

SCHEMA_VERSION = 1

_COLLECTION_COLUMNS = (
    "fingerprint, dimensions, documents, chunks, bytes, version, checksum, max_documents, max_chunks, max_bytes, search"
)
_CHECKSUM = re.compile("[0-9a-f]{16}")


class Store:
    """Reads and changes one collection's file: reads from any thread, changes from one thread at a time.

    Methods raise storage errors (`translate_errors`), and Unavailable ("collection_closed") after `close`.
    """

    def __init__(
        self, collection_id: CollectionId, folder: Path, readers: int, checkpoint_bytes: int = CHECKPOINT_BYTES
    ) -> None:
        """Opens the file that `create_store` has made in `folder`, for up to `readers` simultaneous reads.

        `checkpoint` copies the write-ahead log into the file when the log has more than `checkpoint_bytes`. Raises
        FailedPrecondition if another release or program has written the file (`check_schema`), and storage errors
        (`translate_errors`) if the file cannot be read.
        """
        self.id = collection_id
        self.folder = folder
        self._checkpoint_bytes = checkpoint_bytes
        self.connections = Connections(folder / STORE_FILE, readers)
        try:
            with self.connections.reader() as reader:
                check_schema(reader)
        except BaseException:
            self.connections.close()
            raise

    def close(self) -> None:
        self.connections.close()

    def checkpoint(self) -> None:
        """Copies SQLite's write-ahead log into the database file, if the log is larger than `checkpoint_bytes`. Reading
        transactions do not wait for this.
        """
        if self.connections.wal_bytes() > self._checkpoint_bytes:
            self.connections.checkpoint()

    def collection(self) -> CollectionInfo:
        with self.connections.reader() as reader:
            return read_collection(reader, self.id)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Yields a transaction for changes. The changes are rolled back if the block does not call the transaction's
        `commit`.
        """
        with self.connections.transaction() as writer:
            yield Transaction(writer, read_collection(writer, self.id))

    def set_quota(self, quota: Quota) -> CollectionInfo:
        with self.connections.transaction() as writer:
            writer.execute(
                "UPDATE collection SET max_documents = ?, max_chunks = ?, max_bytes = ?",
                (quota.documents, quota.chunks, quota.bytes),
            )
            writer.execute("COMMIT")
            return read_collection(writer, self.id)

    def set_search_settings(self, settings: str) -> CollectionInfo:
        """Stores search settings, the text that `serialize_search_settings` returns; returns the collection's state."""
        with self.connections.transaction() as writer:
            writer.execute("UPDATE collection SET search = ?", (settings,))
            writer.execute("COMMIT")
            return read_collection(writer, self.id)

    def raise_version(self, version: int) -> None:
        """Sets the collection's version number to `version`, unless the number is higher already."""
        with self.connections.transaction() as writer:
            writer.execute("UPDATE collection SET version = max(version, ?)", (version,))
            writer.execute("COMMIT")

    def read_all_chunks(self) -> Iterator[IndexedChunks]:
        """Yields all chunks of one version in batches, ascending by id; changes made during the read are not seen."""
        with self.connections.reader() as reader:
            reader.execute("BEGIN")
            yield from connections.read_all_chunks(reader)

    def find_unchanged(self, documents: Sequence[Document], recipes: Sequence[str], source: str) -> set[str]:
        """Returns the ids of those `documents` that are already stored with the same title, text, metadata, recipe and
        source.

        `recipes` has for each document the name and version of its chunker; `source` names the place from which the
        documents come. Vectors are not compared.
        """
        found = set()
        with self.connections.reader() as reader:
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
        """Returns the vectors of a document's stored chunks, by the text that was embedded; empty if there is no such
        document.
        """
        with self.connections.reader() as reader:
            rows = reader.execute(
                "SELECT context, chunks.text, vector FROM documents JOIN chunks ON document = row "
                "WHERE documents.id = ?",
                (document_id,),
            ).fetchall()
        return {
            Chunk(text, 0, 0, context).embedded_text: np.frombuffer(vector, "<f4").astype(np.float32)
            for context, text, vector in rows
        }

    def ids_of_source(self, source: str) -> list[str]:
        """Returns the ids of the documents of an ingest source: those whose last upload named `source`."""
        with self.connections.reader() as reader:
            return [found for (found,) in reader.execute("SELECT id FROM documents WHERE source = ?", (source,))]

    def sketch(self) -> tuple[int, Sketch]:
        """Returns the collection's version and a sketch of its documents.

        A sketch has hashes of the documents, or of a sample if there are many. Comparing two sketches of a collection
        shows how much it has changed.
        """
        with self.connections.reader() as reader:
            reader.execute("BEGIN")
            (version,) = reader.execute("SELECT version FROM collection").fetchone()
            return version, sketch_of(reader.execute("SELECT id, digest FROM documents"))

    @contextmanager
    def read_transaction(self) -> Iterator[ReadTransaction]:
        """Yields an object that reads one version of the collection; changes made during the block are not seen."""
        with self.connections.reader() as reader:
            reader.execute("BEGIN")
            (version,) = reader.execute("SELECT version FROM collection").fetchone()
            yield ReadTransaction(reader, version)


def create_store(folder: Path, collection: CollectionInfo) -> None:
    """Creates the file of an empty collection in an empty folder; when this returns, the file is on disk.

    Only the fingerprint, dimensions and quota of `collection` are stored. Raises storage errors (`translate_errors`).
    """
    file = folder / STORE_FILE
    with translate_errors(file), closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA page_size = 8192")  # holds four vectors
        create_tables(connection)
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


def read_collection(connection: sqlite3.Connection, collection_id: CollectionId) -> CollectionInfo:
    """Returns the collection's state, with the tenant and name of `collection_id`, which the file does not contain.

    Raises Internal ("collection_damaged") if the row with the state is missing, or if its checksum or search settings
    are not valid.
    """
    row = connection.execute(f"SELECT {_COLLECTION_COLUMNS} FROM collection").fetchone()
    if row is None or not _CHECKSUM.fullmatch(row[6]) or not _are_search_settings(row[-1]):
        raise Internal(
            f"collection {str(collection_id)!r} is damaged: its settings are missing or not valid; restore its last "
            "snapshot",
            code="collection_damaged",
        )
    fingerprint, dimensions, documents, chunks, size, version, checksum, *quota, search_settings = row
    return CollectionInfo(
        name=collection_id.name,
        fingerprint=fingerprint,
        dimensions=dimensions,
        documents=documents,
        chunks=chunks,
        version=version,
        tenant=collection_id.tenant,
        bytes=size,
        checksum=int(checksum, 16),
        quota=Quota(*quota),
        search_settings=search_settings,
    )


def _are_search_settings(text: str) -> bool:
    try:
        parse_search_settings(text)
    except ValueError:
        return False
    return True


def create_tables(connection: sqlite3.Connection) -> None:
    """Creates the tables of schema.sql in a new file, in one transaction."""
    declared = files(__package__).joinpath("schema.sql").read_text("utf-8")
    schema = re.sub(r" *--.*", "", declared)  # SQLite stores declarations with their comments, and they are compared
    connection.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def check_schema(connection: sqlite3.Connection) -> None:
    """Raises FailedPrecondition if a file has another schema version or other tables than this release makes.

    The codes are "unknown_schema_version" and "not_a_collection".
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found != SCHEMA_VERSION:
        raise FailedPrecondition(
            f"the collection's file has schema version {found}, and this release reads version {SCHEMA_VERSION}; use "
            "the release that wrote it, or start with an empty folder and ingest again",
            code="unknown_schema_version",
        )
    if outline(connection) != _expected_outline():
        raise FailedPrecondition(
            "the file's tables are not those of a collection; it was not written by this retriever",
            code="not_a_collection",
        )


def outline(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Returns (type, name, declaration) of all tables, indexes, views and triggers in a file.

    Leaves out the tables that SQLite's ANALYZE makes.
    """
    rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name").fetchall()
    return [row for row in rows if not row[1].startswith("sqlite_stat")]


def _expected_outline() -> list[tuple[str, str, str]]:
    memory = sqlite3.connect(":memory:", isolation_level=None)
    try:
        create_tables(memory)
        return outline(memory)
    finally:
        memory.close()
