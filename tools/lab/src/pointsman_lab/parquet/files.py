"""Runs queries over the exporter's Parquet files, by DuckDB within a limit of memory.

A query sees every column in `COLUMNS`, also if all files are older than the column.
"""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import duckdb
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument

VERSION = "1"
"""The newest version of the tables that is read; `pointsman_gateway.export.tables` writes it."""
VERSION_KEY = "pointsman.tables"
MEMORY_LIMIT = "1200MB"
"""The memory that DuckDB may use; data that does not fit is written to its temporary folder."""
ROWS_AT_ONCE = 1000

_SCORES = {
    "id": "VARCHAR", "time": "TIMESTAMPTZ", "day": "DATE", "of": "VARCHAR", "task": "VARCHAR", "path": "VARCHAR",
    "fingerprint": "VARCHAR", "version": "VARCHAR", "rows": "BIGINT", "score": "DOUBLE",
}  # fmt: skip
COLUMNS = {
    "decisions": {
        "id": "VARCHAR", "time": "TIMESTAMPTZ", "tenant": "VARCHAR", "day": "DATE", "kind": "VARCHAR",
        "path": "VARCHAR", "outcome": "VARCHAR", "escalated_from": "VARCHAR", "cached": "VARCHAR", "text": "VARCHAR",
        "evidence_key": "VARCHAR", "cost_usd": "DOUBLE", "seconds": "DOUBLE", "entry": "VARCHAR",
    },
    "undecided": {"id": "VARCHAR", "time": "TIMESTAMPTZ", "day": "DATE", "entry": "VARCHAR"},
    "feedback": {
        "id": "VARCHAR", "time": "TIMESTAMPTZ", "day": "DATE", "tenant": "VARCHAR", "decision": "VARCHAR",
        "rating": "DOUBLE", "right_task": "VARCHAR", "entry": "VARCHAR",
    },
    "scores": _SCORES,
    "evaluations": _SCORES,
    "audit": {"id": "VARCHAR", "time": "TIMESTAMPTZ", "day": "DATE", "kind": "VARCHAR", "entry": "VARCHAR"},
}  # fmt: skip
"""The columns that are read, by table; `day` and `tenant` are in the files' paths."""
WITHOUT_TENANT = frozenset({"audit"})
NAMES = {"audit": "administrative changes"}
"""Descriptions of tables for messages, for tables whose own name does not say what they have."""
_DAY = re.compile(r"(?:^|/)day=(\d{4}-\d{2}-\d{2})(?:/|$)")


class RecordFiles:
    """The exported Parquet files below a folder or URL, in which DuckDB runs SQL queries.

    Each method raises FailedPrecondition ("unreadable_records") if the files cannot be read, or were written by a
    version of the exporter with other tables.
    """

    def __init__(
        self,
        location: str,
        needed: str = "decisions",
        memory_limit: str = MEMORY_LIMIT,
        checked: Collection[str] = tuple(COLUMNS),
    ) -> None:
        """Opens the exported records in `location`, a folder or a URL of an object store.

        For the tables in `checked`, the version of the newest day's files is checked now, and the version of another
        day's files when `table` is called for the day. Raises InvalidArgument ("bad_records") if there is no day of the
        table `needed`.
        """
        self._location = location.removeprefix("file://").rstrip("/")
        self._connection = duckdb.connect(config={"memory_limit": memory_limit, "preserve_insertion_order": False})
        self._connection.execute("SET TimeZone = 'UTC'")
        self._store: Any = None
        """The object store as a file system of fsspec; None if the records are in a folder."""
        self._checked: set[str] = set()
        """The files, as `_files` names them, whose version was checked."""
        if "://" in self._location:
            self._register_store()
        for table, columns in COLUMNS.items():
            names = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
            self._connection.execute(f"CREATE TABLE no_{table} ({names})")
        if not self.listed_days(needed):
            raise InvalidArgument(
                f"there are no exported {NAMES.get(needed, needed)} in {location}: use the POINTSMAN_EXPORT_TARGET "
                "of an exporter",
                code="bad_records",
            )
        for table in checked:
            if days := self.days(table):
                self._check_version(days[-1], self._files(table, days[-1]))

    def close(self) -> None:
        self._connection.close()

    def days(self, table: str, tenant: str = "") -> list[str]:
        """Returns the UTC days (YYYY-MM-DD) for which there are files of `table`, such as "decisions", oldest first.

        If `tenant` is not empty, only files of this tenant count.
        """
        with self._reading():
            files = self._files(table, tenant=tenant)
            found = self._connection.execute("SELECT file FROM glob(?)", [files]).fetchall()
        return sorted({match[1] for (file,) in found if (match := _DAY.search(str(file)))})

    def listed_days(self, table: str) -> list[str]:
        """Returns the UTC days (YYYY-MM-DD) for which `table` has a folder, oldest first; the folder may be empty.

        It lists one folder only and is therefore faster than `days`, which looks for files in the folder of each day.
        """
        with self._reading():
            try:
                folder = f"{self._location}/{table}"
                names = os.listdir(folder) if self._store is None else self._store.ls(folder, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted({match[1] for name in names if (match := _DAY.search(str(name)))})

    def query(self, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yields the rows of a SQL query over exported records; `values` fill its placeholders.

        Write the result of the method `table` for the tables in the query.
        """
        with self._reading():
            cursor = self._connection.cursor().execute(sql, values)
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                yield from rows

    def table(self, name: str, day: str = "", tenant: str = "") -> str:
        """Returns the SQL to write after FROM in a query for the table `name`; ids may occur repeatedly.

        If a UTC `day` (YYYY-MM-DD) or a `tenant` is given, only its files are read.
        """
        files = self._files(name, day, tenant)
        if not self._count(files):
            return f"no_{name}"
        if day:
            self._check_version(day, files)
        names = ", ".join(f'"{column}"' for column in COLUMNS[name])
        partitions = "'day': DATE" if name in WITHOUT_TENANT else "'day': DATE, 'tenant': VARCHAR"
        options = f"hive_partitioning = true, hive_types = {{{partitions}}}, union_by_name = true"
        files = files.replace("'", "''")
        return (
            f"(SELECT {names} FROM (SELECT * FROM no_{name} UNION ALL BY NAME "
            f"SELECT * FROM read_parquet('{files}', {options})))"
        )

    def _files(self, table: str, day: str = "", tenant: str = "") -> str:
        tenants = "" if table in WITHOUT_TENANT else f"tenant={tenant or '*'}/"
        return f"{self._location}/{table}/day={day or '*'}/{tenants}*.parquet"

    def _register_store(self) -> None:
        import fsspec

        try:
            self._store, _ = fsspec.core.url_to_fs(self._location, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise InvalidArgument(f"{self._location} cannot be opened: {error}", code="bad_records") from error
        self._connection.register_filesystem(self._store)

    def _count(self, files: str) -> int:
        ((count,),) = self.query("SELECT count(*) FROM glob(?)", [files])
        return int(count)

    def _check_version(self, day: str, files: str) -> None:
        if files in self._checked:
            return
        self._checked.add(files)
        sql = "SELECT DISTINCT value::VARCHAR FROM parquet_kv_metadata(?) WHERE key::VARCHAR = ?"
        for (version,) in self.query(sql, [files, VERSION_KEY]):
            if version != VERSION:
                raise FailedPrecondition(
                    f"the files of {day} in {self._location} have version {version} of the tables, and this Pointsman "
                    f"reads version {VERSION}: use the version that exported them",
                    code="unreadable_records",
                )

    def _reading(self) -> AbstractContextManager[None]:
        return _reading(self._location)


@contextmanager
def _reading(location: str) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, OSError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FailedPrecondition(
            f"the records in {location} cannot be read: {why}", code="unreadable_records"
        ) from error
