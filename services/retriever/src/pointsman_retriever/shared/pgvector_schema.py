"""Creates the PostgreSQL schema of a shared store, or checks that the store can use an existing schema."""

from collections.abc import Mapping, Sequence
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition

MIN_EXTENSION = (0, 8)  # the first version with iterative index scans
ENCODING = "UTF8"

OWNER_COLUMNS: Mapping[str, str] = {"installation": "text NOT NULL"}
COLLECTION_COLUMNS: Mapping[str, str] = {
    "tenant": "text",
    "name": "text",
    "number": "bigserial UNIQUE",
    "fingerprint": "text NOT NULL",
    "dimensions": "integer NOT NULL",
    "documents": "bigint NOT NULL DEFAULT 0",
    "chunks": "bigint NOT NULL DEFAULT 0",
    "bytes": "bigint NOT NULL DEFAULT 0",
    "version": "bigint NOT NULL DEFAULT 0",
    "checksum": "bigint NOT NULL DEFAULT 0",
    "words": "bigint NOT NULL DEFAULT 0",
    "max_documents": "bigint NOT NULL",
    "max_chunks": "bigint NOT NULL",
    "max_bytes": "bigint NOT NULL",
    "search": "text NOT NULL",
}
_PRIMARY_KEY = "PRIMARY KEY (tenant, name)"

_COLUMNS = (
    "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
    "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
)
_FOREIGN = (
    "SELECT c.relname, pg_get_userbyid(c.relowner) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = %s AND NOT pg_has_role(c.relowner, 'USAGE') AND c.relname = ANY(%s::text[])"
)


def claim_schema(cursor: Any, schema: str, owner: str) -> str:
    """Creates a schema and its tables for the installation `owner`, unless they exist; returns the name of the
    installation that owns them.

    Raises FailedPrecondition ("store_unusable"), with the remedy, if the extension is missing, too old or not on the
    search path, if the database has another encoding, if the user lacks a permission, or if a table has other columns.
    """
    _check_database(cursor)
    _check_permissions(cursor, schema)
    tables = {"owner": OWNER_COLUMNS, "collections": COLLECTION_COLUMNS}
    _check_owners(cursor, schema, list(tables))
    for table, columns in tables.items():
        name = f"{quoted(schema)}.{table}"
        rows = [f"{column} {definition}" for column, definition in columns.items()]
        rows += [_PRIMARY_KEY] if table == "collections" else []
        cursor.execute("SELECT to_regclass(%s) IS NULL", (name,))
        if cursor.fetchone()[0]:  # a database that is read-only would refuse IF NOT EXISTS, too
            cursor.execute(f"CREATE TABLE {name} ({', '.join(rows)})")
        _check_columns(cursor, f"{schema}.{table}", name, columns)
    cursor.execute(f"SELECT number FROM {quoted(schema)}.collections")
    numbers = [row[0] for row in cursor.fetchall()]
    _check_owners(cursor, schema, [f"chunks_{number}" for number in numbers])
    cursor.execute(f"SELECT installation FROM {quoted(schema)}.owner")
    found = cursor.fetchall()
    if not found:
        cursor.execute(f"INSERT INTO {quoted(schema)}.owner VALUES (%s)", (owner,))
    return str(found[0][0]) if found else owner


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _check_database(cursor: Any) -> None:
    cursor.execute(
        "SELECT extversion, extnamespace::regnamespace::text, to_regtype('halfvec') IS NOT NULL FROM pg_extension "
        "WHERE extname = 'vector'"
    )
    found = cursor.fetchall()
    if not found:
        raise _unusable(
            "the database has no extension pgvector; install it on the server, and let a superuser run CREATE "
            "EXTENSION vector in the database"
        )
    ((version, place, is_visible),) = found
    if tuple(map(int, version.split(".")[:2])) < MIN_EXTENSION:
        raise _unusable(
            f"pgvector is {version}, and {'.'.join(map(str, MIN_EXTENSION))} is needed; update it, and run ALTER "
            "EXTENSION vector UPDATE"
        )
    if not is_visible:
        raise _unusable(
            f"pgvector is in the schema {place}, which is not searched for types; run ALTER ROLE {_user(cursor)} SET "
            f"search_path = public, {place}"
        )
    cursor.execute("SHOW server_encoding")
    if (encoding := cursor.fetchone()[0]) != ENCODING:
        raise _unusable(
            f"the database has the encoding {encoding}, which cannot hold all texts; make one with CREATE DATABASE "
            f"... ENCODING '{ENCODING}' TEMPLATE template0"
        )


def _check_permissions(cursor: Any, schema: str) -> None:
    """Creates the schema if it is missing; checks that the user may create tables in it."""
    cursor.execute(
        "SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') FROM pg_namespace "
        "WHERE nspname = %s",
        (schema,),
    )
    name, found = quoted(schema), cursor.fetchall()
    if found and not found[0][0]:
        raise _denied(cursor, f"may not create tables in the schema {name}", f"GRANT USAGE, CREATE ON SCHEMA {name} TO")
    if not found:
        cursor.execute("SELECT has_database_privilege(current_database(), 'CREATE')")
        if not cursor.fetchone()[0]:
            what = f"may not create the schema {name}, which is missing"
            raise _denied(cursor, what, f"CREATE SCHEMA {name} AUTHORIZATION")
        cursor.execute(f"CREATE SCHEMA {name}")


def _check_owners(cursor: Any, schema: str, tables: Sequence[str]) -> None:
    """Raises FailedPrecondition if one of the tables belongs to a role whose rights the user does not have."""
    cursor.execute(_FOREIGN, (schema, list(tables)))
    if found := cursor.fetchall():
        table, role = found[0]
        what = f"may not use the table {schema}.{table} of the role {quoted(role)}"
        raise _denied(cursor, what, f"GRANT {quoted(role)} TO")


def _check_columns(cursor: Any, table: str, name: str, columns: Mapping[str, str]) -> None:
    cursor.execute(_COLUMNS, (name,))
    found = dict(cursor.fetchall())
    expected = {column: definition.split()[0].replace("serial", "int") for column, definition in columns.items()}
    for column in sorted(found.keys() | expected.keys()):
        if found.get(column) != expected.get(column):
            raise _unusable(
                f"table {table} is not one that this version can use: column {column} is "
                f"{found.get(column, 'missing')}, and {expected.get(column, 'no such column')} is expected; set "
                "POINTSMAN_RETRIEVER_SHARED_STORE_PREFIX to a schema of its own"
            )


def _denied(cursor: Any, what: str, statement: str) -> FailedPrecondition:
    user = _user(cursor)
    return _unusable(f"the user {user} {what}; let its owner or a superuser run {statement} {user}")


def _user(cursor: Any) -> str:
    cursor.execute("SELECT quote_ident(current_user)")
    return str(cursor.fetchone()[0])


def _unusable(problem: str) -> FailedPrecondition:
    return FailedPrecondition(f"PostgreSQL cannot hold shared collections: {problem}", code="store_unusable")
