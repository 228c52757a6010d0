"""Stores collections in PostgreSQL with pgvector; any number of retrievers may read and write them.

All tables are in one schema, whose name is the configured prefix: a table with the installation that owns the schema,
one with the collections and their counts, and for each collection a table of documents, one of chunks, and one with the
number of chunks that have each term. A change is one transaction that locks the collection's row, so the changes of all
retrievers are applied one after another. If a retriever is killed, PostgreSQL rolls its transaction back.

A chunk's terms, which `TermAnalyzer` finds, are stored as a tsvector: a term that occurs n times has the positions 1 to
n.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, NotFound, PointsmanError, Unavailable

from pointsman_retriever.domain import SHARED, CollectionId, CollectionInfo, EncodedDocument, Quota
from pointsman_retriever.index.term_analyzer import TermAnalyzer
from pointsman_retriever.shared.changes import to_record
from pointsman_retriever.shared.pgvector_chunks import StagedChunks
from pointsman_retriever.shared.pgvector_reader import PgvectorReader, Tables
from pointsman_retriever.shared.pgvector_schema import claim_schema, quoted
from pointsman_retriever.shared.postgres import SNAPSHOT, PostgresConnections
from pointsman_retriever.shared.sql_filters import parse_numbers, to_array
from pointsman_retriever.shared.stores import SharedStoreOptions

log = logging.getLogger(__name__)

MAX_DIMENSIONS = 4_000  # of an HNSW index of halfvec
ROWS_PER_INSERT = 500
UNLISTED = "."  # only names of unfinished copies, and of collections that are moved or deleted, have a dot
DROPPED = ".dropped"  # ends the name of a deleted collection whose tables are not dropped yet
DROP_LOCK_TIMEOUT = "300ms"  # is shorter than deadlock_timeout, so that no search or change ends because of a drop

_INFO = (
    "tenant, name, fingerprint, dimensions, documents, chunks, bytes, version, checksum, max_documents, max_chunks, "
    "max_bytes, search, number, words"
)
_DOCUMENTS = (
    'number bigserial PRIMARY KEY, id text COLLATE "C" NOT NULL UNIQUE, title text NOT NULL, text text NOT NULL, '
    "metadata jsonb NOT NULL, numbers jsonb NOT NULL, digest bytea NOT NULL, recipe text NOT NULL, "
    "source text NOT NULL, bytes bigint NOT NULL, chunks int NOT NULL, checksum bigint NOT NULL"
)
_DOCUMENT_FORM = "(%s, %s, %s, %s, %s::jsonb, %s::jsonb, %s, %s, %s, %s, %s, %s)"
_ROW_BYTES = 8_160  # rows with text, terms and vector stay on one page up to this size


class PgvectorStore:
    """Stores collections in a schema of PostgreSQL; implements SharedStore."""

    def __init__(self, options: SharedStoreOptions) -> None:
        """Creates the schema and records its owner, if the schema is missing.

        Raises FailedPrecondition if the database or the schema cannot be used ("store_unusable", `claim_schema`), or if
        another installation owns the schema ("store_owned"), and Unavailable if the database does not answer.
        """
        self._options = options
        self._schema = quoted(options.prefix)
        self._connections = PostgresConnections(options)
        self._analyzer = TermAnalyzer()
        try:
            self._claim()
        except BaseException:
            self.close()
            raise
        self._drop_tables()

    def collections(self) -> Sequence[CollectionInfo]:
        with self._connections.transaction() as cursor:
            cursor.execute(
                f"SELECT {_INFO} FROM {self._schema}.collections WHERE strpos(name, %s) = 0 ORDER BY tenant, name",
                (UNLISTED,),
            )
            return [_to_info(row) for row in cursor.fetchall()]

    def create(self, info: CollectionInfo) -> bool:
        if not 1 <= info.dimensions <= MAX_DIMENSIONS:
            raise FailedPrecondition(
                f"the embedding model makes vectors of {info.dimensions:,} dimensions, and pgvector indexes at most "
                f"{MAX_DIMENSIONS:,}; use a smaller model or another store",
                code="wrong_dimensions",
            )
        with self._connections.transaction() as cursor:
            cursor.execute(
                f"INSERT INTO {self._schema}.collections (tenant, name, fingerprint, dimensions, max_documents, "
                "max_chunks, max_bytes, search) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) "
                "ON CONFLICT DO NOTHING RETURNING number",
                (info.tenant, info.name, info.fingerprint, info.dimensions, info.quota.documents, info.quota.chunks,
                 info.quota.bytes, info.search_settings),
            )  # fmt: skip
            if not (made := cursor.fetchall()):
                return False
            tables, dimensions = Tables.of(self._schema, made[0][0]), info.dimensions
            cursor.execute(f"CREATE TABLE {tables.documents} ({_DOCUMENTS})")
            cursor.execute(
                f"CREATE TABLE {tables.chunks} (id bigserial PRIMARY KEY, document bigint NOT NULL REFERENCES "
                f"{tables.documents} ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED, start int NOT NULL, "
                '"end" int NOT NULL, context text NOT NULL, text text NOT NULL, '
                f"vector vector({dimensions}) NOT NULL, length int NOT NULL, words tsvector NOT NULL) "
                f"WITH (toast_tuple_target = {_ROW_BYTES})"
            )
            cursor.execute(f"CREATE TABLE {tables.terms} (term text PRIMARY KEY, chunks bigint NOT NULL)")
            for index in (
                f"{tables.documents} (source)",
                f"{tables.documents} USING gin (metadata jsonb_path_ops)",
                f"{tables.chunks} (document)",
                f"{tables.chunks} USING gin (words) WITH (fastupdate = off)",
                f"{tables.chunks} USING hnsw ((vector::halfvec({dimensions})) halfvec_ip_ops)",
            ):
                cursor.execute(f"CREATE INDEX ON {index}")
        return True

    def drop(self, collection: CollectionId) -> bool:
        """Deletes a collection; returns whether it existed. Its tables are dropped once no transaction uses them."""
        with self._connections.transaction() as cursor:
            # A change waits for this row while it uses the tables: to drop them here would be a deadlock.
            cursor.execute(
                f"UPDATE {self._schema}.collections SET name = number || %s::text WHERE tenant = %s AND name = %s "
                "RETURNING number",
                (DROPPED, collection.tenant, collection.name),
            )
            found = bool(cursor.fetchall())
        if found:
            self._drop_tables()
        return found

    def rename(self, collection: CollectionId, to: CollectionId, above_version: int) -> bool:
        with self._connections.transaction() as cursor:
            self._find(cursor, collection, "FOR UPDATE")
            cursor.execute(
                f"UPDATE {self._schema}.collections SET name = %s, tenant = %s, version = greatest(version, %s) + 1 "
                "WHERE tenant = %s AND name = %s AND NOT "
                f"EXISTS (SELECT 1 FROM {self._schema}.collections WHERE tenant = %s AND name = %s) RETURNING name",
                (to.name, to.tenant, above_version, collection.tenant, collection.name, to.tenant, to.name),
            )
            return bool(cursor.fetchall())

    def configure(
        self, collection: CollectionId, quota: Quota | None = None, search_settings: str | None = None
    ) -> CollectionInfo:
        with self._connections.transaction() as cursor:
            found = self._find(cursor, collection, "FOR UPDATE")
            quota = found.info.quota if quota is None else quota
            search = found.info.search_settings if search_settings is None else search_settings
            cursor.execute(
                f"UPDATE {self._schema}.collections SET max_documents = %s, max_chunks = %s, max_bytes = %s, "
                "search = %s WHERE number = %s",
                (quota.documents, quota.chunks, quota.bytes, search, found.number),
            )
            return replace(found.info, quota=quota, search_settings=search)

    @contextmanager
    def changing(
        self, collection: CollectionId, prepared: Sequence[EncodedDocument] = ()
    ) -> Iterator["PgvectorChange"]:
        """Locks a collection for a change; the change is undone if the block ends without its `commit`.

        The chunks of the documents `prepared`, which the change may add, are written before the lock, because adding
        their vectors to the index takes most of the time, and several retrievers can do that at once.
        """
        with self._connections.transaction() as cursor:
            staged = StagedChunks(cursor, self._analyzer)
            before = self._find(cursor, collection, "") if prepared else None
            if before is not None:
                staged.write_changed(Tables.of(self._schema, before.number), before.info, prepared)
            found = self._find(cursor, collection, "FOR UPDATE")
            if before is not None and found.number != before.number:
                raise Unavailable(
                    f"collection {str(collection)!r} was replaced meanwhile; send the call again",
                    code="collection_closed",
                    retry_after=1.0,
                )
            change = PgvectorChange(cursor, self, found, staged)
            yield change
            staged.discard_others(Tables.of(self._schema, found.number), change.added)

    @contextmanager
    def reading(self, collection: CollectionId) -> Iterator[PgvectorReader]:
        with self._connections.transaction(SNAPSHOT) as cursor:
            found = self._find(cursor, collection, "")
            yield PgvectorReader(cursor, Tables.of(self._schema, found.number), found.info, found.words)

    def close(self) -> None:
        self._connections.close()

    def _find(self, cursor: Any, collection: CollectionId, lock: str) -> "_Found":
        cursor.execute(
            f"SELECT {_INFO} FROM {self._schema}.collections WHERE tenant = %s AND name = %s {lock}",
            (collection.tenant, collection.name),
        )
        if not (rows := cursor.fetchall()):
            raise NotFound(
                f"there is no collection {str(collection)!r}; `pointsman ingest` or CreateCollection makes it",
                code="unknown_collection",
                param="collection",
            )
        return _Found(_to_info(rows[0]), *rows[0][-2:])

    def _drop_tables(self) -> None:
        """Drops the tables of deleted collections; leaves those that are in use to the next call."""
        try:
            with self._connections.transaction() as cursor:
                cursor.execute(
                    f"SELECT number FROM {self._schema}.collections WHERE name = number || %s::text", (DROPPED,)
                )
                numbers = [row[0] for row in cursor.fetchall()]
            for number in numbers:
                self._drop_tables_of(number)
        except PointsmanError as error:
            log.info("the tables of a deleted collection are dropped later: %s", error)

    def _drop_tables_of(self, number: int) -> None:
        with self._connections.transaction() as cursor:
            row = f"{self._schema}.collections WHERE number = %s"
            cursor.execute(f"SELECT number FROM {row} FOR UPDATE SKIP LOCKED", (number,))
            if not cursor.fetchall():
                return
            cursor.execute(f"SET LOCAL lock_timeout = '{DROP_LOCK_TIMEOUT}'")
            tables = Tables.of(self._schema, number)
            cursor.execute(f"DROP TABLE IF EXISTS {tables.chunks}, {tables.terms}, {tables.documents}")
            cursor.execute(f"DELETE FROM {row}", (number,))

    def _claim(self) -> None:
        owner = self._options.owner
        with self._connections.transaction() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"pointsman {self._options.prefix}",))
            found = claim_schema(cursor, self._options.prefix, owner)
        if found != owner:
            raise FailedPrecondition(
                f"schema {self._options.prefix!r} belongs to installation {found!r}, and this one is {owner!r}; set "
                "another prefix, or the same installation to share its collections",
                code="store_owned",
            )


@dataclass(frozen=True, slots=True)
class _Found:
    info: CollectionInfo
    number: int
    words: int


class PgvectorChange(PgvectorReader):
    """A change in a transaction that holds the lock of a collection's row; implements SharedChange."""

    def __init__(self, cursor: Any, store: PgvectorStore, found: _Found, staged: StagedChunks) -> None:
        super().__init__(cursor, Tables.of(store._schema, found.number), found.info, found.words)
        self._store = store
        self._staged = staged
        self.added: Sequence[EncodedDocument] = ()
        self._number = found.number

    def commit(self, removed: Sequence[str], added: Sequence[EncodedDocument], after: CollectionInfo) -> None:
        gone_words, gone_terms = self._delete(removed)
        new_words, new_terms = self._add(added)
        self.added = added
        new_terms.subtract(gone_terms)
        self._count_terms({term: change for term, change in new_terms.items() if change})
        self._cursor.execute(
            f"UPDATE {self._store._schema}.collections SET documents = %s, chunks = %s, bytes = %s, version = %s, "
            "checksum = %s, words = words + %s::bigint WHERE number = %s",
            (after.documents, after.chunks, after.bytes, after.version, after.checksum, new_words - gone_words,
             self._number),
        )  # fmt: skip

    def rename(self, to: CollectionId) -> None:
        self._cursor.execute(
            f"UPDATE {self._store._schema}.collections SET tenant = %s, name = %s WHERE number = %s",
            (to.tenant, to.name, self._number),
        )

    def _delete(self, ids: Sequence[str]) -> tuple[int, Mapping[str, int]]:
        """Deletes documents; returns the number of words of their chunks, and in how many chunks each term was."""
        run, tables, given = self._cursor.execute, self._tables, (to_array(ids),)
        of = (
            f"FROM {tables.chunks} WHERE document IN (SELECT number FROM {tables.documents} WHERE id = ANY(%s::text[]))"
        )
        run(f"SELECT coalesce(sum(length), 0)::bigint {of}", given)
        words = self._cursor.fetchone()[0]
        if not words:  # nearly always: the documents are new
            terms = {}
        else:
            run(f"SELECT lexeme, count(*) FROM (SELECT (unnest(words)).lexeme {of}) AS gone GROUP BY lexeme", given)
            terms = dict(self._cursor.fetchall())
        run(f"DELETE FROM {tables.documents} WHERE id = ANY(%s::text[])", given)
        return words, terms

    def _add(self, added: Sequence[EncodedDocument]) -> tuple[int, Counter[str]]:
        """Inserts documents; returns the number of words of their chunks, and in how many chunks each term is."""
        self._staged.write(self._tables, added)
        numbered = [(self._staged.number(one), one) for one in added]
        for start in range(0, len(numbered), ROWS_PER_INSERT):
            rows = [_document_row(number, one) for number, one in numbered[start : start + ROWS_PER_INSERT]]
            self._cursor.execute(
                f"INSERT INTO {self._tables.documents} (number, id, title, text, metadata, numbers, digest, recipe, "
                f"source, bytes, chunks, checksum) VALUES {', '.join([_DOCUMENT_FORM] * len(rows))}",
                tuple(value for row in rows for value in row),
            )
        return self._staged.words_and_terms(added)

    def _count_terms(self, changes: Mapping[str, int]) -> None:
        self._cursor.execute(
            f"INSERT INTO {self._tables.terms} AS stored SELECT * FROM unnest(%s::text[], %s::bigint[]) "
            "ON CONFLICT (term) DO UPDATE SET chunks = stored.chunks + excluded.chunks",
            (to_array(changes), list(changes.values())),
        )


def _document_row(number: int, encoded: EncodedDocument) -> tuple[Any, ...]:
    document, record = encoded.document, to_record(encoded)
    metadata, numbers = json.dumps(dict(document.metadata)), json.dumps(parse_numbers(document.metadata))
    return (
        *(number, document.id, document.title, document.text, metadata, numbers, record.digest, record.recipe),
        *(record.source, record.bytes, record.chunks, record.checksum),
    )


def _to_info(row: Sequence[Any]) -> CollectionInfo:
    tenant, name, fingerprint, dimensions, documents, chunks, size, version, checksum, *quota, search, _, _ = row
    return CollectionInfo(
        *(name, fingerprint, dimensions, documents, chunks, version, tenant, size, checksum, Quota(*quota), search),
        store=SHARED,
    )
