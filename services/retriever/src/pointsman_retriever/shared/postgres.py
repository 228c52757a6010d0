"""Transactions with a PostgreSQL server over connections that are reused; converts its errors to PointsmanErrors."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, PointsmanError, Unavailable

from pointsman_retriever.shared.stores import SharedStoreOptions

try:
    import pg8000.dbapi as postgres
except ImportError as error:
    raise ImportError("PostgreSQL's client is not installed: pip install 'pointsman-retriever[pgvector]'") from error

MAX_IDLE_CONNECTIONS = 8
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
        self._options = options
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    @contextmanager
    def transaction(self, setting: str = "") -> Iterator[Any]:
        """Yields a cursor in a transaction, which is committed if the block ends without an error.

        `setting` is an SQL statement that is executed first; empty: none. After an error of the connection, all idle
        connections are closed, because the server may have restarted. Raises Unavailable ("store_unavailable") if the
        server fails, and FailedPrecondition ("store_unusable") if it rejects a statement for a reason that lasts.
        """
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        try:
            connection = connection or self._connect()
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
            _close(connection)
            self.close()
            if isinstance(error, postgres.Error | OSError):
                raise _to_error(error) from error
            raise
        self._give_back(connection)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            _close(connection)

    def _undo(self, connection: Any) -> None:
        try:
            connection.rollback()
        except (postgres.Error, OSError):
            _close(connection)
        else:
            self._give_back(connection)

    def _give_back(self, connection: Any) -> None:
        with self._lock:
            if len(self._idle) < MAX_IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        _close(connection)

    def _connect(self) -> Any:
        parts = urlsplit(self._options.url)
        host = parts.hostname or "localhost"
        # The client sends a message in several parts; without TCP_NODELAY, each waits for 40 ms.
        sock = socket.create_connection((host, parts.port or 5432), self._options.timeout_seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            connection = self._log_in(sock, host)
        except BaseException:
            sock.close()
            raise
        try:
            cursor = connection.cursor()
            for statement in (*SETTINGS, f"SET statement_timeout = {round(self._options.timeout_seconds * 1000)}"):
                cursor.execute(statement)
            connection.commit()
        except BaseException:
            _close(connection)
            raise
        return connection

    def _log_in(self, sock: socket.socket, host: str) -> Any:
        parts = urlsplit(self._options.url)
        encrypted = parse_qs(parts.query).get("sslmode", [""])[0] in ("require", "verify-ca", "verify-full")
        return postgres.connect(
            user=unquote(parts.username or "postgres"),
            password=self._options.token or None,
            host=host,
            sock=sock,
            database=parts.path.lstrip("/") or None,
            ssl_context=ssl.create_default_context() if encrypted else None,
            application_name="pointsman",
        )


def _to_error(error: Exception) -> PointsmanError:
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    message, state = details.get("M", str(error)), details.get("C", "")
    if state in _UNUSABLE:
        return FailedPrecondition(f"PostgreSQL: {message}; {_UNUSABLE[state]}", code="store_unusable")
    if state in _NUL_STATES:
        return InvalidArgument("PostgreSQL stores no NUL character; leave it out of the text", code="nul_character")
    return Unavailable(f"PostgreSQL failed: {message}", code="store_unavailable", retry_after=1.0)


def _close(connection: Any) -> None:
    with suppress(AttributeError, OSError, postgres.Error):  # there is none, or it is closed already
        connection.close()
