CREATE TABLE collection (                  -- a single row
    only INTEGER PRIMARY KEY CHECK (only = 1),
    fingerprint TEXT NOT NULL,
    dimensions INTEGER NOT NULL,
    documents INTEGER NOT NULL DEFAULT 0,
    chunks INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,      -- of documents and vectors
    version INTEGER NOT NULL DEFAULT 0,
    checksum TEXT NOT NULL,                -- digests.checksum_vectors of all vectors, in hexadecimal
    max_documents INTEGER NOT NULL DEFAULT 0,
    max_chunks INTEGER NOT NULL DEFAULT 0,
    max_bytes INTEGER NOT NULL DEFAULT 0,
    search TEXT NOT NULL DEFAULT '{}'      -- a SearchSettings in JSON
) STRICT;
CREATE TABLE documents (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    digest BLOB NOT NULL,                  -- digests.hash_document
    recipe TEXT NOT NULL,                  -- name and version of the chunker
    bytes INTEGER NOT NULL,
    source TEXT NOT NULL                   -- the ingest source that it is synchronised with, or ''
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
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused, so an old id cannot name a new chunk
    document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    start INTEGER NOT NULL,                -- offsets in the document's text, in characters
    end INTEGER NOT NULL,
    context TEXT NOT NULL,
    text TEXT NOT NULL,
    vector BLOB NOT NULL,                  -- float32, little-endian
    digest BLOB NOT NULL                   -- digests.hash_chunk
) STRICT;
CREATE INDEX chunks_by_document ON chunks (document);
CREATE TABLE next_model (                  -- the target of a running migration to another embedding model
    only INTEGER PRIMARY KEY CHECK (only = 1),
    fingerprint TEXT NOT NULL,
    dimensions INTEGER NOT NULL
) STRICT;
CREATE TABLE next_chunks (                 -- the chunks that the migration has made so far
    document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    start INTEGER NOT NULL,
    end INTEGER NOT NULL,
    context TEXT NOT NULL,
    text TEXT NOT NULL,
    vector BLOB NOT NULL,
    digest BLOB NOT NULL
) STRICT;
CREATE INDEX next_chunks_by_document ON next_chunks (document);
