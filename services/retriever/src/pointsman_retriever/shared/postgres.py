"""Runs transactions on a PostgreSQL server over a pool of connections, and converts the server's errors to
PointsmanErrors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pointsman_servicekit.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PointsmanError,
    ResourceExhausted,
    Unavailable,
)

from pointsman_retriever.postgres_client import (
    PostgresConnector,
    PostgresError,
    PostgresFailure,
    close,
    withholding_values,
)
from pointsman_retriever.shared.stores import SharedStoreOptions

SETTINGS = (
    "SET hnsw.ef_search = 200",
    "SET hnsw.iterative_scan = strict_order",  # goes on if deleted or filtered rows were among the nearest
    "SET client_min_messages = warning",
    "SET jit = off",  # compiling takes longer than any search
    # A change locks its collection. If its retriever's machine is lost or stopped, the server ends the change.
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = 30000",  # in milliseconds; for a machine that is lost while the server sends to it
    "SET idle_in_transaction_session_timeout = '10min'",  # at its end, a move builds a collection's index in a change
)
SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"

UNDEFINED_TABLE = "42P01"

_UPDATE = "pgvector is missing or older than 0.8; update it, and run ALTER EXTENSION vector UPDATE"
_UNUSABLE = {  # SQLSTATE of errors that a retry does not cure
    "42602": _UPDATE,  # a setting that it does not know
    "42704": _UPDATE,
    "42501": "its user lacks a permission; grant it, or name another user in the URL",
    "28P01": "the password is wrong",
    "28000": "the user may not connect",
    "3D000": "there is no such database",
}
_READ_ONLY, _DISK_FULL = "25006", "53100"  # searches go on
_NUL_STATES = ("22021", "22P05")
_BUSY_STATES = ("40001", "40P01", "55P03", "57014")  # conflicts, and timeouts that the server reports
_AWAY_CLASSES = ("08", "25", "53", "57", "58")  # of errors of the connection and of the server as a whole


class PostgresConnections:
    """A pool of connections to a PostgreSQL server. Any thread may begin a transaction; each has its own connection."""

    def __init__(self, options: SharedStoreOptions) -> None:
        """Takes the URL, the password and the timeout from `options`. Raises FailedPrecondition ("store_unusable") if
        the URL cannot be used.
        """
        self._connector = PostgresConnector(options.url, options.token, options.timeout_seconds, SETTINGS)

    @contextmanager
    def transaction(self, setting: str = "") -> Iterator[Any]:
        """Yields a cursor in a transaction, which is committed if the block ends without an error.

        `setting` is an SQL statement that is executed first; empty: none. After an error of the connection, all idle
        connections are closed, because the server may have restarted. Raises Unavailable ("store_unavailable") if the
        server fails or does not answer, ("store_read_only") if it cannot write, and ("collection_busy") if it ends a
        statement that waits or takes too long; ResourceExhausted ("disk_full"); FailedPrecondition ("store_unusable")
        if it rejects a statement for a reason that lasts; InvalidArgument ("nul_character"); NotFound
        ("unknown_collection") if a table is missing; and Internal ("store_failed") for any other error. No error quotes
        the statement's parameters.
        """
        try:
            with withholding_values(), self._transaction(setting) as cursor:
                yield cursor
        except PostgresFailure as error:
            raise _to_error(error) from error

    @contextmanager
    def _transaction(self, setting: str) -> Iterator[Any]:
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
        except BaseException:
            close(connection)
            self.close()
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


def _to_error(error: PostgresFailure) -> PointsmanError:
    state = error.state
    if state in _UNUSABLE:
        return FailedPrecondition(f"PostgreSQL: {error}; {_UNUSABLE[state]}", code="store_unusable")
    if state in _NUL_STATES:
        return InvalidArgument("PostgreSQL stores no NUL character; leave it out of the text", code="nul_character")
    if state == _READ_ONLY:
        return Unavailable(f"PostgreSQL is read-only: {error}", code="store_read_only", retry_after=5.0)
    if state == _DISK_FULL:
        return ResourceExhausted(f"PostgreSQL's disk is full: {error}", code="disk_full", retry_after=60.0)
    if state == UNDEFINED_TABLE:
        return NotFound(f"PostgreSQL: {error}; another retriever has deleted the collection", code="unknown_collection")
    if state in _BUSY_STATES:
        return Unavailable(f"PostgreSQL: {error}; try again", code="collection_busy", retry_after=1.0)
    if not state or state.startswith(_AWAY_CLASSES):
        return Unavailable(f"PostgreSQL failed: {error}", code="store_unavailable", retry_after=1.0)
    return Internal(f"PostgreSQL failed: {error}", code="store_failed")
