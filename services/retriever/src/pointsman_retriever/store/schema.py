"""The tables. Words are searched in a table for each collection, for BM25 counts the words of its whole table."""

import sqlite3

from pointsman_servicekit.errors import FailedPrecondition

VERSION = 1

_TABLES = """
CREATE TABLE collections (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    dimensions INTEGER NOT NULL,
    documents INTEGER NOT NULL DEFAULT 0,
    chunks INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE documents (
    row INTEGER PRIMARY KEY,
    collection INTEGER NOT NULL REFERENCES collections ON DELETE CASCADE,
    id TEXT NOT NULL,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (collection, id)
) STRICT;
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
    vector BLOB NOT NULL                   -- float32, little-endian
) STRICT;
CREATE INDEX chunks_by_document ON chunks (document);
"""


def make_or_check(connection: sqlite3.Connection) -> None:
    """Makes the tables in a new file, in one transaction; refuses a file of another version of ours."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    elif found != VERSION:
        raise FailedPrecondition(
            f"the retriever's data has schema version {found}, and this release reads version {VERSION}; use the "
            "release that wrote it, or start with an empty folder and ingest again",
            code="unknown_schema_version",
        )


def words_table(collection: int) -> str:
    return f"words_{collection:d}"


def make_words(connection: sqlite3.Connection, collection: int) -> None:
    connection.execute(
        f"CREATE VIRTUAL TABLE {words_table(collection)} "
        "USING fts5(text, tokenize = 'porter unicode61 remove_diacritics 2')"
    )


def drop_words(connection: sqlite3.Connection, collection: int) -> None:
    connection.execute(f"DROP TABLE {words_table(collection)}")
