"""Transactions with a PostgreSQL server over connections that are reused; converts its errors to PointsmanErrors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, PointsmanError, Unavailable

from pointsman_retriever.postgres_client import PostgresConnector, PostgresError, close
from pointsman_retriever.shared.stores import SharedStoreOptions

SETTINGS = (
    "SET hnsw.ef_search = 200",
    "SET hnsw.iterative_scan = strict_order",  # goes on if deleted or filtered rows were among the nearest
    "SET client_min_messages = warning",
    "SET jit = off",  # compiling takes longer than any search
)
SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"

_UNUSABLE = {  # SQLSTATE of errors that a retry does not cure
    "42501": "its user lacks a permission; grant it, or name another user in the URL",
    "28P01": "the password is wrong",
    "28000": "the user may not connect",
    "3D000": "there is no such database",
}
_NUL_STATES = ("22021", "22P05")


class PostgresConnections:
    """A pool of connections to a PostgreSQL server. Any thread may begin a transaction; each has its own connection."""

    def __init__(self, options: SharedStoreOptions) -> None:
        """Raises FailedPrecondition ("store_unusable") if the URL in `options` cannot be used."""
        self._connector = PostgresConnector(options.url, options.token, options.timeout_seconds, SETTINGS)

    @contextmanager
    def transaction(self, setting: str = "") -> Iterator[Any]:
        """Yields a cursor in a transaction, which is committed if the block ends without an error.

        `setting` is an SQL statement that is executed first; empty: none. After an error of the connection, all idle
        connections are closed, because the server may have restarted. Raises Unavailable ("store_unavailable") if the
        server fails, and FailedPrecondition ("store_unusable") if it rejects a statement for a reason that lasts.
        """
        connection = None
        try:
            connection = self._connector.take()
            cursor = connection.cursor()
            if setting:
                cursor.execute(setting)
            yield cursor
            connection.commit()
        except PointsmanError:
            if connection is not None:
                self._undo(connection)
            raise
        except BaseException as error:
            close(connection)
            self.close()
            if isinstance(error, PostgresError | OSError):
                raise _to_error(error) from error
            raise
        self._connector.give_back(connection)

    def close(self) -> None:
        self._connector.close_idle()

    def _undo(self, connection: Any) -> None:
        try:
            connection.rollback()
        except (PostgresError, OSError):
            close(connection)
        else:
            self._connector.give_back(connection)


def _to_error(error: Exception) -> PointsmanError:
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    message, state = details.get("M", str(error)), details.get("C", "")
    if state in _UNUSABLE:
        return FailedPrecondition(f"PostgreSQL: {message}; {_UNUSABLE[state]}", code="store_unusable")
    if state in _NUL_STATES:
        return InvalidArgument("PostgreSQL stores no NUL character; leave it out of the text", code="nul_character")
    return Unavailable(f"PostgreSQL failed: {message}", code="store_unavailable", retry_after=1.0)
