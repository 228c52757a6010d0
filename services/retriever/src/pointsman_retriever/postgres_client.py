"""Connects to PostgreSQL by URL, and keeps idle connections. Used for users' own tables and for shared collections."""

import select
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pointsman_servicekit.errors import FailedPrecondition

try:
    import pg8000.dbapi as postgres
except ImportError as error:
    raise ImportError("PostgreSQL's client is not installed: pip install 'pointsman-retriever[pgvector]'") from error

PostgresError: type[Exception] = postgres.Error
"""Base class of the errors of the library pg8000. The first argument of an error from the server is a dict with the
keys "C" (SQLSTATE) and "M" (message).
"""
MAX_IDLE_CONNECTIONS = 8
CONNECT_SECONDS = 5.0
"""Maximum seconds for each step of opening a connection. A server that can be reached answers within milliseconds."""
GRACE_SECONDS = 1.0
"""Seconds for which the client waits longer than the timeout of a statement, so that a working server can report the
timeout itself.
"""
CLOSE_SECONDS = 0.2
DEFAULT_PORT = 5432
SCHEMES = ("postgresql", "postgres")
PLAIN, ENCRYPTED = ("", "disable"), ("require", "verify-ca", "verify-full")
"""Values of the URL's parameter `sslmode` without and with TLS. With each value in ENCRYPTED, the server's certificate
and its name are checked.
"""

_QUOTES_NO_VALUES = (
    "08", "0A", "25", "28", "3D", "3F", "40", "42501", "42602", "42703", "42704", "42883", "42P", "53", "54", "55",
    "57", "58",
)  # fmt: skip
"""Starts of the SQLSTATEs whose messages name only objects, users and limits. Other messages may quote a value."""


class PostgresFailure(Exception):
    """An error of PostgreSQL or of the connection. Its message does not contain the values in the failed statement.

    `state` is the SQLSTATE; it is empty if the server did not report the error itself.
    """

    def __init__(self, message: str, state: str = "") -> None:
        super().__init__(message)
        self.state = state


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """The parts of a URL such as postgresql://USER@HOST:PORT/DATABASE?sslmode=verify-full."""

    host: str
    port: int
    user: str
    database: str | None
    is_encrypted: bool


class PostgresConnector:
    """Makes connections to one server, and keeps up to `MAX_IDLE_CONNECTIONS` for later use. Safe for threads."""

    def __init__(
        self, url: str, password: str, timeout_seconds: float, settings: Sequence[str], *, autocommit: bool = False
    ) -> None:
        """Takes the server's `url` and `password`. `settings` are SQL statements that are executed on each new
        connection. With `autocommit`, each statement is a transaction of its own.

        `timeout_seconds` limits each statement and each wait for the network; CONNECT_SECONDS limits the opening of a
        connection, too. Raises FailedPrecondition ("store_unusable") if the URL cannot be used.
        """
        self._address = parse_url(url)
        self._password, self._timeout = password, timeout_seconds
        self._settings = (*settings, f"SET statement_timeout = {round(timeout_seconds * 1000)}")
        self._autocommit = autocommit
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    def take(self) -> Any:
        """Returns an idle connection that the server has not closed or, if there is none, a new one.

        Raises pg8000's errors and OSError.
        """
        while (connection := self._take_idle()) is not None:
            if _is_open(connection):
                return connection
            close(connection)
        return self._connect()

    def give_back(self, connection: Any) -> None:
        """Keeps a connection that is in no transaction for later use, or closes it if enough are kept."""
        with self._lock:
            if len(self._idle) < MAX_IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        close(connection)

    def close_idle(self) -> None:
        """Closes the idle connections: at shutdown, and after an error, because the server may have restarted."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            close(connection)

    def _take_idle(self) -> Any:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _connect(self) -> Any:
        # The client sends a query and its vector in several parts; without TCP_NODELAY, each waits for 40 ms.
        limit = min(self._timeout, CONNECT_SECONDS)
        sock = socket.create_connection((self._address.host, self._address.port), limit)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            connection = postgres.connect(
                user=self._address.user,
                password=self._password or None,
                host=self._address.host,
                sock=sock,
                database=self._address.database,
                ssl_context=ssl.create_default_context() if self._address.is_encrypted else None,
                application_name="pointsman",
            )
        except BaseException:
            sock.close()
            raise
        try:
            cursor = connection.cursor()
            for statement in self._settings:
                cursor.execute(statement)
            connection.commit()
            connection.autocommit = self._autocommit
            _socket_of(connection).settimeout(self._timeout + GRACE_SECONDS)
        except BaseException:
            close(connection)
            raise
        return connection


def parse_url(url: str) -> PostgresAddress:
    """Parses the URL of a PostgreSQL database, postgresql://USER@HOST[:PORT]/DATABASE[?sslmode=MODE].

    Raises FailedPrecondition ("store_unusable"), which says what to write, if the URL has another form.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise _unusable("has a host or a port that is not valid") from None
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise _unusable("names no server")
    if parts.password is not None:
        raise _unusable("contains a password; put it into the variable for the key or token")
    options = parse_qs(parts.query, keep_blank_values=True)
    if unknown := sorted(options.keys() - {"sslmode"}):
        raise _unusable(f"has the option {unknown[0]!r}, which is not supported; only sslmode is")
    mode = options.get("sslmode", [""])[-1]
    if mode not in (*PLAIN, *ENCRYPTED):
        raise _unusable(f"has sslmode={mode}; use disable, or one of {', '.join(ENCRYPTED)}")
    database = unquote(parts.path.lstrip("/")) or None
    return PostgresAddress(
        parts.hostname, port, unquote(parts.username or "postgres"), database, is_encrypted=mode in ENCRYPTED
    )


def close(connection: Any) -> None:
    """Closes a connection, which may be broken or closed already, without waiting for the server."""
    with suppress(AttributeError, OSError, PostgresError):
        _socket_of(connection).settimeout(CLOSE_SECONDS)
    with suppress(AttributeError, OSError, PostgresError):
        connection.close()


@contextmanager
def withholding_values() -> Iterator[None]:
    """Converts errors of PostgreSQL and of the connection in the block to PostgresFailure.

    PostgreSQL's own errors quote parameters and rows, and so texts of documents and queries. The original errors are
    not kept as causes, so that no log can show their texts.
    """
    try:
        yield
    except (PostgresError, OSError) as error:
        raise _to_failure(error) from None


def _to_failure(error: Exception) -> PostgresFailure:
    if error.args and isinstance(error.args[0], dict):
        state = str(error.args[0].get("C", ""))
        if state.startswith(_QUOTES_NO_VALUES):
            return PostgresFailure(str(error.args[0].get("M", "")), state)
        return PostgresFailure(f"it refused a statement (SQLSTATE {state}); the server's log says why", state)
    if isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError):
        return PostgresFailure("it did not answer in time")
    return PostgresFailure(str(error.__cause__ or error))


def _is_open(connection: Any) -> bool:
    """Returns whether an idle connection still is open: a server that closes it or shuts down sends something first."""
    poll = select.poll()
    try:
        poll.register(_socket_of(connection), select.POLLIN)
        return not poll.poll(0)
    except (TypeError, ValueError, OSError):  # it is closed
        return False


def _socket_of(connection: Any) -> Any:
    return connection._usock  # the client has no public way to its socket, which TLS has replaced


def _unusable(problem: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the URL of PostgreSQL {problem}: write postgresql://USER@HOST:PORT/DATABASE?sslmode=verify-full",
        code="store_unusable",
    )
