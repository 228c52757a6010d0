"""Searches a user's PostgreSQL table: by its pgvector column, if it has one, and by words with PostgreSQL's full-text
search.
"""

import json
from collections.abc import Sequence
from typing import Any

from pointsman_retriever.domain import Vectors
from pointsman_retriever.external.stores import ExternalOptions, Hit, Layout, require_fields
from pointsman_retriever.postgres_client import PostgresConnector, close, withholding_values

READ_ONLY = "SET default_transaction_read_only = on"

_COLUMNS = (
    "SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
    "JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped"
)
_PRIMARY_KEY = (
    "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) "
    "WHERE i.indrelid = %s::regclass AND i.indisprimary"
)


class PgvectorTable:
    """A table of PostgreSQL, over read-only connections; implements ExternalStore."""

    def __init__(self, options: ExternalOptions) -> None:
        self._options = options
        self._connector = PostgresConnector(
            options.url, options.key, options.timeout_seconds, [READ_ONLY], autocommit=True
        )
        self._key = "ctid"
        schema, _, table = options.name.rpartition(".")
        self._schema, self._table = schema or "public", table
        self._vector = options.fields.vector or ""
        self._read = ", ".join(map(_quoted, options.fields.read))
        self._from = f"{_quoted(self._schema)}.{_quoted(self._table)}"

    def read_layout(self) -> Layout:
        types = dict(self._run(_COLUMNS, (self._schema, self._table)))
        where = f"table {self._schema}.{self._table}"
        if not types:
            raise LookupError(f"PostgreSQL has no {where}, or its user may not read it")
        vectors = [name for name, kind in types.items() if kind.startswith(("vector", "halfvec"))]
        wanted = self._options.fields.vector
        require_fields([*self._options.fields.read, *([wanted] if wanted else [])], list(types), where)
        if not wanted and len(vectors) > 1:
            raise LookupError(f"{where} has the vectors {', '.join(vectors)}; name one as fields.vector")
        self._vector = wanted or "".join(vectors)
        keys = self._run(_PRIMARY_KEY, (self._from,))
        self._key = _quoted(keys[0][0]) if len(keys) == 1 else "ctid"
        kind = types.get(self._vector, "")
        if self._vector and self._vector not in vectors:
            raise LookupError(f"column '{self._vector}' of {where} is {kind}, not a vector")
        ((rows,),) = self._run(f"SELECT count(*) FROM {self._from}", ())
        return Layout(self._dimensions(kind), has_words=True, documents=rows)

    def _dimensions(self, kind: str) -> int:
        """Returns the dimensions by the vector column's type, such as vector(384), or else by a row's vector.

        Returns 0 if there is no vector column, or no row with a vector.
        """
        if not self._vector:
            return 0
        if "(" in kind:
            return int(kind.partition("(")[2].rstrip(")"))
        column = _quoted(self._vector)
        found = self._run(f"SELECT vector_dims({column}) FROM {self._from} WHERE {column} IS NOT NULL LIMIT 1", ())
        return int(found[0][0]) if found else 0

    def by_meaning(self, vector: Vectors, count: int) -> Sequence[Hit]:
        column, text = _quoted(self._vector), json.dumps(vector.tolist())
        return self._hits(
            f"SELECT {self._key}::text, 1 - ({column} <=> %s::vector), {self._read} FROM {self._from} "
            f"WHERE {column} IS NOT NULL ORDER BY {column} <=> %s::vector LIMIT %s",
            (text, text, count),
        )

    def by_words(self, text: str, count: int) -> Sequence[Hit]:
        words = f"to_tsvector('english', coalesce({_quoted(self._options.fields.text)}, ''))"
        return self._hits(
            "WITH asked AS (SELECT replace(plainto_tsquery('english', %s)::text, '&', '|')::tsquery AS query) "
            f"SELECT {self._key}::text, ts_rank_cd({words}, query), {self._read} FROM {self._from}, asked "
            f"WHERE {words} @@ query ORDER BY 2 DESC LIMIT %s",
            (text, count),
        )

    def _hits(self, query: str, parameters: Sequence[Any]) -> list[Hit]:
        names = self._options.fields.read
        return [
            Hit(row[0], dict(zip(names, row[2:], strict=True)), float(row[1])) for row in self._run(query, parameters)
        ]

    def _run(self, query: str, parameters: Sequence[Any]) -> list[Any]:
        with withholding_values():
            return self._fetch(query, parameters)

    def _fetch(self, query: str, parameters: Sequence[Any]) -> list[Any]:
        connection = self._connector.take()
        try:
            cursor = connection.cursor()
            cursor.execute(query, parameters)
            rows: list[Any] = list(cursor.fetchall())
        except BaseException:
            close(connection)
            self.close()
            raise
        self._connector.give_back(connection)
        return rows

    def close(self) -> None:
        self._connector.close_idle()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
