"""The tables of a collection's file."""

import sqlite3

from pointsman_servicekit.errors import FailedPrecondition

VERSION = 2

_TABLES = """
CREATE TABLE collection (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    fingerprint TEXT NOT NULL,
    dimensions INTEGER NOT NULL,
    documents INTEGER NOT NULL DEFAULT 0,
    chunks INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,      -- of documents and vectors
    version INTEGER NOT NULL DEFAULT 0,
    checksum TEXT NOT NULL,                -- of all vectors: digests.of_vectors, in hexadecimal
    max_documents INTEGER NOT NULL DEFAULT 0,
    max_chunks INTEGER NOT NULL DEFAULT 0,
    max_bytes INTEGER NOT NULL DEFAULT 0,
    search TEXT NOT NULL DEFAULT '{}'      -- settings of the search, in JSON
) STRICT;
CREATE TABLE documents (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    digest BLOB NOT NULL,                  -- digests.of_document
    recipe TEXT NOT NULL,                  -- how its chunks were made
    bytes INTEGER NOT NULL,
    source TEXT NOT NULL                   -- the folder, or whatever else, that it is kept in step with; or ''
) STRICT;
CREATE INDEX documents_by_source ON documents (source);
CREATE TABLE metadata (
    document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (document, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX metadata_by_value ON metadata (key, value);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice, so an old id can not name a new chunk
    document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    start INTEGER NOT NULL,                -- offsets in the document's text, in characters
    end INTEGER NOT NULL,
    context TEXT NOT NULL,
    text TEXT NOT NULL,
    vector BLOB NOT NULL,                  -- float32, little-endian
    digest BLOB NOT NULL                   -- digests.of_chunk
) STRICT;
CREATE INDEX chunks_by_document ON chunks (document);
CREATE TABLE next_model (                  -- a migration to another embedding model, while it is under way
    only INTEGER PRIMARY KEY CHECK (only = 1),
    fingerprint TEXT NOT NULL,
    dimensions INTEGER NOT NULL
) STRICT;
CREATE TABLE next_chunks (
    document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    start INTEGER NOT NULL,
    end INTEGER NOT NULL,
    context TEXT NOT NULL,
    text TEXT NOT NULL,
    vector BLOB NOT NULL,
    digest BLOB NOT NULL
) STRICT;
CREATE INDEX next_chunks_by_document ON next_chunks (document);
"""


def create_tables(connection: sqlite3.Connection) -> None:
    """Makes the tables in a new file, in one transaction."""
    connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")


def check_schema(connection: sqlite3.Connection) -> None:
    """Raises FailedPrecondition for a file of another release, or of another program."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found != VERSION:
        raise FailedPrecondition(
            f"the collection's file has schema version {found}, and this release reads version {VERSION}; use the "
            "release that wrote it, or start with an empty folder and ingest again",
            code="unknown_schema_version",
        )
    if outline(connection) != _outline_of_ours():
        raise FailedPrecondition(
            "the file has other tables than a collection's; it was not written by this retriever",
            code="not_a_collection",
        )


def outline(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """All tables, indexes, views and triggers, as they were declared."""
    rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name").fetchall()
    return [row for row in rows if not row[1].startswith("sqlite_stat")]


def _outline_of_ours() -> list[tuple[str, str, str]]:
    memory = sqlite3.connect(":memory:", isolation_level=None)
    try:
        create_tables(memory)
        return outline(memory)
    finally:
        memory.close()
